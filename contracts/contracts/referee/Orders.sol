// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Integers} from "./Integers.sol";
import {Lanes} from "./Lanes.sol";

/// @title The order of MAX, MIN, ARGMAX, ARGMIN, TOPK and SORT
/// @dev NaN first in either direction, then by value with +0 above -0, ties to the lowest position. Values are as
/// `Integers.load` reads them: floats as bit patterns.
library Orders {
    /// @notice Lower ranks come first.
    function rank(int256 value, uint256 dtype, bool descending) internal pure returns (int256) {
        unchecked {
            if (dtype == Integers.FLOAT32) {
                uint256 magnitude = uint256(value) & Binary32.MAGNITUDE;
                if (magnitude > Binary32.INFINITY) return -1 << 32;
                if (uint256(value) != magnitude) value = ~int256(magnitude);
            }
            return descending ? -value : value;
        }
    }

    /// @notice Whether x at position i comes before y at position j.
    function isBefore(int256 x, uint256 i, int256 y, uint256 j, uint256 dtype, bool descending)
        internal
        pure
        returns (bool)
    {
        int256 left = rank(x, dtype, descending);
        int256 right = rank(y, dtype, descending);
        return left < right || (left == right && i < j);
    }

    /// @notice The first position of a row in order: ARGMAX when descending, else ARGMIN; and the value there.
    /// @param count At least 1.
    function first(bytes calldata row, uint256 count, uint256 dtype, bool descending)
        internal
        pure
        returns (uint256 position, int256 value)
    {
        uint256 size = Integers.size(dtype);
        uint256 start = Lanes.begin(row, count, size);
        int256 best = type(int256).max;
        unchecked {
            for (uint256 i = 0; i < count; i += 32 / size) {
                uint256 word = Lanes.word(start + i * size, size);
                uint256 end = count - i < 32 / size ? count : i + 32 / size;
                for (uint256 j = i; j < end; ++j) {
                    int256 its = rank(Integers.top(word, size, dtype), dtype, descending);
                    if (its < best) (position, best) = (j, its);
                    word <<= 8 * size;
                }
            }
        }
        value = Integers.load(start, position, dtype);
    }

    /// @notice How many elements of a row come before element i: its place in SORT, and in TOPK when descending.
    /// @dev Of blocks the counts add up: `offset` is the position of the block's first element in the row, x is element i.
    function countBefore(
        bytes calldata block_,
        uint256 count,
        uint256 offset,
        int256 x,
        uint256 i,
        uint256 dtype,
        bool descending
    ) internal pure returns (uint256 before) {
        uint256 size = Integers.size(dtype);
        uint256 start = Lanes.begin(block_, count, size);
        int256 its = rank(x, dtype, descending);
        unchecked {
            // In the block's own numbers: which of them come before i where they are equal.
            uint256 earlier = i < offset ? 0 : i - offset;
            for (uint256 j = 0; j < count;) {
                uint256 word = Lanes.word(start + j * size, size);
                uint256 end = count - j < 32 / size ? count : j + 32 / size;
                for (; j < end; ++j) {
                    int256 other = rank(Integers.top(word, size, dtype), dtype, descending);
                    if (other < its || (other == its && j < earlier)) ++before;
                    word <<= 8 * size;
                }
            }
        }
    }
}
