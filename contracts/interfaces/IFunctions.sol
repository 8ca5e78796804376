// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Correctly rounded functions, apart because of the limit on a contract's code
interface IFunctions {
    /// @notice exp, log, tanh, sigmoid, erf, sin or cos of a float, by its opcode (24 to 30), as bit patterns.
    function evaluate(uint256 opcode, uint256 bits) external pure returns (uint256);
}
