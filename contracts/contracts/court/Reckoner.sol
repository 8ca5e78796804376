// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ITermsEvaluator} from "../../interfaces/ITermsEvaluator.sol";
import {CourtErrorsLib} from "../libraries/CourtErrorsLib.sol";
import {ItemLib} from "../libraries/ItemLib.sol";
import {MerkleLib} from "../libraries/MerkleLib.sol";
import {TreeLib} from "../libraries/TreeLib.sol";
import {RefereeErrors} from "../referee/RefereeErrors.sol";
import {Terms} from "../referee/Terms.sol";
import {Block, Claim, Sums} from "../referee/Types.sol";
import {Reduction} from "./Reduction.sol";
import {Standing} from "./Standing.sol";

/// @title The clerk's part in elements of many terms: it has proofs judged, and follows which terms are in question
/// @dev Proofs are ABI encodings of the evaluator's `Proof`, passed on as they came.
abstract contract Reckoner {
    /// @notice Judges sums and terms; it has no state, and nobody can change it.
    ITermsEvaluator public immutable TERMS;

    // `_standing` and `_reduction` cut with them.
    // slither-disable-next-line unused-state
    uint256 private constant STANDING_BYTES = 20 * 32;
    // slither-disable-next-line unused-state
    uint256 private constant REDUCTION_BYTES = 6 * 32;

    constructor(address terms) {
        if (terms.code.length == 0) revert CourtErrorsLib.ParameterOutOfRange("code size of terms", 0, 1, type(uint256).max);
        TERMS = ITermsEvaluator(terms);
    }

    /// @return r Every term of the element, and how many of them are judged at once.
    /// @return node Nothing yet.
    function askSums(uint64, uint64 element, bytes calldata proof) external view returns (Reduction memory r, bytes32 node) {
        bytes memory head = abi.encodePacked(ITermsEvaluator.countTerms.selector, abi.encode(_claim(element)));
        (uint64 terms, uint16 block_) = abi.decode(_ask(head, proof), (uint64, uint16));
        r.element = element;
        r.end = terms;
        r.block = block_;
        node = 0;
    }

    /// @dev Sums that do not give the element cannot be posted: who holds no others is silent, and loses.
    function postSums(uint64, Sums calldata sums, bytes calldata proof)
        external
        view
        returns (Reduction memory r, bytes32 node)
    {
        r = _reduction();
        bytes memory body = abi.encode(sums);
        // Behind the claim stand the places of two arguments; the encoding of one has a place of its own in front.
        uint256 place = 7 * 32;
        bytes memory question = abi.encodePacked(
            ITermsEvaluator.judgeSums.selector, abi.encode(_claim(r.element)), place, place + body.length - 32
        );
        question = bytes.concat(question, _behindFirstWord(body), proof[32:]);
        if (!abi.decode(_staticcall(question), (bool))) revert CourtErrorsLib.SumsMiss(r.element);
        r.exponent = sums.exponent;
        r.named = sums.positions[0];
        // Among the terms is an infinity or a NaN: the element follows from those that were named.
        if (sums.exponent >= Terms.INFINITE_KEY) r.block = 0;
        node = _rootOf(sums.sums);
    }

    /// @return r The terms under that sum, more than a block.
    /// @return node The sum.
    function chooseSum(uint64, uint64 place, int256 sum, bytes32[] calldata proof)
        external
        pure
        returns (Reduction memory r, bytes32 node)
    {
        r = _chosen(place, sum, proof);
        if (r.end - r.first <= r.block) revert CourtErrorsLib.OneBlock(r.first, r.end);
        node = bytes32(uint256(sum));
    }

    function postParts(uint64, int256[] calldata parts) external view returns (Reduction memory r, bytes32 node) {
        r = _reduction();
        uint256 expected = Terms.sumCount(r.block, r.end - r.first);
        if (parts.length != expected) revert CourtErrorsLib.WrongLength(parts.length, expected);
        int256 total = 0;
        for (uint256 i = 0; i < parts.length; ++i) {
            int256 part = parts[i];
            if (part > type(int128).max || part < type(int128).min) revert RefereeErrors.SumOutOfRange(part);
            total += part;
        }
        bytes32 chosen = _standing().node;
        if (bytes32(uint256(total)) != chosen) revert CourtErrorsLib.WrongTotal(total, int256(uint256(chosen)));
        node = _rootOf(parts);
    }

    /// @return right Whether the terms under that sum, no more than a block, add up to it.
    function judgeBlock(uint64, uint64 place, int256 sum, bytes32[] calldata sumProof, bytes calldata proof)
        external
        view
        returns (bool right)
    {
        Reduction memory r = _chosen(place, sum, sumProof);
        if (r.end - r.first > r.block) revert CourtErrorsLib.NotOneBlock(r.first, r.end);
        Block memory part = Block(r.first, r.end, r.exponent, sum);
        bytes memory head = abi.encodePacked(ITermsEvaluator.judgeBlock.selector, abi.encode(_claim(r.element), part));
        right = abi.decode(_ask(head, proof), (bool));
    }

    /// @return right Whether what was posted withstands these terms.
    function judgeWitness(uint64, uint64[2] calldata positions, bytes calldata proof) external view returns (bool right) {
        Reduction memory r = _reduction();
        bytes memory head = abi.encodePacked(
            ITermsEvaluator.judgeWitness.selector, abi.encode(_claim(r.element), r.exponent, r.named, positions)
        );
        right = abi.decode(_ask(head, proof), (bool));
    }

    /// @return right Whether the element withstands these terms or places.
    function judgeOrder(uint64, uint64 element, uint64[2] calldata positions, bytes calldata proof)
        external
        view
        returns (bool right)
    {
        bytes memory head = abi.encodePacked(ITermsEvaluator.judgeOrder.selector, abi.encode(_claim(element), positions));
        right = abi.decode(_ask(head, proof), (bool));
    }

    // ---------------------------------------------------------------- parts

    function _standing() internal pure returns (Standing memory) {
        return abi.decode(msg.data[msg.data.length - STANDING_BYTES:], (Standing));
    }

    function _reduction() private pure returns (Reduction memory) {
        return abi.decode(msg.data[msg.data.length - STANDING_BYTES - REDUCTION_BYTES:], (Reduction));
    }

    function _claim(uint64 element) private pure returns (Claim memory) {
        Standing memory s = _standing();
        return Claim(s.program, s.trace, uint32(ItemLib.valuesOf(s.counts)), s.value, element);
    }

    /// @dev The terms under one of the sums posted last, once that is shown to be among them.
    function _chosen(uint64 place, int256 sum, bytes32[] calldata proof) private pure returns (Reduction memory r) {
        r = _reduction();
        if (r.block == 0) revert CourtErrorsLib.NothingSummed(r.element);
        uint256 terms = r.end - r.first;
        uint256 sums = Terms.sumCount(r.block, terms);
        bytes32 leaf = bytes32(uint256(sum));
        bytes32 root = _standing().node;
        if (!MerkleLib.isIn(root, leaf, place, sums, proof)) revert CourtErrorsLib.NotInTree(place, leaf, root);
        uint256 size = Terms.childTerms(r.block, terms);
        uint256 end = r.first + (place + 1) * size;
        r.first = uint64(r.first + place * size);
        if (end < r.end) r.end = uint64(end);
    }

    function _rootOf(int256[] calldata sums) private view returns (bytes32) {
        bytes32[] memory nodes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; ++i) nodes[i] = bytes32(uint256(sums[i]));
        return TreeLib.rootOf(nodes);
    }

    /// @dev A question of fixed words and a proof: behind the words the place of what follows them.
    function _ask(bytes memory head, bytes calldata proof) private view returns (bytes memory) {
        return _staticcall(bytes.concat(head, bytes32(head.length - 4 + 32), proof[32:]));
    }

    function _behindFirstWord(bytes memory data) private pure returns (bytes memory rest) {
        assembly ("memory-safe") {
            let length := sub(mload(data), 32)
            rest := add(data, 32)
            mstore(rest, length)
        }
    }

    /// @dev What the evaluator reverts with is passed on, and says nothing about the claim.
    function _staticcall(bytes memory question) private view returns (bytes memory answer) {
        bool answered;
        (answered, answer) = address(TERMS).staticcall(question);
        if (!answered) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }
}
