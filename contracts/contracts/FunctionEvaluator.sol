// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IFunctions} from "../interfaces/IFunctions.sol";
import {Functions} from "./referee/Functions.sol";
import {RefereeErrors} from "./referee/RefereeErrors.sol";

/// @title Correctly rounded functions of one float
contract FunctionEvaluator is IFunctions {
    /// @inheritdoc IFunctions
    function evaluate(uint256 opcode, uint256 bits) external pure returns (uint256) {
        if (opcode == 24) return Functions.exp(bits);
        if (opcode == 25) return Functions.log(bits);
        if (opcode == 26) return Functions.tanh(bits);
        if (opcode == 27) return Functions.sigmoid(bits);
        if (opcode == 28) return Functions.erf(bits);
        if (opcode == 29) return Functions.sin(bits);
        if (opcode == 30) return Functions.cos(bits);
        revert RefereeErrors.UnknownOpcode(opcode);
    }
}
