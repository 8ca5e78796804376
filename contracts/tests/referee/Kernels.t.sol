// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "../../contracts/referee/Binary32.sol";
import {Functions} from "../../contracts/referee/Functions.sol";
import {Integers} from "../../contracts/referee/Integers.sol";
import {Lanes} from "../../contracts/referee/Lanes.sol";
import {Orders} from "../../contracts/referee/Orders.sol";
import {Philox} from "../../contracts/referee/Philox.sol";
import {Products} from "../../contracts/referee/Products.sol";
import {Sums} from "../../contracts/referee/Sums.sol";
import {Test} from "../Test.sol";

/// @dev What holds for any bits, each beside a slower way to the same result or a law that only the right one obeys.
contract KernelsTest is Test {
    function testFuzz_ASumIsTheExactOneRoundedOnce(uint32 a, uint32 b) external pure {
        if (!Binary32.isFinite(a) || !Binary32.isFinite(b)) return;
        (uint256 ma, int256 qa) = Binary32.decode(a);
        (uint256 mb, int256 qb) = Binary32.decode(b);
        // Brought together where all of both fits one word, without a sticky bit.
        int256 q = qa < qb ? qa : qb;
        if (qa - q > 200 || qb - q > 200) return;
        int256 x = int256(ma << uint256(qa - q));
        int256 y = int256(mb << uint256(qb - q));
        int256 total = (a >> 31 == 0 ? x : -x) + (b >> 31 == 0 ? y : -y);
        uint256 expected = total == 0 ? a & b & Binary32.SIGN : Binary32.roundScaled(total, q);
        assertEq("sum", Binary32.add(a, b), expected);
        assertEq("either way", Binary32.add(b, a), expected);
        assertEq("difference", Binary32.sub(a, b ^ uint32(Binary32.SIGN)), expected);
    }

    function testFuzz_AQuotientTimesItsDivisorComesNearest(uint32 a, uint32 b) external pure {
        uint256 quotient = Binary32.div(a, b);
        if (!Binary32.isFinite(a) || !Binary32.isFinite(b) || Binary32.isZero(b) || !Binary32.isFinite(quotient)) return;
        (uint256 ma, int256 qa) = Binary32.decode(a);
        (uint256 mb, int256 qb) = Binary32.decode(b);
        (uint256 m, int256 q) = Binary32.decode(quotient);
        // |a - quotient b| <= half a last place of the quotient, times b; a quarter place below where it is 2^k.
        int256 low = qa < q + qb - 1 ? qa : q + qb - 1;
        if (qa - low > 200 || q + qb - low > 200) return;
        uint256 dividend = ma << uint256(qa - low);
        uint256 product = m * mb << uint256(q + qb - low);
        uint256 half = mb << uint256(q + qb - 1 - low);
        assertAtMost("remainder", dividend > product ? dividend - product : product - dividend, half);
    }

    function testFuzz_ARootSquaredComesNearest(uint32 a) external pure {
        a &= uint32(Binary32.MAGNITUDE);
        if (Binary32.isZero(a) || !Binary32.isFinite(a)) return;
        (uint256 m, int256 q) = Binary32.decode(Binary32.sqrt(a));
        (uint256 ma, int256 qa) = Binary32.decode(a);
        // (2m - 1)^2 < 4a < (2m + 1)^2 in units of 2^2q
        int256 shift = qa - 2 * q;
        uint256 x = 4 * ma << uint256(shift < 0 ? int256(0) : shift);
        uint256 scale = shift < 0 ? uint256(-shift) : 0;
        assertTrue("below", (2 * m - 1) * (2 * m - 1) << scale < x);
        assertTrue("above", (2 * m + 1) * (2 * m + 1) << scale > x);
    }

    function testFuzz_IntegersSurviveTheWayThroughAFloat(int32 n, uint8 rounding) external pure {
        int256 small = n >> 8;
        uint256 bits = Binary32.fromInteger(small);
        assertTrue("back", Binary32.toInteger(bits, rounding % 4, 32, true) == small);
        assertEq("integral already", Binary32.round(bits, rounding % 4), bits);
    }

    function testFuzz_ComparisonsAndOrderAgree(uint32 a, uint32 b, uint8 twist) external pure {
        if (twist % 4 == 0) b = a;
        if (twist % 4 == 1) b = a ^ uint32(Binary32.SIGN);
        if (Binary32.isNaN(a) || Binary32.isNaN(b)) {
            assertTrue("unordered", !Binary32.lt(a, b) && !Binary32.le(a, b) && !Binary32.eq(a, b));
            assertEq("maximum", Binary32.maximum(a, b), Binary32.isNaN(a) ? a : b);
            return;
        }
        uint256 holds = (Binary32.lt(a, b) ? 1 : 0) + (Binary32.eq(a, b) ? 1 : 0) + (Binary32.lt(b, a) ? 1 : 0);
        assertEq("one of three", holds, 1);
        assertTrue("at most", Binary32.le(a, b) == !Binary32.lt(b, a));
        assertEq("both of the two", Binary32.maximum(a, b) ^ Binary32.minimum(a, b), a ^ b);
        assertTrue("the larger", !Binary32.lt(Binary32.maximum(a, b), Binary32.minimum(a, b)));
    }

    function testFuzz_EveryArgumentIsDecided(uint32 a) external pure {
        // None of these reverts, and each keeps its range and its symmetry.
        uint32 minus = a ^ uint32(Binary32.SIGN);
        uint256 one = Binary32.ONE;
        Functions.log(a);
        if (Binary32.isNaN(a)) {
            assertEq("NaN", Functions.exp(a) ^ Functions.tanh(a) ^ Functions.erf(a), Binary32.NAN);
            return;
        }
        assertTrue("exp", Functions.exp(a) <= Binary32.INFINITY);
        assertTrue("sigmoid", Functions.sigmoid(a) <= one);
        assertTrue("tanh", Functions.tanh(a) & Binary32.MAGNITUDE <= one);
        assertTrue("erf", Functions.erf(a) & Binary32.MAGNITUDE <= one);
        assertEq("tanh is odd", Functions.tanh(minus), Functions.tanh(a) ^ Binary32.SIGN);
        assertEq("erf is odd", Functions.erf(minus), Functions.erf(a) ^ Binary32.SIGN);
        if (Binary32.isInfinite(a)) return;
        assertTrue("sin", Functions.sin(a) & Binary32.MAGNITUDE <= one);
        assertEq("sin is odd", Functions.sin(minus), Functions.sin(a) ^ Binary32.SIGN);
        assertEq("cos is even", Functions.cos(minus), Functions.cos(a));
    }

    function testFuzz_MonotonicFunctionsAre(uint32 a, uint16 step) external pure {
        uint256 x = a & 0x7fffffff;
        uint256 y = x + step;
        if (y > Binary32.INFINITY) return;
        assertAtMost("exp", Functions.exp(x), Functions.exp(y));
        assertAtMost("tanh", Functions.tanh(x), Functions.tanh(y));
        assertAtMost("sigmoid", Functions.sigmoid(x), Functions.sigmoid(y));
        assertAtMost("erf", Functions.erf(x), Functions.erf(y));
        assertAtMost("exp of minus", Functions.exp(y | Binary32.SIGN), Functions.exp(x | Binary32.SIGN));
        assertAtMost("rsqrt", Binary32.rsqrt(y), Binary32.rsqrt(x));
        assertTrue("log", Binary32.orderKey(Functions.log(x), 0) <= Binary32.orderKey(Functions.log(y), 0));
    }

    function testFuzz_ProductsOfLanesAreThoseOneByOne(bytes calldata left, bytes calldata right, uint256 cut) external pure {
        uint256 count = (left.length < right.length ? left.length : right.length) / 2;
        int256 expected;
        for (uint256 i = 0; i < count; ++i) {
            expected += int256(_int16(left, i)) * _int16(right, i);
        }
        assertTrue("dot", Products.dot(left, right, count) == expected);
        assertTrue("either way", Products.dot(right, left, count) == expected);
        cut = bound(cut, 0, count);
        int256 first = Products.dot(left, right, cut);
        assertTrue("blocks", first + Products.dot(left[2 * cut:], right[2 * cut:], count - cut) == expected);
    }

    function _int16(bytes calldata row, uint256 i) private pure returns (int16) {
        return int16(uint16(uint8(row[2 * i])) | uint16(uint8(row[2 * i + 1])) << 8);
    }

    function testFuzz_ASumDoesNotDependOnOrderOrBlocks(bytes calldata row, uint256 cut, uint8 narrow) external pure {
        uint256 count = row.length / 4;
        uint256[] memory terms = new uint256[](count);
        uint256[] memory turned = new uint256[](count);
        uint256 largest;
        for (uint256 i = 0; i < count; ++i) {
            uint256 bits = Lanes.loadFloat(Lanes.begin(row, count, 4), i);
            // Mostly finite and of one size: any bits would rarely add to anything.
            if (narrow % 4 != 0) bits = bits & 0x81ffffff | 0x3e000000;
            if (Binary32.isNaN(bits)) bits = Binary32.NAN;
            (terms[i], turned[count - 1 - i]) = (bits, bits);
            if (bits & Binary32.MAGNITUDE > largest) largest = bits & Binary32.MAGNITUDE;
        }
        uint256 expected = Sums.sumOf(terms);
        assertEq("turned", Sums.sumOf(turned), expected);
        if (narrow % 4 != 0) return;
        assertEq("row", Sums.sum(row, count), expected);
        int256 e = Products.exponent(row, count);
        assertTrue("exponent", e == Products.exponentOfMagnitude(largest));
        cut = bound(cut, 0, count);
        (int256 first, bool within) = Sums.partialSum(row[:4 * cut], cut, e);
        (int256 second, bool also) = Sums.partialSum(row[4 * cut:], count - cut, e);
        if (e == Products.NOT_FINITE) assertTrue("not finite", !within || !also);
        else assertEq("blocks", Sums.round(first + second, e), expected);
    }

    function testFuzz_ThreeDigitsAreTwoPlanes(uint32 a, int16 e) external pure {
        int256 high = Products.quantize(a, e, 3, 0);
        int256 low = Products.quantize(a, e, 3, 1);
        assertTrue("low plane", low >= -512 && low <= 511);
        assertTrue("range", 1024 * high + low <= 1 << 20 && 1024 * high + low >= -1 << 20);
        // What two digits keep of it is within half a unit of theirs.
        int256 off = 1024 * high + low - (Products.quantize(a, e, 2, 0) << 7);
        assertTrue("rounding", off <= 64 && off >= -64);
    }

    function testFuzz_QuotientAndRemainderMakeTheDividend(int64 x, int64 y, uint8 which) external pure {
        uint256 dtype = Integers.INT8 + which % 5;
        int256 a = Integers.wrap(x, dtype);
        int256 b = Integers.wrap(y, dtype);
        int256 remainder = Integers.rem(a, b, dtype);
        assertTrue("sum", Integers.add(Integers.mul(Integers.div(a, b, dtype), b, dtype), remainder, dtype) == a);
        if (b != 0) assertTrue("sign", remainder == 0 || (remainder < 0) == (b < 0));
    }

    function testFuzz_ShiftsMoveBits(int64 x, uint8 count, uint8 which) external pure {
        uint256 dtype = Integers.INT8 + which % 5;
        uint256 width = Integers.width(dtype);
        int256 a = Integers.wrap(x, dtype);
        uint256 by = count % width;
        uint256 expected = (Integers.unsigned(a, dtype) << by) & ((1 << width) - 1);
        int256 moved = Integers.shl(a, int256(uint256(count)), dtype);
        assertEq("left", Integers.unsigned(moved, dtype), expected);
        int256 back = Integers.shrLogical(moved, int256(by), dtype);
        assertEq("back", Integers.unsigned(back, dtype), expected >> by);
    }

    function testFuzz_ExactlyOneOfTwoPlacesComesFirst(int64 x, int64 y, uint8 which, bool descending) external pure {
        uint256 dtype = Integers.FLOAT32 + which % 7;
        int256 a = dtype == Integers.FLOAT32 ? int256(uint256(uint64(x) >> 32)) : Integers.wrap(x, dtype);
        int256 b = dtype == Integers.FLOAT32 ? int256(uint256(uint64(y) >> 32)) : Integers.wrap(y, dtype);
        if (which >= 128) b = a;
        bool before = Orders.isBefore(a, 3, b, 4, dtype, descending);
        assertTrue("one", before != Orders.isBefore(b, 4, a, 3, dtype, descending));
        if (a == b) assertTrue("the lower place", before);
    }

    function testFuzz_TheFirstHasNothingBeforeIt(bytes calldata row, uint8 which, bool descending) external pure {
        uint256 dtype = Integers.FLOAT32 + which % 7;
        uint256 count = row.length / Integers.size(dtype);
        if (count == 0) return;
        (uint256 position, int256 value) = Orders.first(row, count, dtype, descending);
        assertEq("before", Orders.countBefore(row, count, 0, value, position, dtype, descending), 0);
    }

    /// @dev Random123's kat_vectors.
    function test_PhiloxGivesThePublishedBlock() external pure {
        (uint256 a, uint256 b, uint256 c, uint256 d) =
            Philox.block4(0xa4093822, 0x299f31d0, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344);
        assertEq("block", a << 96 | b << 64 | c << 32 | d, 0xd16cfe0994fdcceb5001e42024126ea1);
    }
}
