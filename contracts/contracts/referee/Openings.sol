// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {RefereeErrors} from "./RefereeErrors.sol";
import {Claim, Opened, Opening, Proof, Reader, TensorType, Value} from "./Types.sol";
import {Encoding} from "./Encoding.sol";
import {Integers} from "./Integers.sol";

/// @title Paths of docs/design/roots.md and disputes.md: values in a trace, runs of leaves in a tensor
/// @dev The length of every path follows from a count that a root covers, so no node can stand in for a leaf.
library Openings {
    uint256 internal constant LEAF_BYTES = 4096;
    uint256 internal constant RESULT = 255;

    /// @notice Hashes in the path of leaves `first` to `last` of a tree of `count`.
    function pathLength(uint256 count, uint256 first, uint256 last) internal pure returns (uint256 length) {
        unchecked {
            while (count > 1) {
                if (first & 1 == 1) ++length;
                if (last & 1 == 0 && last + 1 < count) ++length;
                first >>= 1;
                last >>= 1;
                count = (count + 1) >> 1;
            }
        }
    }

    /// @notice The root that consecutive leaves lead to, from leaf `first` on.
    /// @dev An odd node is carried up. The caller has checked the lengths of `data` and `path`.
    function rootOfRange(bytes calldata data, uint256 first, uint256 count, bytes32[] calldata path)
        internal
        view
        returns (bytes32 root)
    {
        assembly ("memory-safe") {
            let buffer := mload(0x40)
            // Hashes lie behind the buffer, with a place in front for a sibling on the left.
            let front := add(buffer, 4128)
            let nodes := add(front, 32)
            let size := 0
            mstore8(buffer, 0)
            for { let at := 0 } lt(at, data.length) { at := add(at, 4096) } {
                let length := sub(data.length, at)
                if gt(length, 4096) { length := 4096 }
                calldatacopy(add(buffer, 1), add(data.offset, at), length)
                if iszero(staticcall(gas(), 2, buffer, add(length, 1), add(nodes, shl(5, size)), 32)) { revert(0, 0) }
                size := add(size, 1)
            }
            mstore8(buffer, 1)
            let sibling := path.offset
            for {} gt(count, 1) {} {
                let start := nodes
                let last := add(first, sub(size, 1))
                if and(first, 1) {
                    start := front
                    mstore(start, calldataload(sibling))
                    sibling := add(sibling, 32)
                    size := add(size, 1)
                }
                if and(iszero(and(last, 1)), lt(add(last, 1), count)) {
                    mstore(add(start, shl(5, size)), calldataload(sibling))
                    sibling := add(sibling, 32)
                    size := add(size, 1)
                }
                let pairs := shr(1, size)
                for { let i := 0 } lt(i, pairs) { i := add(i, 1) } {
                    mcopy(add(buffer, 1), add(start, shl(6, i)), 64)
                    if iszero(staticcall(gas(), 2, buffer, 65, add(nodes, shl(5, i)), 32)) { revert(0, 0) }
                }
                if and(size, 1) { mstore(add(nodes, shl(5, pairs)), mload(add(start, shl(5, sub(size, 1))))) }
                size := add(pairs, and(size, 1))
                first := shr(1, first)
                count := shr(1, add(count, 1))
            }
            root := mload(nodes)
        }
    }

    /// @notice The root that one leaf leads to.
    // The assembly means exclusive or: 0 and 1 change places.
    // slither-disable-next-line incorrect-exp
    function rootOf(bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata path)
        internal
        view
        returns (bytes32 root)
    {
        uint256 expected = pathLength(count, index, index);
        if (path.length != expected) revert RefereeErrors.WrongPathLength(expected, path.length);
        assembly ("memory-safe") {
            let buffer := mload(0x40)
            mstore8(buffer, 1)
            let sibling := path.offset
            root := leaf
            for {} gt(count, 1) {} {
                let odd := and(index, 1)
                if or(odd, lt(add(index, 1), count)) {
                    mstore(add(add(buffer, 1), shl(5, odd)), root)
                    mstore(add(add(buffer, 1), shl(5, xor(odd, 1))), calldataload(sibling))
                    sibling := add(sibling, 32)
                    if iszero(staticcall(gas(), 2, buffer, 65, 0, 32)) { revert(0, 0) }
                    root := mload(0)
                }
                index := shr(1, index)
                count := shr(1, add(count, 1))
            }
        }
    }

    function leafCount(TensorType memory declared) internal pure returns (uint256) {
        return (declared.elements * Integers.size(declared.dtype) + LEAF_BYTES - 1) / LEAF_BYTES;
    }

    /// @notice That the trace holds this declaration with this tree as value `number`.
    /// @param typeAt Where in the item the element type and shape stand.
    function checkValue(
        Claim calldata claim,
        uint256 number,
        Value calldata value,
        TensorType memory declared,
        uint256 typeAt,
        bytes32 tree
    ) internal view {
        if (number >= claim.values) revert RefereeErrors.ValueOutOfRange(number, claim.values);
        bytes calldata shape = value.item[typeAt:typeAt + 2 + 8 * declared.dims.length];
        bytes32 root = sha256(
            abi.encodePacked(bytes1(0x02), shape, Encoding.littleEndian(uint64(leafCount(declared))), value.tree)
        );
        if (uint8(value.item[0]) == Encoding.CONSTANT) {
            bytes32 fixed_ = bytes32(value.item[value.item.length - 32:]);
            if (fixed_ != root) revert RefereeErrors.WrongConstant(fixed_, root);
        }
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0x04), value.item, root));
        if (rootOf(leaf, number, claim.values, value.path) != tree) revert RefereeErrors.NotInTrace(number);
    }

    /// @notice That the opening holds exactly leaves `first` to `last` of this tensor.
    function check(Reader memory reader, uint256 first, uint256 last, Opening calldata opening) internal view {
        uint256 size = reader.declared.elements * Integers.size(reader.declared.dtype);
        uint256 end = (last + 1) * LEAF_BYTES;
        uint256 expected = (end < size ? end : size) - first * LEAF_BYTES;
        if (opening.data.length != expected) revert RefereeErrors.WrongLeafLength(expected, opening.data.length);
        uint256 count = (size + LEAF_BYTES - 1) / LEAF_BYTES;
        expected = pathLength(count, first, last);
        if (opening.path.length != expected) revert RefereeErrors.WrongPathLength(expected, opening.path.length);
        if (rootOfRange(opening.data, first, count, opening.path) != reader.tree) {
            revert RefereeErrors.NotInTensor(reader.number, first);
        }
    }

    /// @notice Open the result's leaf that holds the claimed element.
    function openClaimed(Opened memory opened, Claim calldata claim, Proof calldata proof) internal view {
        uint256 leaf = claim.element * Integers.size(opened.result.declared.dtype) / LEAF_BYTES;
        check(opened.result, leaf, leaf, proof.claimed);
        _show(opened.result, leaf, proof.claimed.data);
    }

    function _show(Reader memory reader, uint256 leaf, bytes calldata data) private pure {
        uint256 offset;
        assembly ("memory-safe") {
            offset := data.offset
        }
        reader.start = leaf * LEAF_BYTES;
        reader.length = data.length;
        reader.offset = offset;
    }

    /// @notice The bytes of `count` elements from `first` on. Those outside the leaves opened last take the next opening.
    function read(Opened memory opened, Proof calldata proof, Reader memory reader, uint256 first, uint256 count)
        internal
        view
        returns (bytes calldata data)
    {
        uint256 size = Integers.size(reader.declared.dtype);
        // Nothing outside the tensor is asked for: positions come from checked places, or from a shape.
        if (first + count > reader.declared.elements) {
            revert RefereeErrors.ElementOutOfRange(first + count, reader.declared.elements);
        }
        uint256 start = first * size;
        uint256 end = (first + count) * size;
        if (count != 0 && (start < reader.start || end > reader.start + reader.length)) {
            if (opened.used == proof.openings.length) revert RefereeErrors.OpeningMissing(opened.used);
            Opening calldata opening = proof.openings[opened.used++];
            check(reader, start / LEAF_BYTES, (end - 1) / LEAF_BYTES, opening);
            _show(reader, start / LEAF_BYTES, opening.data);
        }
        uint256 offset = reader.offset + start - (count == 0 ? start : reader.start);
        assembly ("memory-safe") {
            // Two halves of one slice.
            // slither-disable-next-line write-after-write
            data.offset := offset
            data.length := sub(end, start)
        }
    }
}
