// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Lanes} from "./Lanes.sol";

/// @title Integers of a Program's element types, sign-extended
/// @dev Element types are numbered as tensor roots hash them; functions of two operands take them within their type.
library Integers {
    uint256 internal constant FLOAT32 = 1;
    uint256 internal constant INT8 = 2;
    uint256 internal constant INT16 = 3;
    uint256 internal constant INT32 = 4;
    uint256 internal constant INT64 = 5;
    uint256 internal constant UINT8 = 6;
    uint256 internal constant BOOL = 7;

    /// @notice Bytes of an element.
    function size(uint256 dtype) internal pure returns (uint256) {
        if (dtype == INT64) return 8;
        if (dtype == FLOAT32 || dtype == INT32) return 4;
        return dtype == INT16 ? 2 : 1;
    }

    /// @notice Bits that count: 1 of a bool.
    function width(uint256 dtype) internal pure returns (uint256) {
        unchecked {
            return dtype == BOOL ? 1 : 8 * size(dtype);
        }
    }

    function isSigned(uint256 dtype) internal pure returns (bool) {
        return dtype != UINT8 && dtype != BOOL;
    }

    /// @notice v in two's complement of the type.
    function wrap(int256 v, uint256 dtype) internal pure returns (int256) {
        if (!isSigned(dtype)) return int256(unsigned(v, dtype));
        uint256 bytes_ = size(dtype);
        assembly ("memory-safe") {
            v := signextend(sub(bytes_, 1), v)
        }
        return v;
    }

    /// @notice v's bits, read as unsigned.
    function unsigned(int256 v, uint256 dtype) internal pure returns (uint256) {
        unchecked {
            return uint256(v) & ((1 << width(dtype)) - 1);
        }
    }

    /// @notice Element `index` of a row of this type; floats as their bit patterns.
    /// @dev Any byte but 0 and 1 is no bool; tensors that hold one are malformed, and it is read by its last bit.
    function load(uint256 start, uint256 index, uint256 dtype) internal pure returns (int256) {
        uint256 bytes_ = size(dtype);
        unchecked {
            return top(Lanes.word(start + index * bytes_, bytes_), bytes_, dtype);
        }
    }

    function add(int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return wrap(x + y, dtype);
        }
    }

    function sub(int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return wrap(x - y, dtype);
        }
    }

    function mul(int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return wrap(x * y, dtype);
        }
    }

    /// @notice Rounded down; x div 0 = 0.
    function div(int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        return y == 0 ? int256(0) : wrap(_floor(x, y), dtype);
    }

    /// @notice x - floor(x / y) y; x mod 0 = x.
    function rem(int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return y == 0 ? x : wrap(x - _floor(x, y) * y, dtype);
        }
    }

    function _floor(int256 x, int256 y) private pure returns (int256 quotient) {
        unchecked {
            quotient = x / y;
            if (x % y != 0 && (x < 0) != (y < 0)) --quotient;
        }
    }

    function neg(int256 x, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return wrap(-x, dtype);
        }
    }

    function abs(int256 x, uint256 dtype) internal pure returns (int256) {
        unchecked {
            return wrap(x < 0 ? -x : x, dtype);
        }
    }

    function not(int256 x, uint256 dtype) internal pure returns (int256) {
        return wrap(~x, dtype);
    }

    /// @notice Counts are masked to the type's width.
    function shl(int256 x, int256 count, uint256 dtype) internal pure returns (int256) {
        return wrap(x << _masked(count, dtype), dtype);
    }

    /// @notice Arithmetic for signed types.
    function shr(int256 x, int256 count, uint256 dtype) internal pure returns (int256) {
        return x >> _masked(count, dtype);
    }

    function shrLogical(int256 x, int256 count, uint256 dtype) internal pure returns (int256) {
        return wrap(int256(unsigned(x, dtype) >> _masked(count, dtype)), dtype);
    }

    function _masked(int256 count, uint256 dtype) private pure returns (uint256) {
        unchecked {
            return uint256(count) & (width(dtype) - 1);
        }
    }

    /// @notice The high half of the product, both read as unsigned int64.
    function mulhi(int256 x, int256 y) internal pure returns (int256) {
        unchecked {
            return wrap(int256(unsigned(x, INT64) * unsigned(y, INT64) >> 64), INT64);
        }
    }

    /// @notice SUM of a row's first `count` elements, which is also element count - 1 of its CUMSUM; wraps as int64.
    /// @dev Of blocks the sums add up, by `add` as INT64.
    function sum(bytes calldata row, uint256 count, uint256 dtype) internal pure returns (int256 total) {
        uint256 bytes_ = size(dtype);
        uint256 start = Lanes.begin(row, count, bytes_);
        unchecked {
            uint256 lanes = 32 / bytes_;
            for (uint256 i = 0; i < count; i += lanes) {
                uint256 word = Lanes.word(start + i * bytes_, bytes_);
                for (uint256 left = count - i < lanes ? count - i : lanes; left != 0; --left) {
                    total += top(word, bytes_, dtype);
                    word <<= 8 * bytes_;
                }
            }
        }
        return wrap(total, INT64);
    }

    /// @notice The element of `bytes_` bytes at the top of a word from `Lanes.word`.
    function top(uint256 word, uint256 bytes_, uint256 dtype) internal pure returns (int256 value) {
        assembly ("memory-safe") {
            let right := sub(256, shl(3, bytes_))
            switch or(eq(dtype, FLOAT32), gt(dtype, INT64))
            case 0 { value := sar(right, word) }
            default {
                value := shr(right, word)
                if eq(dtype, BOOL) { value := and(value, 1) }
            }
        }
    }
}
