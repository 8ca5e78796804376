// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Lanes} from "./Lanes.sol";
import {RefereeErrors} from "./RefereeErrors.sol";
import {Operation, TensorType} from "./Types.sol";

/// @title Items of a Program (docs/design/programs.md, "Encoding"), little-endian
library Encoding {
    uint256 internal constant INPUT = 1;
    uint256 internal constant CONSTANT = 2;
    uint256 internal constant OPERATION = 3;
    uint256 private constant MAX_RANK = 8;
    uint256 private constant LAST_DTYPE = 7;
    /// @dev No value has more elements, sizes of 0 counted as 1.
    uint256 private constant MAX_ELEMENTS = 1 << 40;

    /// @notice An operation item, whole. `typeAt` is where its result's type stands.
    function operation(bytes calldata item, uint256 value)
        internal
        pure
        returns (Operation memory decoded, uint256 typeAt)
    {
        if (item.length < 5 || uint8(item[0]) != OPERATION) revert RefereeErrors.NotAnOperation(value);
        decoded.opcode = _load(item, 1, 2, value);
        uint256 count = _load(item, 3, 2, value);
        typeAt = 5 + 4 * count;
        if (item.length < typeAt) revert RefereeErrors.MalformedItem(value);
        decoded.operands = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            decoded.operands[i] = _load(item, 5 + 4 * i, 4, value);
        }
        uint256 spot;
        (decoded.result, spot) = tensorType(item, typeAt, value);
        count = _load(item, spot++, 1, value);
        if (item.length != spot + 8 * count) revert RefereeErrors.MalformedItem(value);
        decoded.attributes = new int256[](count);
        for (uint256 i = 0; i < count; ++i) {
            decoded.attributes[i] = int64(uint64(_load(item, spot + 8 * i, 8, value)));
        }
    }

    /// @notice The type that an item of any kind declares, and where in it that stands.
    function declared(bytes calldata item, uint256 value) internal pure returns (TensorType memory type_, uint256 typeAt) {
        uint256 kind = item.length == 0 ? 255 : uint8(item[0]);
        uint256 end;
        if (kind == OPERATION) {
            typeAt = 5 + 4 * _load(item, 3, 2, value);
            (type_,) = tensorType(item, typeAt, value);
            return (type_, typeAt);
        }
        if (kind != INPUT && kind != CONSTANT) revert RefereeErrors.MalformedItem(value);
        typeAt = 1;
        (type_, end) = tensorType(item, typeAt, value);
        if (kind == CONSTANT && item.length != end + 32) revert RefereeErrors.MalformedItem(value);
    }

    function tensorType(bytes calldata item, uint256 spot, uint256 value)
        internal
        pure
        returns (TensorType memory type_, uint256 end)
    {
        type_.dtype = _load(item, spot, 1, value);
        uint256 rank = _load(item, spot + 1, 1, value);
        if (type_.dtype == 0 || type_.dtype > LAST_DTYPE || rank > MAX_RANK) revert RefereeErrors.MalformedItem(value);
        end = spot + 2 + 8 * rank;
        type_.dims = new uint256[](rank);
        type_.elements = 1;
        uint256 bound = 1;
        for (uint256 i = 0; i < rank; ++i) {
            uint256 size = _load(item, spot + 2 + 8 * i, 8, value);
            type_.dims[i] = size;
            type_.elements *= size;
            bound *= size == 0 ? 1 : size;
            if (bound > MAX_ELEMENTS) revert RefereeErrors.MalformedItem(value);
        }
    }

    /// @notice A count as roots hash it: 8 bytes, little-endian.
    function littleEndian(uint64 n) internal pure returns (bytes8) {
        n = (n & 0x00ff00ff00ff00ff) << 8 | n >> 8 & 0x00ff00ff00ff00ff;
        n = (n & 0x0000ffff0000ffff) << 16 | n >> 16 & 0x0000ffff0000ffff;
        return bytes8(n << 32 | n >> 32);
    }

    function _load(bytes calldata item, uint256 spot, uint256 size, uint256 value) private pure returns (uint256) {
        if (spot + size > item.length) revert RefereeErrors.MalformedItem(value);
        uint256 start;
        assembly ("memory-safe") {
            start := item.offset
        }
        return Lanes.load(start + spot, 0, size);
    }
}
