// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

import {IToken} from "../interfaces/IToken.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";

/// @title The token of one run
contract Token is ERC20, IToken {
    /// @inheritdoc IToken
    address public immutable run;

    /// @dev The deployer is the minter for good: a run deploys its token in its constructor.
    constructor(string memory name_, string memory symbol_) ERC20(name_, symbol_) {
        run = msg.sender;
    }

    /// @inheritdoc IToken
    function mint(address account, uint256 amount) external {
        if (msg.sender != run) revert ErrorsLib.NotTheRun(msg.sender, run);
        _mint(account, amount);
    }
}
