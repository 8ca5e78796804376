// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice One element of one operation's result, as the trace of the accused has it.
struct Claim {
    /// The Program's root.
    bytes32 program;
    /// Root of the trace that the accused posted.
    bytes32 trace;
    /// Values of the Program: inputs, constants and operations.
    uint32 values;
    /// Id of the operation's result.
    uint32 value;
    /// Row-major index in it.
    uint64 element;
}

/// @notice A value of the trace: its declaration, the tree over its bytes, and its path in the trace's tree.
struct Value {
    bytes item;
    bytes32 tree;
    bytes32[] path;
}

/// @notice Whole leaves of a tensor, one after another, and their path in its tree.
struct Opening {
    bytes data;
    bytes32[] path;
}

/// @notice Everything that recomputing an element takes.
struct Proof {
    /// Root of the tree over the trace's values.
    bytes32 tree;
    Value operation;
    /// One for each operand, in order, also where one value is taken twice.
    Value[] operands;
    /// The leaf of the result that holds the element; empty where no element is judged.
    Opening claimed;
    /// Leaves of operands, in the order in which the judge asks for them.
    Opening[] openings;
}

/// @notice What the accused posts about an element too long to recompute at once.
struct Sums {
    /// Of the largest term of a float sum; 0 for any other operation.
    int32 exponent;
    /// Terms that have it: one, twice, or infinities of both signs.
    uint64[2] positions;
    /// Exact integer sums of consecutive blocks; none for an operation that sums nothing.
    int256[] sums;
}

/// @notice One block of an element's terms, and the sum that was posted for it.
struct Block {
    uint64 first;
    /// One past the last term.
    uint64 end;
    int32 exponent;
    int256 total;
}

/// @notice Element type and shape of a value.
struct TensorType {
    uint256 dtype;
    uint256[] dims;
    uint256 elements;
}

/// @notice An operation item, decoded.
struct Operation {
    uint256 opcode;
    uint256[] operands;
    TensorType result;
    int256[] attributes;
}

/// @notice An operand (or the result) and the leaves of it that were opened last.
struct Reader {
    TensorType declared;
    bytes32 tree;
    /// Number that errors give it.
    uint256 number;
    /// First byte of the opened leaves, and how many there are.
    uint256 start;
    uint256 length;
    /// Where they lie in calldata.
    uint256 offset;
}

/// @notice A proof whose declarations were checked against the trace.
struct Opened {
    Operation operation;
    Reader[] operands;
    Reader result;
    /// Openings that were taken.
    uint256 used;
}
