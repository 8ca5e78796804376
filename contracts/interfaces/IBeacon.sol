// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Randomness of fixed heights
/// @notice A run asks for the value of a height it named before that height existed.
interface IBeacon {
    /// @notice The value of `height`, once it is known here.
    /// @return value The random word; meaningless while `known` is false.
    /// @return known Whether the value was recorded.
    function valueAt(uint256 height) external view returns (bytes32 value, bool known);

    /// @notice Record the value of the current block, where the beacon has to be told.
    function record() external;
}
