// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ITermsEvaluator} from "../interfaces/ITermsEvaluator.sol";
import {Elements} from "./referee/Elements.sol";
import {Judging} from "./referee/Judging.sol";
import {Openings} from "./referee/Openings.sol";
import {RefereeErrors} from "./referee/RefereeErrors.sol";
import {Terms} from "./referee/Terms.sol";
import {Block, Claim, Opened, Proof, Sums} from "./referee/Types.sol";

/// @title The referee's judge of long elements: stateless, owned by nobody
contract TermsEvaluator is ITermsEvaluator {
    /// @inheritdoc ITermsEvaluator
    function countTerms(Claim calldata claim, Proof calldata proof) external view returns (uint64 terms, uint16 block_) {
        Opened memory opened = Judging.open(claim, proof);
        uint256 code = opened.operation.opcode;
        _needNoClaim(proof);
        Judging.checkUsed(opened, proof);
        terms = uint64(Terms.count(opened, claim.element));
        if (terms == 0) revert RefereeErrors.NoTerms(code);
        if (!Terms.isNamed(code)) block_ = uint16(Terms.blockTerms(code));
    }

    /// @inheritdoc ITermsEvaluator
    function judgeSums(Claim calldata claim, Sums calldata sums, Proof calldata proof) external view returns (bool stands) {
        Opened memory opened = Judging.open(claim, proof);
        Openings.openClaimed(opened, claim, proof);
        uint256 code = opened.operation.opcode;
        uint256 count = Terms.count(opened, claim.element);
        bool named = Terms.isNamed(code);
        uint256 expected = named ? 0 : Terms.sumCount(Terms.blockTerms(code), count);
        if (sums.sums.length != expected) revert RefereeErrors.WrongSums(expected, sums.sums.length);
        // An exponent stands for terms of a float; were another's free to choose, it could stand for "no sum counts".
        if (sums.exponent != 0 && !Terms.isFloatSum(opened)) revert RefereeErrors.NoExponent(sums.exponent);
        (int256 value, bool possible) = named
            ? Terms.ofTerm(opened, proof, claim.element, sums.positions[0])
            : Terms.ofSums(opened, proof, claim.element, sums);
        bytes calldata data = Openings.read(opened, proof, opened.result, claim.element, 1);
        stands = possible && Judging.isValue(data, value, opened.result.declared.dtype);
        Judging.checkUsed(opened, proof);
    }

    /// @inheritdoc ITermsEvaluator
    function judgeBlock(Claim calldata claim, Block calldata part, Proof calldata proof)
        external
        view
        returns (bool stands)
    {
        Opened memory opened = Judging.open(claim, proof);
        uint256 code = opened.operation.opcode;
        if (!Terms.isSummed(code)) revert RefereeErrors.NoTerms(code);
        _needNoClaim(proof);
        uint256 size = Terms.blockTerms(code);
        uint256 count = Terms.count(opened, claim.element);
        uint256 end = part.first + size < count ? part.first + size : count;
        if (part.first >= count || part.first % size != 0 || part.end != end) {
            revert RefereeErrors.NotABlock(part.first, part.end);
        }
        (int256 total, bool within) = Terms.sumBlock(opened, proof, claim.element, part);
        Judging.checkUsed(opened, proof);
        return within && total == part.total;
    }

    /// @inheritdoc ITermsEvaluator
    function judgeWitness(
        Claim calldata claim,
        int32 exponent,
        uint64 named,
        uint64[2] calldata positions,
        Proof calldata proof
    ) external view returns (bool stands) {
        Opened memory opened = Judging.open(claim, proof);
        uint256 code = opened.operation.opcode;
        _needNoClaim(proof);
        if (Terms.isFloatSum(opened)) {
            uint256 one = Terms.termBits(opened, proof, claim.element, positions[0]);
            stands = Terms.pairKey(one, Terms.termBits(opened, proof, claim.element, positions[1])) <= exponent;
        } else if (Terms.isNamed(code)) {
            stands = !Terms.precedes(opened, proof, claim.element, positions[0], named);
        } else {
            revert RefereeErrors.NoTerms(code);
        }
        Judging.checkUsed(opened, proof);
    }

    /// @inheritdoc ITermsEvaluator
    function judgeOrder(Claim calldata claim, uint64[2] calldata positions, Proof calldata proof)
        external
        view
        returns (bool stands)
    {
        Opened memory opened = Judging.open(claim, proof);
        uint256 code = opened.operation.opcode;
        if (!Terms.isOrdered(code)) revert RefereeErrors.NoTerms(code);
        Openings.openClaimed(opened, claim, proof);
        if (code <= Elements.ARGMIN) {
            int256 claimed = Elements.value(opened, proof, opened.result, claim.element);
            // A position outside the row is no answer, whatever is pointed at.
            stands = claimed >= 0 && claimed < int256(Elements.lastSize(opened.operands[0]))
                && !Terms.isAhead(opened, proof, claim.element, positions[0], uint256(claimed));
        } else {
            stands = Terms.isInOrder(opened, proof, claim.element, positions);
        }
        Judging.checkUsed(opened, proof);
    }

    function _needNoClaim(Proof calldata proof) private pure {
        if (proof.claimed.data.length != 0 || proof.claimed.path.length != 0) {
            revert RefereeErrors.WrongLeafLength(0, proof.claimed.data.length);
        }
    }
}
