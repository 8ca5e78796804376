// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Counts} from "../court/Standing.sol";
import {CourtErrorsLib} from "./CourtErrorsLib.sol";

/// @title Reading the items of a Program (docs/design/programs.md) and the hashes made of them (docs/design/roots.md)
/// @dev Items are checked against the Program's root before they are read, so what they say is well-formed.
library ItemLib {
    uint256 internal constant LEAF_BYTES = 4096;
    uint256 private constant METRICS = 2;
    uint256 internal constant HEADER = 0;
    uint256 internal constant INPUT = 1;
    uint256 internal constant CONSTANT = 2;
    uint256 internal constant OPERATION = 3;
    uint256 internal constant OUTPUT = 4;

    function valuesOf(Counts memory counts) internal pure returns (uint256) {
        return uint256(counts.inputs) + counts.constants + counts.operations;
    }

    /// @notice Leaves of the Program's tree: the header, values, outputs.
    function itemsOf(Counts memory counts) internal pure returns (uint256) {
        return 1 + valuesOf(counts) + counts.outputs;
    }

    /// @notice Tensors of the state that a step or merge gives: all outputs, but for a step's loss and gradient norm.
    function stateLeaves(Counts memory counts, bool ofStep) internal pure returns (uint256) {
        return ofStep ? counts.outputs - METRICS : counts.outputs;
    }

    function readHeader(bytes calldata item) internal pure returns (Counts memory counts) {
        _checkKind(item, HEADER);
        uint256 version = readInteger(item, 1, 2);
        if (version != 1) revert CourtErrorsLib.UnknownVersion(version);
        counts.inputs = uint32(readInteger(item, 3, 4));
        counts.constants = uint32(readInteger(item, 7, 4));
        counts.operations = uint32(readInteger(item, 11, 4));
        counts.outputs = uint32(readInteger(item, 15, 4));
    }

    /// @notice Value and name of an output.
    function readOutput(bytes calldata item) internal pure returns (uint256 value, bytes calldata name) {
        _checkKind(item, OUTPUT);
        value = readInteger(item, 1, 4);
        name = _readName(item, 5);
    }

    /// @notice Name of an input.
    function readInputName(bytes calldata item) internal pure returns (bytes calldata name) {
        _checkKind(item, INPUT);
        name = _readName(item, 1 + readType(item).length);
    }

    /// @notice Tensor root of a constant.
    function readConstantRoot(bytes calldata item) internal pure returns (bytes32) {
        _checkKind(item, CONSTANT);
        return bytes32(item[1 + readType(item).length:]);
    }

    /// @notice A value's type, as items and tensor roots write it: dtype u8, rank u8, dims u64 little-endian.
    function readType(bytes calldata item) internal pure returns (bytes calldata) {
        uint256 start = uint8(item[0]) == OPERATION ? 5 + 4 * readInteger(item, 3, 2) : 1;
        uint256 rank = uint8(item[start + 1]);
        return item[start:start + 2 + 8 * rank];
    }

    function dimensionOf(bytes calldata tensorType, uint256 dimension) internal pure returns (uint256) {
        return readInteger(tensorType, 2 + 8 * dimension, 8);
    }

    /// @notice Bytes of a tensor of this type.
    function sizeOf(bytes calldata tensorType) internal pure returns (uint256 size) {
        // float32, int8, int16, int32, int64, uint8, bool
        size = uint8(bytes1(bytes8(0x0004010204080101) << (8 * uint8(tensorType[0]))));
        for (uint256 i = 0; i < uint8(tensorType[1]); ++i) size *= dimensionOf(tensorType, i);
    }

    function leavesOf(uint256 size) internal pure returns (uint256) {
        return (size + LEAF_BYTES - 1) / LEAF_BYTES;
    }

    /// @notice H(0x02 || type || leaf count u64 little-endian || tree).
    function tensorRoot(bytes calldata tensorType, uint256 leaves, bytes32 tree) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x02), tensorType, littleEndian64(leaves), tree));
    }

    /// @notice Root of a binary32 of no dimensions with these four bytes.
    function scalarRoot(bytes4 bits) internal pure returns (bytes32) {
        bytes32 tree = sha256(abi.encodePacked(bytes1(0x00), bits));
        return sha256(abi.encodePacked(bytes3(0x020100), littleEndian64(1), tree));
    }

    /// @notice H(0x00 || bytes).
    function leafHash(bytes calldata data) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x00), data));
    }

    /// @notice H(0x04 || item || tensor root): a value in a trace.
    function valueLeaf(bytes calldata item, bytes32 root) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x04), item, root));
    }

    /// @notice H(0x08 || program || values u32 little-endian || tree).
    function traceRoot(bytes32 program, uint256 values, bytes32 tree) internal pure returns (bytes32) {
        bytes4 count = bytes4(littleEndian64(values));
        return sha256(abi.encodePacked(bytes1(0x08), program, count, tree));
    }

    /// @notice H(0x03 || length u16 little-endian || name || tensor root).
    function stateLeaf(bytes calldata name, bytes32 root) internal pure returns (bytes32) {
        bytes2 length = bytes2(littleEndian64(name.length));
        return sha256(abi.encodePacked(bytes1(0x03), length, name, root));
    }

    function littleEndian64(uint256 x) internal pure returns (bytes8) {
        uint64 reversed = 0;
        for (uint256 i = 0; i < 8; ++i) reversed = reversed << 8 | uint8(x >> (8 * i));
        return bytes8(reversed);
    }

    /// @notice `size` bytes from `start` on as a little-endian integer.
    function readInteger(bytes calldata data, uint256 start, uint256 size) internal pure returns (uint256 x) {
        for (uint256 i = size; i > 0; --i) x = x << 8 | uint8(data[start + i - 1]);
    }

    /// @notice Whether one name sorts before another, by bytes.
    function isBefore(bytes memory a, bytes memory b) internal pure returns (bool) {
        uint256 shorter = a.length < b.length ? a.length : b.length;
        for (uint256 i = 0; i < shorter; ++i) {
            if (a[i] != b[i]) return a[i] < b[i];
        }
        return a.length < b.length;
    }

    function _readName(bytes calldata item, uint256 start) private pure returns (bytes calldata) {
        return item[start + 2:start + 2 + readInteger(item, start, 2)];
    }

    function _checkKind(bytes calldata item, uint256 kind) private pure {
        uint256 given = uint8(item[0]);
        if (given != kind) revert CourtErrorsLib.WrongItem(given, kind);
    }
}
