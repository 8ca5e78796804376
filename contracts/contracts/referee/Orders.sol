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
            if (dtype != Integers.FLOAT32) return descending ? -value : value;
            if (descending) return -Binary32.orderKey(uint256(value), 1 << 32);
            return Binary32.orderKey(uint256(value), -1 << 32);
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
        uint256 start = Lanes.begin(row, count, Integers.size(dtype));
        value = Integers.load(start, 0, dtype);
        int256 best = rank(value, dtype, descending);
        unchecked {
            for (uint256 i = 1; i < count; ++i) {
                int256 other = Integers.load(start, i, dtype);
                int256 its = rank(other, dtype, descending);
                if (its < best) (position, value, best) = (i, other, its);
            }
        }
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
        uint256 start = Lanes.begin(block_, count, Integers.size(dtype));
        int256 its = rank(x, dtype, descending);
        unchecked {
            for (uint256 j = 0; j < count; ++j) {
                int256 other = rank(Integers.load(start, j, dtype), dtype, descending);
                if (other < its || (other == its && offset + j < i)) ++before;
            }
        }
    }
}
