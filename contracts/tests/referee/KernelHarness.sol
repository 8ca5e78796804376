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

/// @dev The referee's numeric libraries behind two entries, for vectors and for measuring gas. Codes are those of
/// tests/referee_kernels.py: opcodes of float operations, 256 and more for integers, 512 and more for the rest.
contract KernelHarness {
    error UnknownCode(uint256 code);

    /// @notice One function of many arguments: each case takes `arity` words.
    function scalars(uint256 code, uint256 arity, uint256[] calldata words) external pure returns (uint256[] memory results) {
        uint256 count = words.length / arity;
        results = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256[6] memory x;
            for (uint256 j = 0; j < arity; ++j) x[j] = words[i * arity + j];
            results[i] = _scalar(code, x);
        }
    }

    /// @notice Gas of each case alone, the dispatch included.
    function gasOfScalars(uint256 code, uint256 arity, uint256[] calldata words) external view returns (uint256[] memory results) {
        uint256 count = words.length / arity;
        results = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256[6] memory x;
            for (uint256 j = 0; j < arity; ++j) x[j] = words[i * arity + j];
            uint256 before = gasleft();
            _scalar(code, x);
            results[i] = before - gasleft();
        }
    }

    function _scalar(uint256 code, uint256[6] memory x) private pure returns (uint256) {
        if (code >= 512) return _other(code, x);
        if (code >= 256) return uint256(_integer(code - 256, int256(x[0]), int256(x[1]), x[2]));
        return _float(code, x[0], x[1], x[2], x[3]);
    }

    function _float(uint256 code, uint256 a, uint256 b, uint256 c, uint256 d) private pure returns (uint256) {
        if (code == 8) return uint256(Binary32.toInteger(a, b, c, d != 0));
        if (code == 16) return Binary32.add(a, b);
        if (code == 17) return Binary32.sub(a, b);
        if (code == 18) return Binary32.mul(a, b);
        if (code == 19) return Binary32.div(a, b);
        if (code == 21) return Binary32.neg(a);
        if (code == 22) return Binary32.abs(a);
        if (code == 23) return Binary32.sqrt(a);
        if (code == 24) return Functions.exp(a);
        if (code == 25) return Functions.log(a);
        if (code == 26) return Functions.tanh(a);
        if (code == 27) return Functions.sigmoid(a);
        if (code == 28) return Functions.erf(a);
        if (code == 29) return Functions.sin(a);
        if (code == 30) return Functions.cos(a);
        if (code == 31) return Binary32.rsqrt(a);
        if (code == 32) return Binary32.maximum(a, b);
        if (code == 33) return Binary32.minimum(a, b);
        if (code == 34) return Binary32.round(a, b);
        if (code == 40) return _bit(Binary32.eq(a, b));
        if (code == 41) return _bit(!Binary32.eq(a, b));
        if (code == 42) return _bit(Binary32.lt(a, b));
        if (code == 43) return _bit(Binary32.le(a, b));
        if (code == 44) return _bit(Binary32.lt(b, a));
        if (code == 45) return _bit(Binary32.le(b, a));
        revert UnknownCode(code);
    }

    function _integer(uint256 opcode, int256 x, int256 y, uint256 dtype) private pure returns (int256) {
        if (opcode == 8) return Integers.wrap(x, dtype);
        if (opcode == 16) return Integers.add(x, y, dtype);
        if (opcode == 17) return Integers.sub(x, y, dtype);
        if (opcode == 18) return Integers.mul(x, y, dtype);
        if (opcode == 19) return Integers.div(x, y, dtype);
        if (opcode == 20) return Integers.rem(x, y, dtype);
        if (opcode == 21) return Integers.neg(x, dtype);
        if (opcode == 22) return Integers.abs(x, dtype);
        if (opcode == 51) return Integers.not(x, dtype);
        if (opcode == 52) return Integers.shl(x, y, dtype);
        if (opcode == 53) return Integers.shr(x, y, dtype);
        if (opcode == 54) return Integers.shrLogical(x, y, dtype);
        if (opcode == 55) return Integers.mulhi(x, y);
        revert UnknownCode(opcode);
    }

    function _other(uint256 code, uint256[6] memory x) private pure returns (uint256) {
        if (code == 512) return Binary32.roundScaled(int256(x[0]), int256(x[1]));
        if (code == 513) return uint256(Binary32.exponentOf(x[0]));
        if (code == 514) return Binary32.fromInteger(int256(x[0]));
        if (code == 515) return uint256(Sums.term(x[0], int256(x[1])));
        if (code == 516) return uint256(Orders.rank(int256(x[0]), x[1], x[2] != 0));
        if (code == 517) {
            return _bit(Orders.isBefore(int256(x[0]), x[1], int256(x[2]), x[3], x[4], x[5] != 0));
        }
        if (code == 518) return uint256(Products.quantize(x[0], int256(x[1]), x[2], x[3]));
        if (code == 519) return uint256(Products.quantizeScaled(x[0], int256(x[1]), int256(x[2]), x[3], x[4]));
        if (code == 520) return Products.roundDot(int256(x[0]), int256(x[1]), int256(x[2]), x[3]);
        if (code == 521) return Products.roundDotRows(int256(x[0]), int256(x[1]), x[2]);
        if (code == 522) return Philox.word64(x[0], x[1], x[2], x[3]);
        revert UnknownCode(code);
    }

    /// @notice One function of rows of `count` elements; what else it takes, `x` says.
    function row(uint256 code, bytes[] calldata rows, uint256 count, uint256[] calldata x)
        external
        pure
        returns (uint256[] memory results)
    {
        results = new uint256[](2);
        if (code == 600) {
            results[0] = uint256(Products.exponent(rows[0], count));
        } else if (code == 601) {
            (int256 largest, bool any) = Products.exponentScaled(rows[0], rows[1], count);
            (results[0], results[1]) = (uint256(largest), _bit(any));
        } else if (code == 602) {
            results[0] = uint256(Products.dot(rows[0], rows[1], count));
        } else if (code == 603) {
            results[0] = uint256(Products.dotOfPlanes(rows[0], rows[1], rows[2], rows[3], count));
        } else if (code == 604) {
            results[0] = Sums.sum(rows[0], count);
        } else if (code == 605) {
            (int256 total, bool within) = Sums.partialSum(rows[0], count, int256(x[0]));
            (results[0], results[1]) = (uint256(total), _bit(within));
        } else if (code == 606) {
            results[0] = Sums.sumOf(x);
        } else if (code == 607) {
            results[0] = uint256(Integers.sum(rows[0], count, x[0]));
        } else if (code == 608) {
            int256 value;
            (results[0], value) = Orders.first(rows[0], count, x[0], x[1] != 0);
            results[1] = uint256(value);
        } else if (code == 609) {
            results[0] = Orders.countBefore(rows[0], count, x[0], int256(x[1]), x[2], x[3], x[4] != 0);
        } else {
            revert UnknownCode(code);
        }
    }

    /// @notice Gas of one call of a row's function, measured from outside of it.
    function gasOfRow(uint256 code, bytes[] calldata rows, uint256 count, uint256[] calldata x)
        external
        view
        returns (uint256)
    {
        uint256 before = gasleft();
        this.row(code, rows, count, x);
        return before - gasleft();
    }

    function _bit(bool value) private pure returns (uint256) {
        return value ? 1 : 0;
    }
}
