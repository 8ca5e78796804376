// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";

/// @title exp, log, tanh, sigmoid, erf, sin and cos of a binary32, correctly rounded
/// @dev Each value is computed in fixed point with a relative error below 2^-104, and `_decide` rounds both ends of an
/// interval of 2^-100 about it. No value of these functions lies nearer to a tie than 2^-77 of itself
/// (benchmarks/results/closest.txt, over all 2^32 arguments), so that both ends round alike. The error of each function
/// is derived in docs/design/referee-arithmetic.md. rsqrt and sqrt are decided exactly, in Binary32.
library Functions {
    /// @dev Both ends of an interval rounded apart: a proof of this file is wrong. There is no such argument.
    error Undecided(uint256 mantissa, int256 exponent);

    /// @dev Fixed point: a number with 124 fractional bits.
    uint256 private constant ONE = 1 << 124;
    uint256 private constant INTERVAL = 100;
    /// @dev floor(2^200 log 2)
    uint256 private constant LN2 = 0xb17217f7d1cf79abc9e3b39803f2f6af40f343267298b62d8a;
    /// @dev floor(2^124 pi/2)
    uint256 private constant HALF_PI = 0x1921fb54442d18469898cc51701b839a;
    /// @dev The first 512 bits of 2/pi.
    uint256 private constant TWO_OVER_PI = 0xa2f9836e4e441529fc2757d1f534ddc0db6295993c439041fe5163abdebbc561;
    uint256 private constant TWO_OVER_PI_LOW = 0xb7246e3a424dd2e006492eea09d1921cfe1deb1cb129a73ee88235f52ebb4484;
    /// @dev floor(2^112 2/sqrt(pi))
    uint256 private constant TWO_OVER_ROOT_PI = 0x120dd750429b6d11ae3a914fed7fd;

    function exp(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (Binary32.isNaN(a)) return Binary32.NAN;
            // |x| >= 104: e^104 > 2^150
            if (a & Binary32.MAGNITUDE >= 0x42d00000) return a & Binary32.SIGN == 0 ? Binary32.INFINITY : 0;
            (uint256 m, int256 q) = Binary32.decode(a);
            int256 x = int256(m << uint256(q + 200));
            (uint256 t, int256 n) = _exponential(a & Binary32.SIGN == 0 ? x : -x);
            return _decide(0, t, n - 124);
        }
    }

    /// @notice log x = k log 2 + 2 artanh u, u = (z - 1)/(z + 1), x = z 2^k, z in [3/4, 3/2).
    function log(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (Binary32.isZero(a)) return Binary32.SIGN | Binary32.INFINITY;
            if (Binary32.isNaN(a) || a & Binary32.SIGN != 0) return Binary32.NAN;
            if (a == Binary32.INFINITY) return a;
            if (a == Binary32.ONE) return 0;
            (uint256 m, int256 q) = Binary32.decode(a);
            uint256 missing = 24 - Binary32.bitLength(m);
            m <<= missing;
            int256 k = q + 24 - int256(missing);
            if (m < 3 << 22) (m, k) = (m << 1, k - 1);
            // z = m 2^-24
            uint256 sign = m < 1 << 24 ? Binary32.SIGN : 0;
            uint256 numerator = sign == 0 ? m - (1 << 24) : (1 << 24) - m;
            // u = 2^-shift times a number of 124 to 126 bits, whatever its size; 0 where z = 1.
            uint256 shift = 150 - Binary32.bitLength(numerator);
            // Rounded down, by less than the interval that `_decide` allows for.
            // slither-disable-next-line divide-before-multiply
            uint256 u = (numerator << shift) / (m + (1 << 24));
            uint256 product = u * _artanhSeries(u * u >> (2 * shift - 124));
            if (k == 0) return _decide(sign, product, -123 - int256(shift));
            int256 small = int256(product >> (shift - 1));
            int256 total = (k * int256(LN2) >> 76) + (sign == 0 ? small : -small);
            return total < 0 ? _decide(Binary32.SIGN, uint256(-total), -124) : _decide(0, uint256(total), -124);
        }
    }

    /// @notice (1 - t)/(1 + t), t = e^-2|x|; odd.
    function tanh(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (Binary32.isNaN(a)) return Binary32.NAN;
            uint256 magnitude = a & Binary32.MAGNITUDE;
            uint256 sign = a & Binary32.SIGN;
            if (magnitude >= 0x41200000) return sign | Binary32.ONE; // |x| >= 10: 1 - tanh < 2^-27
            if (magnitude < 0x39800000) return a; // |x| < 2^-12: off x by less than 2^-25 of it
            (uint256 m, int256 q) = Binary32.decode(a);
            (uint256 t, int256 n) = _exponential(-int256(m << uint256(q + 201)));
            t >>= uint256(-n);
            return _decide(sign, (ONE - t << 124) / (ONE + t), -124);
        }
    }

    /// @notice 1/(1 + s) for x >= 0 and s/(1 + s) below, s = e^-|x|.
    function sigmoid(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (Binary32.isNaN(a)) return Binary32.NAN;
            // |x| >= 104
            if (a & Binary32.MAGNITUDE >= 0x42d00000) return a & Binary32.SIGN == 0 ? Binary32.ONE : 0;
            (uint256 m, int256 q) = Binary32.decode(a);
            (uint256 s, int256 n) = _exponential(-int256(m << uint256(q + 200)));
            uint256 denominator = ONE + (s >> uint256(-n));
            if (a & Binary32.SIGN == 0) return _decide(0, (ONE << 124) / denominator, -124);
            return _decide(0, (s << 124) / denominator, n - 124);
        }
    }

    /// @notice 2/sqrt(pi) x e^(-x^2) S, S = sum of c_n, c_0 = 1, c_n+1 = c_n 2x^2/(2n + 3); odd.
    function erf(uint256 a) internal pure returns (uint256) {
        unchecked {
            if (Binary32.isNaN(a)) return Binary32.NAN;
            uint256 sign = a & Binary32.SIGN;
            if (Binary32.isZero(a)) return a;
            if (a & Binary32.MAGNITUDE >= 0x40800000) return sign | Binary32.ONE; // |x| >= 4: 1 - erf < 2^-25
            (uint256 m, int256 q) = Binary32.decode(a);
            uint256 series = _erfSeries(_shifted(m * m, 2 * q + 113));
            (uint256 t, int256 n) = _exponential(-int256(_shifted(m * m, 2 * q + 200)));
            // e^(-x^2) S lies in [0.22, 1]; 110 fractional bits.
            uint256 product = series * (t >> 12) >> uint256(114 - n);
            return _decide(sign, product * TWO_OVER_ROOT_PI * m, q - 222);
        }
    }

    function sin(uint256 a) internal pure returns (uint256) {
        if (!Binary32.isFinite(a)) return Binary32.NAN;
        if (a & Binary32.MAGNITUDE < 0x39800000) return a; // |x| < 2^-12: off x by less than 2^-25 of it
        return _shiftedSine(a, 0);
    }

    function cos(uint256 a) internal pure returns (uint256) {
        if (!Binary32.isFinite(a)) return Binary32.NAN;
        if (a & Binary32.MAGNITUDE < 0x39800000) return Binary32.ONE; // |x| < 2^-12: off 1 by less than 2^-25
        return _shiftedSine(a & Binary32.MAGNITUDE, 1);
    }

    /// @dev RN of a value that is m 2^q but for a relative error below 2^-104; m < 2^254.
    function _decide(uint256 sign, uint256 m, int256 q) private pure returns (uint256 nearest) {
        unchecked {
            bool decided;
            (nearest, decided) = Binary32.packInterval(sign, m - (m >> INTERVAL), m + (m >> INTERVAL), q);
            if (!decided) revert Undecided(m, q);
        }
    }

    /// @dev floor(m 2^left), any left.
    function _shifted(uint256 m, int256 left) private pure returns (uint256) {
        unchecked {
            return left < 0 ? m >> uint256(-left) : m << uint256(left);
        }
    }

    /// @dev e^x = t 2^(n - 124), t in [2^124, 2^125], for x with 200 fractional bits and |x| < 2^8; n <= 0 for x <= 0.
    function _exponential(int256 x) private pure returns (uint256 t, int256 n) {
        assembly ("memory-safe") {
            n := sdiv(x, LN2)
            let rest := sub(x, mul(n, LN2))
            let below := slt(rest, 0)
            n := sub(n, below)
            // A sixteenth of what is left of x, in [0, log(2)/16): fewer terms, then four squares.
            let r := shr(80, add(rest, mul(below, LN2)))
            t := ONE
            for { let k := 18 } k { k := sub(k, 1) } { t := add(ONE, div(shr(124, mul(r, t)), k)) }
            t := shr(124, mul(t, t))
            t := shr(124, mul(t, t))
            t := shr(124, mul(t, t))
            t := shr(124, mul(t, t))
        }
    }

    /// @dev artanh(u)/u from v = u^2 <= 0.04: the sum of v^j/(2j + 1).
    function _artanhSeries(uint256 v) private pure returns (uint256 t) {
        assembly ("memory-safe") {
            for { let odd := 53 } odd { odd := sub(odd, 2) } {
                t := add(div(ONE, odd), shr(124, mul(v, t)))
                if eq(odd, 1) { break }
            }
        }
    }

    /// @dev S with 112 fractional bits from v = 2x^2 <= 32 with as many; all terms are positive, S < 2^21.
    function _erfSeries(uint256 v) private pure returns (uint256 total) {
        assembly ("memory-safe") {
            let c := shl(112, 1)
            for { let odd := 3 } c { odd := add(odd, 2) } {
                total := add(total, c)
                c := div(shr(112, mul(v, c)), odd)
            }
        }
    }

    /// @dev sin(x + quarters pi/2), |x| >= 2^-12.
    function _shiftedSine(uint256 a, uint256 quarters) private pure returns (uint256) {
        unchecked {
            (uint256 m, int256 q) = Binary32.decode(a);
            // floor(2^(q + 230) 2/pi), of which whole multiples of 4 turn nothing; -35 <= q <= 104.
            uint256 right = uint256(282 - q);
            uint256 window = right < 256 ? TWO_OVER_PI << (256 - right) | TWO_OVER_PI_LOW >> right : TWO_OVER_PI >> (right - 256);
            uint256 turns = m * (window & ((1 << 232) - 1)) & ((1 << 232) - 1);
            // |x| = (n + f) pi/2 and |f| <= 1/2, with 230 fractional bits
            uint256 n = turns + (1 << 229) >> 230;
            uint256 sign = a & Binary32.SIGN;
            uint256 f;
            if (turns < n << 230) {
                f = (n << 230) - turns;
                if ((n + quarters) & 1 == 0) sign ^= Binary32.SIGN;
            } else {
                f = turns - (n << 230);
            }
            n += quarters;
            if (n & 2 != 0) sign ^= Binary32.SIGN;
            // r = f pi/2 = 2^(shift - 230) times a number of 124 or 125 bits, whatever its size
            int256 shift = int256(Binary32.bitLength(f)) - 124;
            uint256 r = _shifted(f, -shift) * HALF_PI >> 124;
            uint256 square = r * r >> uint256(336 - 2 * shift);
            if (n & 1 == 0) return _decide(sign, r * _alternatingSeries(square, 1), shift - 354);
            return _decide(sign, _alternatingSeries(square, 0), -124);
        }
    }

    /// @dev cos r (extra 0) or sin(r)/r (extra 1) from v = r^2 <= 0.62.
    function _alternatingSeries(uint256 v, uint256 extra) private pure returns (uint256 t) {
        assembly ("memory-safe") {
            t := ONE
            for { let k := add(34, extra) } gt(k, 1) { k := sub(k, 2) } {
                t := sub(ONE, div(shr(124, mul(v, t)), mul(k, sub(k, 1))))
            }
        }
    }
}
