// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Block, Claim, Proof, Sums} from "../contracts/referee/Types.sol";

/// @title Judges elements of more terms than can be recomputed at once (docs/design/disputes.md, "Long elements")
/// @dev Warning: like IEvaluator it believes `claim`, and also that `sums`, `part` and `exponent` are what the accused posted.
interface ITermsEvaluator {
    /// @notice Whether the posted sums give the claimed element and the named terms have the posted exponent; for an operation that
    /// looks for an extreme, whether the named term has it.
    function judgeSums(Claim calldata claim, Sums calldata sums, Proof calldata proof) external view returns (bool stands);

    /// @notice Whether one block's terms add up to what was posted for it.
    function judgeBlock(Claim calldata claim, Block calldata part, Proof calldata proof) external view returns (bool stands);

    /// @notice Whether the claim withstands the terms that a challenger points at.
    /// @param exponent What the accused posted, for a float sum; 0 otherwise.
    /// @param positions Of a float sum two terms, or one twice; of EXPONENT and EXPONENT_SCALED the witness and the term that the
    /// accused named; of MAX, MIN, ARGMAX, ARGMIN (witness, 0); of TOPK and SORT (another place, 0), or (the place before, 1 + a
    /// term that belongs between).
    function judgeWitness(Claim calldata claim, int32 exponent, uint64[2] calldata positions, Proof calldata proof)
        external
        view
        returns (bool stands);
}
