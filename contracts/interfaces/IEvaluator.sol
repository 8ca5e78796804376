// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Claim, Proof} from "../contracts/referee/Types.sol";

/// @title Recomputes one element of one operation (docs/design/disputes.md)
interface IEvaluator {
    /// @notice Whether the claimed element is right.
    /// @dev Reverts with an error of RefereeErrors where the proof does not open exactly what the element takes: such a proof
    /// says nothing about the claim.
    /// @dev Warning: it believes `claim`. Whoever asks has checked that `trace` is what the accused posted for `program`,
    /// and that `values` is the number of values of that Program.
    /// @dev Warning: an answer of `true` protects the claim against this challenge only.
    function judge(Claim calldata claim, Proof calldata proof) external view returns (bool right);
}
