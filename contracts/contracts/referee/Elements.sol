// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Integers} from "./Integers.sol";
import {Lanes} from "./Lanes.sol";
import {Openings} from "./Openings.sol";
import {Orders} from "./Orders.sol";
import {Philox} from "./Philox.sol";
import {Products} from "./Products.sol";
import {RefereeErrors} from "./RefereeErrors.sol";
import {Shapes} from "./Shapes.sol";
import {Sums} from "./Sums.sol";
import {Opened, Operation, Proof, Reader} from "./Types.sol";

/// @title One element of every operation but elementwise ones, recomputed
/// @dev Opcodes are numbered as protocol/arithmetic/operations.py numbers them; protocol/disputes/elements.py asks for the same
/// parts of the operands in the same order. Values are bits of a float, else signed integers.
library Elements {
    uint256 internal constant MAX_TERMS = 16_384;

    uint256 internal constant SUM = 64;
    uint256 internal constant MAX = 65;
    uint256 internal constant MIN = 66;
    uint256 internal constant ARGMAX = 67;
    uint256 internal constant ARGMIN = 68;
    uint256 internal constant TOPK = 69;
    uint256 internal constant SORT = 70;
    uint256 internal constant CUMSUM = 71;
    uint256 internal constant INDEX_ADD = 82;
    uint256 internal constant SCATTER = 83;
    uint256 internal constant EXPONENT = 96;
    uint256 internal constant EXPONENT_SCALED = 98;
    uint256 internal constant DOT = 100;
    uint256 internal constant DOT_ROWS = 101;

    /// @notice One element of an operand.
    function value(Opened memory o, Proof calldata p, Reader memory x, uint256 place) internal view returns (int256) {
        bytes calldata data = Openings.read(o, p, x, place, 1);
        return Integers.load(_at(data), 0, x.declared.dtype);
    }

    function _at(bytes calldata data) private pure returns (uint256 spot) {
        assembly ("memory-safe") {
            spot := data.offset
        }
    }

    function lastSize(Reader memory x) internal pure returns (uint256) {
        return x.declared.dims[x.declared.dims.length - 1];
    }

    function checkTerms(uint256 terms) internal pure {
        if (terms > MAX_TERMS) revert RefereeErrors.TooLong(terms, MAX_TERMS);
    }

    /// @notice A row along the last dimension.
    function _row(Opened memory o, Proof calldata p, Reader memory x, uint256 row)
        private
        view
        returns (bytes calldata data)
    {
        uint256 length = lastSize(x);
        checkTerms(length);
        return Openings.read(o, p, x, row * length, length);
    }

    /// @notice The right value of a row-major element.
    function recompute(Opened memory o, Proof calldata p, uint256 element) internal view returns (int256) {
        uint256 code = o.operation.opcode;
        if (code <= 7) return _copied(o, p, element);
        if (code <= CUMSUM) return _reduced(o, p, element);
        if (code < EXPONENT) return _indexed(o, p, element);
        if (code == 112) {
            uint256 key = uint256(value(o, p, o.operands[0], 0));
            uint256 step = uint256(value(o, p, o.operands[1], 0));
            uint256 stream = uint256(o.operation.attributes[0]);
            return Integers.wrap(int256(Philox.word64(key, element, stream, step)), Integers.INT64);
        }
        return _multiplied(o, p, element);
    }

    // Shapes and copies

    function _copied(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        Operation memory op = o.operation;
        uint256[] memory to = op.result.dims;
        if (op.opcode == 7) return int256(Shapes.coordinates(to, element)[uint256(op.attributes[0])]);
        if (op.opcode == 6) return _concatenated(o, p, element);
        Reader memory x = o.operands[0];
        if (op.opcode == 5) {
            (bool inside, uint256 place) = Shapes.padded(x.declared.dims, to, op.attributes, element);
            return inside ? value(o, p, x, place) : op.attributes[0];
        }
        return value(o, p, x, Shapes.source(op.opcode, x.declared.dims, to, op.attributes, element));
    }

    function _concatenated(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256[] memory index = Shapes.coordinates(o.operation.result.dims, element);
        uint256 dim = uint256(o.operation.attributes[0]);
        for (uint256 i = 0; i < o.operands.length; ++i) {
            uint256[] memory dims = o.operands[i].declared.dims;
            if (index[dim] < dims[dim]) return value(o, p, o.operands[i], Shapes.flat(dims, index));
            index[dim] -= dims[dim];
        }
        revert RefereeErrors.MalformedItem(element);
    }

    // Rows

    function _reduced(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256 code = o.operation.opcode;
        Reader memory x = o.operands[0];
        uint256 dtype = x.declared.dtype;
        uint256 length = lastSize(x);
        if (code == CUMSUM) {
            uint256 place = element % length;
            checkTerms(place + 1);
            return Integers.sum(Openings.read(o, p, x, element - place, place + 1), place + 1, dtype);
        }
        if (code == TOPK || code == SORT) return _ordered(o, p, x, element);
        bytes calldata row = _row(o, p, x, element);
        if (code == SUM) {
            return dtype == Integers.FLOAT32 ? int256(Sums.sum(row, length)) : Integers.sum(row, length, dtype);
        }
        (uint256 position, int256 first) = Orders.first(row, length, dtype, code == MAX || code == ARGMAX);
        return code >= ARGMAX ? int256(position) : first;
    }

    /// @dev The claimed index is right exactly if it exists and as many elements come before it as its place says.
    /// Otherwise any other index than the claimed one may be returned: it only tells that the claim is wrong.
    function _ordered(Opened memory o, Proof calldata p, Reader memory x, uint256 element) private view returns (int256) {
        uint256 place = element % o.operation.result.dims[o.operation.result.dims.length - 1];
        uint256 length = lastSize(x);
        bool descending = isDescending(o.operation);
        int256 claimed = value(o, p, o.result, element);
        bytes calldata row = _row(o, p, x, element / o.operation.result.dims[o.operation.result.dims.length - 1]);
        if (claimed < 0 || claimed >= int256(length)) return ~claimed;
        int256 named = Integers.load(_at(row), uint256(claimed), x.declared.dtype);
        uint256 before = Orders.countBefore(row, length, 0, named, uint256(claimed), x.declared.dtype, descending);
        return before == place ? claimed : ~claimed;
    }

    function isDescending(Operation memory op) internal pure returns (bool) {
        if (op.opcode == SORT) return op.attributes[0] == 1;
        return op.opcode == MAX || op.opcode == ARGMAX || op.opcode == TOPK;
    }

    // Indexing

    function _indexed(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256 code = o.operation.opcode;
        if (code == INDEX_ADD) return _indexAdded(o, p, element);
        if (code == SCATTER) return _scattered(o, p, element);
        Reader memory x = o.operands[0];
        uint256[] memory dims = x.declared.dims;
        if (code == 81) {
            uint256 width = Shapes.product(dims, 1);
            int256 row = value(o, p, o.operands[1], element / width);
            if (row < 0 || row >= int256(dims[0])) return 0;
            return value(o, p, x, uint256(row) * width + element % width);
        }
        if (code != 80) revert RefereeErrors.UnknownOpcode(code);
        uint256[] memory spot = Shapes.coordinates(o.operands[1].declared.dims, element);
        uint256 dim = uint256(o.operation.attributes[0]);
        int256 chosen = value(o, p, o.operands[1], element);
        if (chosen < 0 || chosen >= int256(dims[dim])) return 0;
        spot[dim] = uint256(chosen);
        return value(o, p, x, Shapes.flat(dims, spot));
    }

    /// @dev The last source that names this place, looked for from the end.
    function _scattered(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256[] memory dims = o.operands[1].declared.dims;
        uint256[] memory spot = Shapes.coordinates(o.operands[0].declared.dims, element);
        uint256 dim = uint256(o.operation.attributes[0]);
        uint256 place = spot[dim];
        uint256 along = sources(o, element);
        checkTerms(along);
        for (; along > 0; --along) {
            spot[dim] = along - 1;
            uint256 position = Shapes.flat(dims, spot);
            if (value(o, p, o.operands[1], position) == int256(place)) return value(o, p, o.operands[2], position);
        }
        return value(o, p, o.operands[0], element);
    }

    /// @notice Sources of SCATTER that may name an element's place: all along the dimension, or none beyond the index's shape.
    function sources(Opened memory o, uint256 element) internal pure returns (uint256) {
        uint256[] memory dims = o.operands[1].declared.dims;
        uint256[] memory spot = Shapes.coordinates(o.operands[0].declared.dims, element);
        uint256 dim = uint256(o.operation.attributes[0]);
        for (uint256 d = 0; d < dims.length; ++d) {
            if (d != dim && spot[d] >= dims[d]) return 0;
        }
        return dims[dim];
    }

    /// @notice Whether one of those sources names the element's place, and where in the source it stands.
    function landsAt(Opened memory o, Proof calldata p, uint256 element, uint256 along)
        internal
        view
        returns (bool lands, uint256 position)
    {
        uint256[] memory spot = Shapes.coordinates(o.operands[0].declared.dims, element);
        uint256 dim = uint256(o.operation.attributes[0]);
        int256 place = int256(spot[dim]);
        spot[dim] = along;
        position = Shapes.flat(o.operands[1].declared.dims, spot);
        lands = value(o, p, o.operands[1], position) == place;
    }

    function _indexAdded(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256 width = o.operands[0].declared.dims[1];
        uint256 n = o.operands[1].declared.dims[0];
        checkTerms(n);
        int256 row = int256(element / width);
        int256 old = value(o, p, o.operands[0], element);
        bytes calldata index = Openings.read(o, p, o.operands[1], 0, n);
        uint256 spot = _at(index);
        uint256[] memory terms = new uint256[](n + 1);
        terms[0] = uint256(old);
        uint256 found = 1;
        for (uint256 i = 0; i < n; ++i) {
            if (Integers.load(spot, i, Integers.INT64) == row) {
                terms[found++] = uint256(value(o, p, o.operands[2], i * width + element % width));
            }
        }
        assembly ("memory-safe") {
            mstore(terms, found)
        }
        return int256(Sums.sumOf(terms));
    }

    // Products

    function _multiplied(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        uint256 code = o.operation.opcode;
        if (code >= DOT) return _dot(o, p, element);
        Reader memory x = o.operands[0];
        uint256 length = lastSize(x);
        if (code == EXPONENT) return Products.exponent(_row(o, p, x, element), length);
        if (code == EXPONENT_SCALED) {
            bytes calldata row = _row(o, p, x, element);
            bytes calldata scales = Openings.read(o, p, o.operands[1], firstScale(x, element), length);
            // Of a whole row it makes no difference whether any of it counts.
            // slither-disable-next-line unused-return
            (int256 largest,) = Products.exponentScaled(row, scales, length);
            return largest;
        }
        int256[] memory attributes = o.operation.attributes;
        (uint256 digits, uint256 plane) = (uint256(attributes[0]), uint256(attributes[1]));
        uint256 bits = uint256(value(o, p, x, element));
        if (code == 97) {
            return Products.quantize(bits, value(o, p, o.operands[1], element / length), digits, plane);
        }
        int256 g = value(o, p, o.operands[1], firstScale(x, element / length) + element % length);
        return Products.quantizeScaled(bits, g, value(o, p, o.operands[2], element / length), digits, plane);
    }

    /// @notice First of the scales that a row of x[..., M, K] meets.
    function firstScale(Reader memory x, uint256 row) internal pure returns (uint256) {
        uint256[] memory dims = x.declared.dims;
        // A place: whole matrices, times what each has.
        // slither-disable-next-line divide-before-multiply
        return row / dims[dims.length - 2] * dims[dims.length - 1];
    }

    /// @notice The rows of the left and the right operand that an element of a product is made of.
    function dotRows(Operation memory op, uint256 element) internal pure returns (uint256 left, uint256 right) {
        uint256[] memory dims = op.result.dims;
        uint256 width = dims[dims.length - 1];
        left = element / width;
        // A place, likewise.
        // slither-disable-next-line divide-before-multiply
        right = left / dims[dims.length - 2] * width + element % width;
    }

    function _dot(Opened memory o, Proof calldata p, uint256 element) private view returns (int256) {
        (uint256 left, uint256 right) = dotRows(o.operation, element);
        bool byRows = o.operation.opcode == DOT_ROWS;
        int256 ea = value(o, p, o.operands[0], left);
        int256 eb = byRows ? int256(0) : value(o, p, o.operands[1], right);
        uint256 length = lastSize(o.operands[o.operands.length - 1]);
        checkTerms(length);
        int256 total = sumProducts(o, p, left * length, right * length, length);
        return int256(Products.roundDot(total, ea, eb, uint256(o.operation.attributes[0])));
    }

    /// @notice The exact sum of products of `count` quantised terms from these places on.
    function sumProducts(Opened memory o, Proof calldata p, uint256 left, uint256 right, uint256 count)
        internal
        view
        returns (int256)
    {
        uint256 first = o.operation.opcode == DOT_ROWS ? 1 : 2;
        bytes calldata a = Openings.read(o, p, o.operands[first], left, count);
        bytes calldata b = Openings.read(o, p, o.operands[first + 1], right, count);
        if (o.operands.length == first + 2) return Products.dot(a, b, count);
        bytes calldata c = Openings.read(o, p, o.operands[first + 2], left, count);
        bytes calldata d = Openings.read(o, p, o.operands[first + 3], right, count);
        return Products.dotOfPlanes(a, b, c, d, count);
    }
}
