// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title IEEE-754 binary32 on integers, as protocol/arithmetic/binary32.py defines it
/// @dev A number is its bit pattern in a uint256 (above 32 bits zero). Results hold no NaN but NAN; operands may.
/// Every rounding goes through `pack`: to nearest, ties to even, gradual underflow, overflow to infinity.
library Binary32 {
    uint256 internal constant NAN = 0x7fc00000;
    uint256 internal constant INFINITY = 0x7f800000;
    uint256 internal constant SIGN = 0x80000000;
    uint256 internal constant MAGNITUDE = 0x7fffffff;
    uint256 internal constant ONE = 0x3f800000;

    /// @dev Roundings of CAST and ROUND.
    uint256 internal constant NEAREST_EVEN = 0;
    uint256 internal constant TOWARD_ZERO = 1;
    uint256 internal constant DOWN = 2;
    uint256 internal constant UP = 3;

    function isNaN(uint256 a) internal pure returns (bool) {
        return a & MAGNITUDE > INFINITY;
    }

    function isInfinite(uint256 a) internal pure returns (bool) {
        return a & MAGNITUDE == INFINITY;
    }

    function isFinite(uint256 a) internal pure returns (bool) {
        return a & MAGNITUDE < INFINITY;
    }

    function isZero(uint256 a) internal pure returns (bool) {
        return a & MAGNITUDE == 0;
    }

    /// @notice |a| = m 2^q for a finite number; m < 2^24.
    function decode(uint256 a) internal pure returns (uint256 m, int256 q) {
        assembly ("memory-safe") {
            let field := and(shr(23, a), 0xff)
            let subnormal := iszero(field)
            m := or(and(a, 0x7fffff), shl(23, iszero(subnormal)))
            q := sub(add(field, subnormal), 150)
        }
    }

    /// @notice The number of bits of x, 0 for 0.
    function bitLength(uint256 x) internal pure returns (uint256) {
        unchecked {
            return x == 0 ? 0 : Math.log2(x) + 1;
        }
    }

    /// @notice m 2^-right to the nearest integer, ties to the even one; any right.
    /// @param m Below 2^255.
    function roundHalfEven(uint256 m, uint256 right) internal pure returns (uint256 n) {
        // From 257 on both shifts give 0, and from 256 on m is less than half.
        assembly ("memory-safe") {
            n := shr(right, m)
            let rest := shl(sub(256, right), m)
            let half := shl(255, 1)
            n := add(n, or(gt(rest, half), and(eq(rest, half), n)))
        }
    }

    /// @notice The binary32 nearest to m 2^q with this sign.
    /// @param sign 0 or SIGN.
    /// @param m Below 2^255. Its last bit may stand for all that lies below it, if it has 27 bits or more.
    /// @param q Any int128.
    function pack(uint256 sign, uint256 m, int256 q) internal pure returns (uint256 nearest) {
        (nearest,) = packInterval(sign, m, m, q);
    }

    /// @notice The binary32 nearest to low 2^q, and whether it is the nearest to high 2^q, too.
    /// @param high At least low, and less than 2^-30 of it above.
    function packInterval(uint256 sign, uint256 low, uint256 high, int256 q)
        internal
        pure
        returns (uint256 nearest, bool decided)
    {
        unchecked {
            if (high == 0) return (sign, true);
            int256 top = int256(Math.log2(low)) + 1 + q; // 2^(top - 1) <= low 2^q < 2^top
            if (top < -150) return (sign, true);
            if (top > 128) return (sign | INFINITY, true);
            int256 unit = top < -125 ? -149 : top - 24;
            int256 left = q - unit;
            uint256 n;
            if (left >= 0) {
                n = low << uint256(left);
                decided = low == high;
            } else {
                n = roundHalfEven(low, uint256(-left));
                // Where high lies beyond 2^top, both round to it or apart, in units of low as in those of high.
                decided = low == high || n == roundHalfEven(high, uint256(-left));
            }
            // n fills 24 bits or is subnormal: its leading bit adds one to the exponent's field, a carry one more.
            n += uint256(unit + 149) << 23;
            nearest = sign | (n < INFINITY ? n : INFINITY);
        }
    }

    /// @notice RN(mantissa 2^exponent). The integer 0 gives +0; any other keeps its sign when it underflows.
    /// @param mantissa Magnitude below 2^255.
    /// @param exponent Any int128.
    function roundScaled(int256 mantissa, int256 exponent) internal pure returns (uint256) {
        unchecked {
            return mantissa < 0 ? pack(SIGN, uint256(-mantissa), exponent) : pack(0, uint256(mantissa), exponent);
        }
    }

    /// @notice e with 2^(e - 1) <= |a| < 2^e, for a finite and not zero.
    function exponentOf(uint256 a) internal pure returns (int256) {
        unchecked {
            (uint256 m, int256 q) = decode(a);
            return m < 1 << 23 ? int256(Math.log2(m)) + 1 + q : q + 24;
        }
    }

    // Arithmetic

    function add(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            if (isNaN(a) || isNaN(b)) return NAN;
            if (isInfinite(a)) return isInfinite(b) && a != b ? NAN : a;
            if (isInfinite(b)) return b;
            (uint256 ma, int256 qa) = decode(a);
            (uint256 mb, int256 qb) = decode(b);
            if (qa < qb) (a, ma, qa, b, mb, qb) = (b, mb, qb, a, ma, qa);
            // Then a is normal and b below a quarter of its last place: a stays as it is.
            if (qa - qb > 60) return a;
            int256 total = int256(ma << uint256(qa - qb));
            if (a & SIGN != 0) total = -total;
            total += b & SIGN != 0 ? -int256(mb) : int256(mb);
            if (total == 0) return a & b & SIGN; // -0 only from two negative zeros: x + (-x) is +0
            return roundScaled(total, qb);
        }
    }

    function sub(uint256 a, uint256 b) internal pure returns (uint256) {
        return add(a, b ^ SIGN);
    }

    function mul(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            uint256 sign = (a ^ b) & SIGN;
            if (isNaN(a) || isNaN(b)) return NAN;
            if (isInfinite(a) || isInfinite(b)) return isZero(a) || isZero(b) ? NAN : sign | INFINITY;
            (uint256 ma, int256 qa) = decode(a);
            (uint256 mb, int256 qb) = decode(b);
            return pack(sign, ma * mb, qa + qb);
        }
    }

    function div(uint256 a, uint256 b) internal pure returns (uint256) {
        unchecked {
            uint256 sign = (a ^ b) & SIGN;
            if (isNaN(a) || isNaN(b)) return NAN;
            if (isInfinite(a)) return isInfinite(b) ? NAN : sign | INFINITY;
            if (isInfinite(b)) return sign;
            if (isZero(b)) return isZero(a) ? NAN : sign | INFINITY;
            (uint256 ma, int256 qa) = decode(a);
            (uint256 mb, int256 qb) = decode(b);
            ma <<= 64;
            // Multiplied again to see whether there is a remainder.
            // slither-disable-next-line divide-before-multiply
            uint256 quotient = ma / mb;
            return pack(sign, quotient << 1 | (quotient * mb == ma ? 0 : 1), qa - qb - 65);
        }
    }

    function sqrt(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (isZero(a) || a == INFINITY) return a;
            if (isNaN(a) || a & SIGN != 0) return NAN;
            (uint256 m, int256 q) = decode(a);
            uint256 odd = uint256(q) & 1;
            m <<= 64 + odd;
            uint256 root = Math.sqrt(m);
            return pack(0, root << 1 | (root * root == m ? 0 : 1), (q - int256(64 + odd)) / 2 - 1);
        }
    }

    /// @notice 1 / sqrt(a), decided on the integers floor(sqrt(2^128 / m)).
    function rsqrt(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (isZero(a)) return a & SIGN | INFINITY;
            if (isNaN(a) || a & SIGN != 0) return NAN;
            if (a == INFINITY) return 0;
            (uint256 m, int256 q) = decode(a);
            uint256 odd = uint256(q) & 1;
            m <<= odd;
            uint256 root = Math.sqrt((1 << 128) / m);
            return pack(0, root << 1 | (root * root * m == 1 << 128 ? 0 : 1), -65 - (q - int256(odd)) / 2);
        }
    }

    function neg(uint256 a) internal pure returns (uint256) {
        return isNaN(a) ? NAN : a ^ SIGN;
    }

    function abs(uint256 a) internal pure returns (uint256) {
        return isNaN(a) ? NAN : a & MAGNITUDE;
    }

    // Order

    /// @notice Sorts as -inf < ... < -0 < +0 < ... < inf; NaN goes where the caller puts it.
    function orderKey(uint256 a, int256 nanKey) internal pure returns (int256) {
        if (isNaN(a)) return nanKey;
        return a & SIGN == 0 ? int256(a) : ~int256(a & MAGNITUDE);
    }

    /// @notice NaN if either is; +0 above -0.
    function maximum(uint256 a, uint256 b) internal pure returns (uint256) {
        return orderKey(a, 1 << 32) >= orderKey(b, 1 << 32) ? a : b;
    }

    /// @notice NaN if either is; -0 below +0.
    function minimum(uint256 a, uint256 b) internal pure returns (uint256) {
        return orderKey(a, -1 << 32) <= orderKey(b, -1 << 32) ? a : b;
    }

    /// @notice -0 equals +0; false for NaN. `ne` is its negation.
    function eq(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNaN(a) && !isNaN(b) && (a == b || (a | b) & MAGNITUDE == 0);
    }

    /// @notice By value; false for NaN. `gt` is this with the operands exchanged.
    function lt(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNaN(a) && !isNaN(b) && _compareKey(a) < _compareKey(b);
    }

    /// @notice By value; false for NaN. `ge` is this with the operands exchanged.
    function le(uint256 a, uint256 b) internal pure returns (bool) {
        return !isNaN(a) && !isNaN(b) && _compareKey(a) <= _compareKey(b);
    }

    function _compareKey(uint256 a) private pure returns (int256) {
        unchecked {
            return a & SIGN == 0 ? int256(a) : -int256(a & MAGNITUDE);
        }
    }

    // Integers

    /// @notice To an integral number; infinities and NaN stay, and the sign of x stays where the result is 0.
    /// @param rounding NEAREST_EVEN, TOWARD_ZERO, DOWN or UP.
    function round(uint256 a, uint256 rounding) internal pure returns (uint256) {
        unchecked {
            if (isNaN(a)) return NAN;
            if (isInfinite(a)) return a;
            int256 n = toIntegral(a, rounding);
            return pack(a & SIGN, uint256(n < 0 ? -n : n), 0);
        }
    }

    /// @notice The integer a finite number rounds to, exactly; below 2^128 in magnitude.
    function toIntegral(uint256 a, uint256 rounding) internal pure returns (int256) {
        unchecked {
            (uint256 m, int256 q) = decode(a);
            uint256 n;
            if (q >= 0) {
                n = m << uint256(q);
            } else if (rounding == NEAREST_EVEN) {
                n = roundHalfEven(m, uint256(-q));
            } else {
                n = m >> uint256(-q);
                bool away = rounding == (a & SIGN == 0 ? UP : DOWN);
                if (away && n << uint256(-q) != m) ++n;
            }
            return a & SIGN == 0 ? int256(n) : -int256(n);
        }
    }

    /// @notice To an integer of `bits` bits, saturating; NaN gives 0.
    function toInteger(uint256 a, uint256 rounding, uint256 bits, bool signed) internal pure returns (int256) {
        unchecked {
            if (isNaN(a)) return 0;
            int256 low = signed ? -int256(1 << (bits - 1)) : int256(0);
            int256 high = low + int256(1 << bits) - 1;
            if (isInfinite(a)) return a & SIGN == 0 ? high : low;
            int256 n = toIntegral(a, rounding);
            return n < low ? low : n > high ? high : n;
        }
    }

    function fromInteger(int256 n) internal pure returns (uint256) {
        return roundScaled(n, 0);
    }
}
