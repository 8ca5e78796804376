// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Block, Claim, Proof, Sums} from "../contracts/referee/Types.sol";

/// @title Judges elements of more terms than can be recomputed at once (docs/design/disputes.md, "Long elements")
/// @dev Warning: like IEvaluator it believes `claim`, and also that `sums`, `part`, `exponent` and `named` are what the accused posted, and
/// that what was posted passed `judgeSums`.
interface ITermsEvaluator {
    /// @notice How many terms the element has, and how many of them one judgement adds up.
    /// @param proof Of the operation and its operands; it opens no leaf.
    /// @return terms At least 1: an element of none, or of an operation that has no terms to post anything about, is refused.
    /// @return block_ 0 where nothing is summed: one term decides, which the accused names.
    function countTerms(Claim calldata claim, Proof calldata proof) external view returns (uint64 terms, uint16 block_);

    /// @notice Whether the posted sums give the claimed element and the named terms have the posted exponent; for an operation of
    /// which one term decides, whether the named one gives it.
    function judgeSums(Claim calldata claim, Sums calldata sums, Proof calldata proof) external view returns (bool stands);

    /// @notice Whether one block's terms add up to what was posted for it.
    function judgeBlock(Claim calldata claim, Block calldata part, Proof calldata proof) external view returns (bool stands);

    /// @notice Whether what the accused posted withstands the terms that a challenger points at.
    /// @param exponent What the accused posted, for a float sum; 0 otherwise.
    /// @param named The term that the accused named, where one term decides.
    /// @param positions Of a float sum two terms, or one twice; else (witness, 0).
    function judgeWitness(
        Claim calldata claim,
        int32 exponent,
        uint64 named,
        uint64[2] calldata positions,
        Proof calldata proof
    ) external view returns (bool stands);

    /// @notice Whether an element that is a term's position withstands what a challenger points at; the accused posts nothing.
    /// @param positions Of ARGMAX, ARGMIN (witness, 0); of TOPK and SORT (another place, 0), or (the place before, 1 + a term that
    /// belongs between).
    function judgeOrder(Claim calldata claim, uint64[2] calldata positions, Proof calldata proof)
        external
        view
        returns (bool stands);
}
