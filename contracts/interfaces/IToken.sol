// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

/// @title The token of one run
/// @notice Starts at a supply of nothing; only its run mints, and only for final rounds.
interface IToken is IERC20 {
    /// @notice The run that deployed this token and alone mints it.
    function run() external view returns (address);

    /// @notice Mint `amount` to `account`. Reverts for any caller but the run.
    function mint(address account, uint256 amount) external;
}
