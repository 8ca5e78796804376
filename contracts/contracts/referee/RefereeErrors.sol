// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title A proof that proves nothing
/// @dev protocol/disputes raises `MalformedProof` with the same names and numbers. An operand is named by its place, the result 255.
library RefereeErrors {
    error NotTheTrace(bytes32 trace);
    error ValueOutOfRange(uint256 value, uint256 values);
    error NotAnOperation(uint256 value);
    error MalformedItem(uint256 value);
    error WrongPathLength(uint256 expected, uint256 given);
    error WrongLeafLength(uint256 expected, uint256 given);
    error NotInTrace(uint256 value);
    error NotInTensor(uint256 operand, uint256 firstLeaf);
    error WrongConstant(bytes32 expected, bytes32 given);
    error WrongOperands(uint256 expected, uint256 given);
    error ElementOutOfRange(uint256 element, uint256 elements);
    error OpeningMissing(uint256 used);
    error OpeningsLeft(uint256 used, uint256 given);
    error TooLong(uint256 terms, uint256 limit);
    error UnknownOpcode(uint256 opcode);
    error NoTerms(uint256 opcode);
    error NoExponent(int256 exponent);
    error NotATerm(uint256 position);
    error NotABlock(uint256 first, uint256 end);
    error WrongSums(uint256 expected, uint256 given);
    error SumOutOfRange(int256 sum);
}
