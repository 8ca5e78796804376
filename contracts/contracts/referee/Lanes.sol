// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Rows of little-endian numbers in calldata, a word of them at a time
/// @dev A word is loaded with the first byte on top, so the first number is the top lane, its bytes in reverse.
library Lanes {
    error TooFewBytes(uint256 length, uint256 needed);

    uint256 private constant BYTES = 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
    uint256 private constant PAIRS = 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;
    uint256 private constant FOURS = 0x00000000ffffffff00000000ffffffff00000000ffffffff00000000ffffffff;
    uint256 private constant HALVES = 0x0000000000000000ffffffffffffffff0000000000000000ffffffffffffffff;
    uint256 private constant FOURTHS = 0x000000000000ffff000000000000ffff000000000000ffff000000000000ffff;

    /// @notice Where the row begins, once it is known to hold `count` numbers of `size` bytes.
    function begin(bytes calldata row, uint256 count, uint256 size) internal pure returns (uint256 start) {
        if (count > row.length / size) revert TooFewBytes(row.length, count * size);
        assembly ("memory-safe") {
            start := row.offset
        }
    }

    /// @notice The word of little-endian numbers of `size` bytes (1, 2, 4 or 8) at `start`, each turned: the first on top.
    function word(uint256 start, uint256 size) internal pure returns (uint256 x) {
        assembly ("memory-safe") {
            x := calldataload(start)
            if gt(size, 1) {
                x := or(and(shr(8, x), BYTES), shl(8, and(x, BYTES)))
                if gt(size, 2) {
                    x := or(and(shr(16, x), PAIRS), shl(16, and(x, PAIRS)))
                    if gt(size, 4) { x := or(and(shr(32, x), FOURS), shl(32, and(x, FOURS))) }
                }
            }
        }
    }

    /// @notice Number `index` of `size` bytes (1, 2, 4 or 8) as an unsigned integer.
    /// @dev The caller has checked that it lies in the row.
    function load(uint256 start, uint256 index, uint256 size) internal pure returns (uint256) {
        unchecked {
            return word(start + index * size, size) >> (256 - 8 * size);
        }
    }

    /// @notice Float `index` of a row.
    function loadFloat(uint256 start, uint256 index) internal pure returns (uint256 value) {
        assembly ("memory-safe") {
            let x := calldataload(add(start, shl(2, index)))
            value := or(or(byte(0, x), shl(8, byte(1, x))), or(shl(16, byte(2, x)), shl(24, byte(3, x))))
        }
    }

    /// @notice The largest magnitude, as a bit pattern, of `count` floats from `at`: magnitudes compare as they do.
    function maxMagnitude(uint256 start, uint256 count) internal pure returns (uint256 largest) {
        assembly ("memory-safe") {
            let tops := 0x8000000080000000800000008000000080000000800000008000000080000000
            let lanes := 0
            for { let end := add(start, shl(2, count)) } lt(start, end) { start := add(start, 32) } {
                let x := calldataload(start)
                // What follows the row counts as zeros.
                if lt(sub(end, start), 32) { x := and(x, not(shr(shl(3, sub(end, start)), not(0)))) }
                x := or(and(shr(8, x), BYTES), shl(8, and(x, BYTES)))
                x := and(or(and(shr(16, x), PAIRS), shl(16, and(x, PAIRS))), not(tops))
                // A lane keeps its top bit where it is at least x; then the bits below it are set as a mask.
                let keep := and(sub(or(lanes, tops), x), tops)
                keep := sub(keep, shr(31, keep))
                lanes := or(and(lanes, keep), and(x, not(keep)))
            }
            for {} lanes { lanes := shr(32, lanes) } {
                let lane := and(lanes, 0xffffffff)
                if gt(lane, largest) { largest := lane }
            }
        }
    }

    /// @notice The sum of products of `count` int16 from `left` and from `right`; any values, count below 2^31.
    /// @dev Four lanes of 64 bits of one word, times four of the other in reverse order, have the sum of their products
    /// in the top lane. Lanes hold signed numbers that borrow from the lane above. All sums stay below 2^62, so they are
    /// added up unread, modulo 2^256, and the top lane is read once, the lower lanes rounded to nothing.
    function dot(uint256 left, uint256 right, uint256 count) internal pure returns (int256 total) {
        assembly ("memory-safe") {
            // Two's complement becomes an unsigned number 2^15 higher.
            let flip := 0x8000800080008000800080008000800080008000800080008000800080008000
            let offset := 0x0000000000008000000000000000800000000000000080000000000000008000
            for { let end := add(left, shl(1, count)) } lt(left, end) {} {
                let x := calldataload(left)
                if lt(sub(end, left), 32) { x := and(x, not(shr(shl(3, sub(end, left)), not(0)))) }
                x := xor(or(and(shr(8, x), BYTES), shl(8, and(x, BYTES))), flip)
                let y := calldataload(right)
                y := xor(or(and(shr(8, y), BYTES), shl(8, and(y, BYTES))), flip)
                y := or(shr(128, y), shl(128, y))
                y := or(and(shr(64, y), HALVES), shl(64, and(y, HALVES)))
                for { let i := 0 } lt(i, 64) { i := add(i, 16) } {
                    let products := mul(sub(and(shr(i, x), FOURTHS), offset), sub(and(shr(i, y), FOURTHS), offset))
                    total := add(total, products)
                }
                left := add(left, 32)
                right := add(right, 32)
            }
            total := sar(192, add(total, shl(191, 1)))
        }
    }
}
