// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Elements} from "./Elements.sol";
import {Integers} from "./Integers.sol";
import {Lanes} from "./Lanes.sol";
import {Openings} from "./Openings.sol";
import {Orders} from "./Orders.sol";
import {Products} from "./Products.sol";
import {RefereeErrors} from "./RefereeErrors.sol";
import {Sums as FloatSums} from "./Sums.sol";
import {Block, Opened, Proof, Reader, Sums} from "./Types.sol";

/// @title Elements too long to recompute at once: blocks of terms, and extremes by position
/// @dev protocol/disputes/terms.py asks for the same parts in the same order. Terms are counted along the reduced dimension; of
/// INDEX_ADD they are the source positions, and then the old value.
library Terms {
    uint256 internal constant BLOCK_TERMS = 1024;
    /// @dev Source positions of INDEX_ADD: each may lie in a leaf of its own.
    uint256 internal constant BLOCK_POSITIONS = 16;
    uint256 internal constant MAX_SUMS = 1024;
    /// @dev Keys of terms above every finite one's exponent.
    int256 internal constant INFINITE_KEY = 129;
    int256 internal constant NAN_KEY = 130;
    /// @dev Of a term that does not count in an exponent: below every other.
    int256 internal constant NO_KEY = type(int32).min;

    function isFloatSum(Opened memory o) internal pure returns (bool) {
        uint256 code = o.operation.opcode;
        return code == Elements.INDEX_ADD || (code == Elements.SUM && o.operation.result.dtype == Integers.FLOAT32);
    }

    function isSummed(uint256 code) internal pure returns (bool) {
        return code == Elements.SUM || code == Elements.CUMSUM || code == Elements.INDEX_ADD || isDot(code);
    }

    function isDot(uint256 code) internal pure returns (bool) {
        return code == Elements.DOT || code == Elements.DOT_ROWS;
    }

    function isExponent(uint256 code) internal pure returns (bool) {
        return code == Elements.EXPONENT || code == Elements.EXPONENT_SCALED;
    }

    /// @notice Whether one term alone decides, which the accused has to name: EXPONENT, EXPONENT_SCALED, MAX, MIN, SCATTER.
    function isNamed(uint256 code) internal pure returns (bool) {
        return isExponent(code) || code == Elements.MAX || code == Elements.MIN || code == Elements.SCATTER;
    }

    /// @notice Whether the element names the term itself, and others in their order: ARGMAX, ARGMIN, TOPK, SORT.
    function isOrdered(uint256 code) internal pure returns (bool) {
        return code >= Elements.ARGMAX && code <= Elements.SORT;
    }

    function count(Opened memory o, uint256 element) internal pure returns (uint256) {
        uint256 code = o.operation.opcode;
        if (code == Elements.INDEX_ADD) return o.operands[1].declared.dims[0] + 1;
        if (code == Elements.CUMSUM) return element % Elements.lastSize(o.operands[0]) + 1;
        if (isDot(code)) return Elements.lastSize(o.operands[o.operands.length - 1]);
        if (code == Elements.SCATTER) return Elements.sources(o, element);
        if (isSummed(code) || isNamed(code)) return Elements.lastSize(o.operands[0]);
        revert RefereeErrors.NoTerms(code);
    }

    function blockTerms(uint256 code) internal pure returns (uint256) {
        return code == Elements.INDEX_ADD ? BLOCK_POSITIONS : BLOCK_TERMS;
    }

    /// @notice How many partial sums the terms are cut into: blocks, or 1,024 times as many terms each, and so on.
    function sumCount(uint256 block_, uint256 terms) internal pure returns (uint256) {
        uint256 size = childTerms(block_, terms);
        return (terms + size - 1) / size;
    }

    /// @notice Terms under each of those sums, but for the last.
    function childTerms(uint256 block_, uint256 terms) internal pure returns (uint256 size) {
        size = block_;
        while (size * MAX_SUMS < terms) {
            size *= MAX_SUMS;
        }
    }

    /// @notice The exact sum of a block's terms, integers wrapping as int64; false where a float term is larger than the exponent.
    function sumBlock(Opened memory o, Proof calldata p, uint256 element, Block calldata part)
        internal
        view
        returns (int256 total, bool within)
    {
        uint256 code = o.operation.opcode;
        uint256 size = part.end - part.first;
        if (code == Elements.INDEX_ADD) return _sumLanding(o, p, element, part);
        if (isDot(code)) {
            (uint256 left, uint256 right) = Elements.dotRows(o.operation, element);
            uint256 length = count(o, element);
            return (Elements.sumProducts(o, p, left * length + part.first, right * length + part.first, size), true);
        }
        Reader memory x = o.operands[0];
        uint256 row = code == Elements.CUMSUM ? element / Elements.lastSize(x) : element;
        bytes calldata data = Openings.read(o, p, x, row * Elements.lastSize(x) + part.first, size);
        if (x.declared.dtype == Integers.FLOAT32) return FloatSums.partialSum(data, size, part.exponent);
        return (Integers.sum(data, size, x.declared.dtype), true);
    }

    function _sumLanding(Opened memory o, Proof calldata p, uint256 element, Block calldata part)
        private
        view
        returns (int256 total, bool within)
    {
        uint256 width = o.operands[0].declared.dims[1];
        uint256 n = o.operands[1].declared.dims[0];
        uint256 end = part.end < n ? part.end : n;
        within = true;
        if (end > part.first) {
            bytes calldata index = Openings.read(o, p, o.operands[1], part.first, end - part.first);
            uint256 offset = Lanes.begin(index, end - part.first, 8);
            for (uint256 i = part.first; i < end; ++i) {
                if (Integers.load(offset, i - part.first, Integers.INT64) != int256(element / width)) continue;
                int256 bits = Elements.value(o, p, o.operands[2], i * width + element % width);
                (total, within) = _plus(total, within, uint256(bits), part.exponent);
            }
        }
        if (part.end > n) {
            int256 bits = Elements.value(o, p, o.operands[0], element);
            (total, within) = _plus(total, within, uint256(bits), part.exponent);
        }
    }

    function _plus(int256 total, bool within, uint256 bits, int256 exponent) private pure returns (int256, bool) {
        int256 its = key(bits);
        if (!within || its > exponent || its >= INFINITE_KEY) return (total, false);
        return (total + FloatSums.term(bits, exponent), true);
    }

    /// @notice A float term's bits.
    function termBits(Opened memory o, Proof calldata p, uint256 element, uint256 position)
        internal
        view
        returns (uint256)
    {
        uint256 terms = count(o, element);
        if (position >= terms) revert RefereeErrors.NotATerm(position);
        if (o.operation.opcode != Elements.INDEX_ADD) {
            return uint256(Elements.value(o, p, o.operands[0], element * terms + position));
        }
        if (position == terms - 1) return uint256(Elements.value(o, p, o.operands[0], element));
        uint256 width = o.operands[0].declared.dims[1];
        if (Elements.value(o, p, o.operands[1], position) != int256(element / width)) {
            revert RefereeErrors.NotATerm(position);
        }
        return uint256(Elements.value(o, p, o.operands[2], position * width + element % width));
    }

    /// @notice How large a term is: its exponent, ZERO_ROW for a zero, then infinities, then NaN.
    function key(uint256 bits) internal pure returns (int256) {
        if (Binary32.isNaN(bits)) return NAN_KEY;
        return Binary32.isInfinite(bits) ? INFINITE_KEY : Products.exponentOfMagnitude(bits & Binary32.MAGNITUDE);
    }

    /// @notice Of two terms together: infinities of both signs make the sum NaN.
    function pairKey(uint256 one, uint256 other) internal pure returns (int256) {
        if (Binary32.isInfinite(one) && other == one ^ Binary32.SIGN) return NAN_KEY;
        (int256 first, int256 second) = (key(one), key(other));
        return first > second ? first : second;
    }

    /// @notice What a term counts as in EXPONENT or EXPONENT_SCALED, NO_KEY if it does not.
    function exponentOfTerm(Opened memory o, Proof calldata p, uint256 element, uint256 position)
        internal
        view
        returns (int256)
    {
        Reader memory x = o.operands[0];
        uint256 length = Elements.lastSize(x);
        if (position >= length) revert RefereeErrors.NotATerm(position);
        uint256 bits = uint256(Elements.value(o, p, x, element * length + position));
        bool scaled = o.operation.opcode == Elements.EXPONENT_SCALED;
        int256 scale = 0;
        if (scaled) {
            scale = Elements.value(o, p, o.operands[1], Elements.firstScale(x, element) + position);
            if (!Binary32.isZero(bits) && scale == Products.NOT_FINITE) return scale;
        }
        if (!Binary32.isFinite(bits)) return Products.NOT_FINITE;
        if (Binary32.isZero(bits) || (scaled && scale <= Products.ZERO_ROW)) return NO_KEY;
        return Binary32.exponentOf(bits) + Products.clampScale(scale);
    }

    /// @notice What the sums, added and rounded, give; not possible where the named terms have not the posted exponent.
    function ofSums(Opened memory o, Proof calldata p, uint256 element, Sums calldata sums)
        internal
        view
        returns (int256 value, bool possible)
    {
        int256 total = _added(sums.sums);
        uint256 code = o.operation.opcode;
        if (isDot(code)) {
            (uint256 left, uint256 right) = Elements.dotRows(o.operation, element);
            int256 ea = Elements.value(o, p, o.operands[0], left);
            int256 eb = code == Elements.DOT ? Elements.value(o, p, o.operands[1], right) : int256(0);
            return (int256(Products.roundDot(total, ea, eb, uint256(o.operation.attributes[0]))), true);
        }
        if (!isFloatSum(o)) return (Integers.wrap(total, Integers.INT64), true);
        uint256 one = termBits(o, p, element, sums.positions[0]);
        uint256 other = termBits(o, p, element, sums.positions[1]);
        if (pairKey(one, other) != sums.exponent) return (0, false);
        if (sums.exponent == NAN_KEY) return (int256(Binary32.NAN), true);
        if (sums.exponent == INFINITE_KEY) return (int256(Binary32.isInfinite(one) ? one : other), true);
        return (int256(FloatSums.round(total, sums.exponent)), true);
    }

    function _added(int256[] calldata sums) private pure returns (int256 total) {
        for (uint256 i = 0; i < sums.length; ++i) {
            int256 one = sums[i];
            if (one > type(int128).max || one < type(int128).min) revert RefereeErrors.SumOutOfRange(one);
            total += one;
        }
    }

    // Named terms

    /// @notice What the element is if the named term is the one that decides. Of SCATTER the number of sources stands for none.
    function ofTerm(Opened memory o, Proof calldata p, uint256 element, uint256 position)
        internal
        view
        returns (int256 value, bool possible)
    {
        uint256 code = o.operation.opcode;
        if (isExponent(code)) {
            int256 found = exponentOfTerm(o, p, element, position);
            return (found == NO_KEY ? Products.ZERO_ROW : found, true);
        }
        uint256 terms = count(o, element);
        if (code == Elements.SCATTER) {
            if (position == terms) return (Elements.value(o, p, o.operands[0], element), true);
            return (Elements.value(o, p, o.operands[2], _landing(o, p, element, position, terms)), true);
        }
        if (position >= terms) revert RefereeErrors.NotATerm(position);
        return (Elements.value(o, p, o.operands[0], element * terms + position), true);
    }

    /// @notice Whether a term comes before the one that the accused named, which was found to be a term.
    function precedes(Opened memory o, Proof calldata p, uint256 element, uint256 position, uint256 named)
        internal
        view
        returns (bool)
    {
        uint256 code = o.operation.opcode;
        if (isExponent(code)) {
            return exponentOfTerm(o, p, element, position) > exponentOfTerm(o, p, element, named);
        }
        if (code != Elements.SCATTER) return isAhead(o, p, element, position, named);
        uint256 terms = count(o, element);
        _landing(o, p, element, position, terms);
        return named == terms || position > named;
    }

    /// @dev Where in the source of SCATTER a term stands that lands in the element.
    function _landing(Opened memory o, Proof calldata p, uint256 element, uint256 position, uint256 terms)
        private
        view
        returns (uint256 place)
    {
        if (position >= terms) revert RefereeErrors.NotATerm(position);
        bool lands;
        (lands, place) = Elements.landsAt(o, p, element, position);
        if (!lands) revert RefereeErrors.NotATerm(position);
    }

    // Orders

    /// @notice Whether one term of a row comes before another in the order that the operation looks along.
    function isAhead(Opened memory o, Proof calldata p, uint256 row, uint256 position, uint256 other)
        internal
        view
        returns (bool)
    {
        Reader memory x = o.operands[0];
        uint256 length = Elements.lastSize(x);
        if (position >= length) revert RefereeErrors.NotATerm(position);
        int256 one = Elements.value(o, p, x, row * length + position);
        int256 two = Elements.value(o, p, x, row * length + other);
        return Orders.isBefore(one, position, two, other, x.declared.dtype, Elements.isDescending(o.operation));
    }

    /// @notice TOPK and SORT: one place against another, or with a term that belongs between it and the place before.
    function isInOrder(Opened memory o, Proof calldata p, uint256 element, uint64[2] calldata positions)
        internal
        view
        returns (bool)
    {
        uint256 places = Elements.lastSize(o.result);
        uint256 place = element % places;
        (bool exists, int256 here, uint256 index) = _named(o, p, element, element / places);
        if (!exists) return false;
        bool descending = Elements.isDescending(o.operation);
        uint256 dtype = o.operands[0].declared.dtype;
        (uint256 other, uint256 between) = (positions[0], positions[1]);
        int256 before = 0;
        uint256 beforeIndex = 0;
        bool follows = true;
        if (between == 0 || place > 0) {
            if (other >= places || other == place || (between != 0 && other + 1 != place)) {
                revert RefereeErrors.NotATerm(other);
            }
            (exists, before, beforeIndex) = _named(o, p, element - place + other, element / places);
            if (!exists) return false;
            if (between == 0) {
                return other < place
                    ? Orders.isBefore(before, beforeIndex, here, index, dtype, descending)
                    : Orders.isBefore(here, index, before, beforeIndex, dtype, descending);
            }
        }
        uint256 length = Elements.lastSize(o.operands[0]);
        if (between - 1 >= length) revert RefereeErrors.NotATerm(between - 1);
        // A place: whole rows, times what each has.
        // slither-disable-next-line divide-before-multiply
        int256 leftOut = Elements.value(o, p, o.operands[0], element / places * length + between - 1);
        if (place > 0) follows = Orders.isBefore(before, beforeIndex, leftOut, between - 1, dtype, descending);
        return !(follows && Orders.isBefore(leftOut, between - 1, here, index, dtype, descending));
    }

    /// @dev The value that a place of the result names, and where.
    function _named(Opened memory o, Proof calldata p, uint256 place, uint256 row)
        private
        view
        returns (bool exists, int256 value, uint256 index)
    {
        uint256 length = Elements.lastSize(o.operands[0]);
        int256 claimed = Elements.value(o, p, o.result, place);
        if (claimed < 0 || claimed >= int256(length)) return (false, 0, 0);
        index = uint256(claimed);
        return (true, Elements.value(o, p, o.operands[0], row * length + index), index);
    }
}
