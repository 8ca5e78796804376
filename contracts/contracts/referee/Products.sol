// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Lanes} from "./Lanes.sol";

/// @title What a matrix product is made of: EXPONENT, QUANTIZE, DOT and their scaled forms
/// @dev Rows are little-endian bytes as tensors are hashed: floats of 4 bytes, planes of 2, exponents of 4.
library Products {
    /// @dev The exponent of a row of zeros.
    int256 internal constant ZERO_ROW = -149;
    /// @dev The exponent of a row with a NaN or an infinity.
    int256 internal constant NOT_FINITE = 0x7fffffff;
    int256 private constant LARGEST_EXPONENT = 128;

    // Exponents

    /// @notice EXPONENT of a row of `count` floats. Of blocks of a row the largest is the row's.
    function exponent(bytes calldata row, uint256 count) internal pure returns (int256) {
        return exponentOfMagnitude(Lanes.maxMagnitude(Lanes.begin(row, count, 4), count));
    }

    /// @notice The exponent of a row whose largest magnitude has this bit pattern.
    function exponentOfMagnitude(uint256 largest) internal pure returns (int256) {
        if (largest >= Binary32.INFINITY) return NOT_FINITE;
        return largest == 0 ? ZERO_ROW : Binary32.exponentOf(largest);
    }

    /// @notice EXPONENT_SCALED of `count` floats and the scales they meet, and whether any of them counts.
    /// @dev Of blocks, the largest of those in which one counts is the row's: a scaled exponent may lie below ZERO_ROW.
    function exponentScaled(bytes calldata row, bytes calldata scales, uint256 count)
        internal
        pure
        returns (int256 largest, bool any)
    {
        uint256 x = Lanes.begin(row, count, 4);
        uint256 g = Lanes.begin(scales, count, 4);
        largest = ZERO_ROW;
        unchecked {
            for (uint256 i = 0; i < count; i += 8) {
                uint256 floats = Lanes.word(x + 4 * i, 4);
                uint256 exponents = Lanes.word(g + 4 * i, 4);
                uint256 left = count - i < 8 ? count - i : 8;
                for (; left != 0; (--left, floats <<= 32, exponents <<= 32)) {
                    uint256 magnitude = floats >> 224 & Binary32.MAGNITUDE;
                    if (magnitude == 0) continue;
                    if (magnitude >= Binary32.INFINITY) return (NOT_FINITE, true);
                    int256 scale = int256(exponents) >> 224;
                    if (scale <= ZERO_ROW) continue;
                    if (scale == NOT_FINITE) return (NOT_FINITE, true);
                    if (scale > LARGEST_EXPONENT) scale = LARGEST_EXPONENT;
                    scale += magnitude < 1 << 23 ? Binary32.exponentOf(magnitude) : int256(magnitude >> 23) - 126;
                    if (!any || scale > largest) (largest, any) = (scale, true);
                }
            }
        }
    }

    function clampScale(int256 scale) internal pure returns (int256) {
        return scale < ZERO_ROW ? ZERO_ROW : scale > LARGEST_EXPONENT ? LARGEST_EXPONENT : scale;
    }

    // Quantised operands

    /// @notice Bits of a quantised operand: |q| <= 2^w.
    function width(uint256 digits) internal pure returns (int256) {
        unchecked {
            return int256(7 * digits) - 1;
        }
    }

    /// @notice QUANTIZE of one float: one plane of round-half-even(x 2^(w - e)), kept within +-2^w.
    /// @param e An int32.
    /// @param digits 1, 2 or 3; with 3 the planes are q = 1024 plane0 + plane1.
    function quantize(uint256 bits, int256 e, uint256 digits, uint256 plane) internal pure returns (int256) {
        if (e == NOT_FINITE) return 0;
        unchecked {
            return _plane(bits, width(digits) - e, digits, plane);
        }
    }

    /// @notice QUANTIZE_SCALED of one float that meets the scale g.
    /// @param g An int32, as is e.
    function quantizeScaled(uint256 bits, int256 g, int256 e, uint256 digits, uint256 plane)
        internal
        pure
        returns (int256)
    {
        if (e == NOT_FINITE || g == NOT_FINITE || g <= ZERO_ROW) return 0;
        unchecked {
            return _plane(bits, clampScale(g) + width(digits) - e, digits, plane);
        }
    }

    function _plane(uint256 bits, int256 shift, uint256 digits, uint256 plane) private pure returns (int256) {
        if (!Binary32.isFinite(bits)) return 0;
        unchecked {
            (uint256 m, int256 exponent_) = Binary32.decode(bits);
            uint256 limit = 1 << uint256(width(digits));
            uint256 magnitude = _scaled(m, exponent_ + shift);
            if (magnitude > limit) magnitude = limit;
            int256 q = bits & Binary32.SIGN == 0 ? int256(magnitude) : -int256(magnitude);
            if (digits <= 2) return q;
            int256 high = (q + 512) >> 10;
            return plane == 0 ? high : q - (high << 10);
        }
    }

    /// @dev round-half-even(m 2^shift), where 2^32 stands for anything larger too; m < 2^24.
    function _scaled(uint256 m, int256 shift) private pure returns (uint256) {
        unchecked {
            if (shift < 0) return Binary32.roundHalfEven(m, uint256(-shift));
            return shift < 32 ? m << uint256(shift) : m == 0 ? 0 : 1 << 32;
        }
    }

    // Sums of products

    /// @notice The exact sum of products of two rows of `count` int16. Of blocks they add up to the row's.
    /// @param count Below 2^31.
    function dot(bytes calldata left, bytes calldata right, uint256 count) internal pure returns (int256) {
        return Lanes.dot(Lanes.begin(left, count, 2), Lanes.begin(right, count, 2), count);
    }

    /// @notice The same of operands of three digits, in two planes each: q = 1024 high + low.
    function dotOfPlanes(
        bytes calldata leftHigh,
        bytes calldata rightHigh,
        bytes calldata leftLow,
        bytes calldata rightLow,
        uint256 count
    ) internal pure returns (int256) {
        unchecked {
            int256 middle = dot(leftHigh, rightLow, count) + dot(leftLow, rightHigh, count);
            return (dot(leftHigh, rightHigh, count) << 20) + (middle << 10) + dot(leftLow, rightLow, count);
        }
    }

    /// @notice DOT's element from the sum over its whole row: RN(sum 2^(ea + eb - 2w)).
    function roundDot(int256 sum, int256 ea, int256 eb, uint256 digits) internal pure returns (uint256) {
        if (ea == NOT_FINITE || eb == NOT_FINITE) return Binary32.NAN;
        unchecked {
            return Binary32.roundScaled(sum, ea + eb - 2 * width(digits));
        }
    }

    /// @notice DOT_ROWS' element: RN(sum 2^(ea - 2w)).
    function roundDotRows(int256 sum, int256 ea, uint256 digits) internal pure returns (uint256) {
        return roundDot(sum, ea, 0, digits);
    }
}
