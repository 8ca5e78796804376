// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Integers} from "./Integers.sol";
import {RefereeErrors} from "./RefereeErrors.sol";

/// @title Elementwise operations and CAST, on values alone
/// @dev Opcodes as in protocol/arithmetic/operations.py. Floats are bit patterns, integers sign-extended, bools 0 or 1.
library Scalars {
    uint256 internal constant CAST = 8;
    uint256 internal constant EXP = 24;
    uint256 internal constant COS = 30;
    uint256 private constant FLOAT32 = 1;
    uint256 private constant BOOL = 7;

    function unary(uint256 opcode, int256 x, uint256 from, uint256 to, uint256 rounding) internal pure returns (int256) {
        if (opcode == CAST) return _cast(x, from, to, rounding);
        if (from == FLOAT32) {
            uint256 a = uint256(x);
            if (opcode == 21) return int256(Binary32.neg(a));
            if (opcode == 22) return int256(Binary32.abs(a));
            if (opcode == 23) return int256(Binary32.sqrt(a));
            if (opcode == 31) return int256(Binary32.rsqrt(a));
            if (opcode == 34) return int256(Binary32.round(a, rounding));
        } else {
            if (opcode == 21) return Integers.neg(x, from);
            if (opcode == 22) return Integers.abs(x, from);
            if (opcode == 51) return Integers.not(x, from);
        }
        revert RefereeErrors.UnknownOpcode(opcode);
    }

    function _cast(int256 x, uint256 from, uint256 to, uint256 rounding) private pure returns (int256) {
        if (from == to) return x;
        if (from == FLOAT32) {
            if (to == BOOL) return Binary32.isZero(uint256(x)) ? int256(0) : int256(1);
            return Binary32.toInteger(uint256(x), rounding, Integers.width(to), Integers.isSigned(to));
        }
        if (to == FLOAT32) return int256(Binary32.fromInteger(x));
        if (to == BOOL) return x == 0 ? int256(0) : int256(1);
        return Integers.wrap(x, to);
    }

    function binary(uint256 opcode, int256 x, int256 y, uint256 dtype) internal pure returns (int256) {
        if (opcode >= 40 && opcode <= 45) return _compared(opcode, x, y, dtype == FLOAT32) ? int256(1) : int256(0);
        return dtype == FLOAT32 ? int256(_float(opcode, uint256(x), uint256(y))) : _integer(opcode, x, y, dtype);
    }

    function _compared(uint256 opcode, int256 x, int256 y, bool float) private pure returns (bool) {
        if (opcode == 44) return _compared(42, y, x, float);
        if (opcode == 45) return _compared(43, y, x, float);
        if (float) {
            (uint256 a, uint256 b) = (uint256(x), uint256(y));
            if (opcode == 40) return Binary32.eq(a, b);
            if (opcode == 41) return !Binary32.eq(a, b);
            return opcode == 42 ? Binary32.lt(a, b) : Binary32.le(a, b);
        }
        if (opcode == 40) return x == y;
        if (opcode == 41) return x != y;
        return opcode == 42 ? x < y : x <= y;
    }

    function _float(uint256 opcode, uint256 a, uint256 b) private pure returns (uint256) {
        if (opcode == 16) return Binary32.add(a, b);
        if (opcode == 17) return Binary32.sub(a, b);
        if (opcode == 18) return Binary32.mul(a, b);
        if (opcode == 19) return Binary32.div(a, b);
        if (opcode == 32) return Binary32.maximum(a, b);
        if (opcode == 33) return Binary32.minimum(a, b);
        revert RefereeErrors.UnknownOpcode(opcode);
    }

    function _integer(uint256 opcode, int256 x, int256 y, uint256 dtype) private pure returns (int256) {
        if (opcode == 16) return Integers.add(x, y, dtype);
        if (opcode == 17) return Integers.sub(x, y, dtype);
        if (opcode == 18) return Integers.mul(x, y, dtype);
        if (opcode == 19) return Integers.div(x, y, dtype);
        if (opcode == 20) return Integers.rem(x, y, dtype);
        if (opcode == 32) return x > y ? x : y;
        if (opcode == 33) return x < y ? x : y;
        if (opcode == 48) return x & y;
        if (opcode == 49) return x | y;
        if (opcode == 50) return x ^ y;
        if (opcode == 52) return Integers.shl(x, y, dtype);
        if (opcode == 53) return Integers.shr(x, y, dtype);
        if (opcode == 54) return Integers.shrLogical(x, y, dtype);
        if (opcode == 55) return Integers.mulhi(x, y);
        revert RefereeErrors.UnknownOpcode(opcode);
    }
}
