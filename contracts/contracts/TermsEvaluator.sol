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
    function judgeSums(Claim calldata claim, Sums calldata sums, Proof calldata proof) external view returns (bool stands) {
        Opened memory opened = Judging.open(claim, proof);
        Openings.openClaimed(opened, claim, proof);
        uint256 code = opened.operation.opcode;
        uint256 count = Terms.count(opened, claim.element);
        uint256 expected = Terms.isExtreme(code) ? 0 : Terms.sumCount(Terms.blockTerms(code), count);
        if (sums.sums.length != expected) revert RefereeErrors.WrongSums(expected, sums.sums.length);
        (int256 value, bool possible) = Terms.isExtreme(code)
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
    function judgeWitness(Claim calldata claim, int32 exponent, uint64[2] calldata positions, Proof calldata proof)
        external
        view
        returns (bool stands)
    {
        Opened memory opened = Judging.open(claim, proof);
        uint256 code = opened.operation.opcode;
        if (Terms.isFloatSum(opened)) {
            _needNoClaim(proof);
            uint256 one = Terms.termBits(opened, proof, claim.element, positions[0]);
            stands = Terms.pairKey(one, Terms.termBits(opened, proof, claim.element, positions[1])) <= exponent;
        } else if (Terms.isExponent(code)) {
            _needNoClaim(proof);
            int256 found = Terms.exponentOfTerm(opened, proof, claim.element, positions[0]);
            stands = found <= Terms.exponentOfTerm(opened, proof, claim.element, positions[1]);
        } else {
            Openings.openClaimed(opened, claim, proof);
            if (Terms.isExtreme(code)) {
                int256 claimed = Elements.value(opened, proof, opened.result, claim.element);
                stands = !Terms.exceeds(opened, proof, claim.element, claimed, positions[0]);
            } else if (code == Elements.TOPK || code == Elements.SORT) {
                stands = Terms.isInOrder(opened, proof, claim.element, positions);
            } else {
                revert RefereeErrors.NoTerms(code);
            }
        }
        Judging.checkUsed(opened, proof);
    }

    function _needNoClaim(Proof calldata proof) private pure {
        if (proof.claimed.data.length != 0 || proof.claimed.path.length != 0) {
            revert RefereeErrors.WrongLeafLength(0, proof.claimed.data.length);
        }
    }
}
