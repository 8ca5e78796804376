// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IEvaluator} from "../interfaces/IEvaluator.sol";
import {IFunctions} from "../interfaces/IFunctions.sol";
import {Elements} from "./referee/Elements.sol";
import {Judging} from "./referee/Judging.sol";
import {Openings} from "./referee/Openings.sol";
import {RefereeErrors} from "./referee/RefereeErrors.sol";
import {Scalars} from "./referee/Scalars.sol";
import {Claim, Opened, Proof} from "./referee/Types.sol";

/// @title The referee's judge of one element: stateless, owned by nobody
contract Evaluator is IEvaluator {
    IFunctions public immutable FUNCTIONS;

    constructor(IFunctions functions) {
        FUNCTIONS = functions;
    }

    /// @inheritdoc IEvaluator
    function judge(Claim calldata claim, Proof calldata proof) external view returns (bool right) {
        Opened memory opened = Judging.open(claim, proof);
        Openings.openClaimed(opened, claim, proof);
        bytes calldata claimed = Openings.read(opened, proof, opened.result, claim.element, 1);
        int256 value = _recompute(opened, proof, claim.element);
        Judging.checkUsed(opened, proof);
        return Judging.isValue(claimed, value, opened.result.declared.dtype);
    }

    function _recompute(Opened memory opened, Proof calldata proof, uint256 element) private view returns (int256) {
        uint256 code = opened.operation.opcode;
        if (code != Scalars.CAST && (code < 16 || code > 56)) return Elements.recompute(opened, proof, element);
        int256 x = Elements.value(opened, proof, opened.operands[0], element);
        uint256 dtype = opened.operands[0].declared.dtype;
        if (code >= Scalars.EXP && code <= Scalars.COS) return int256(FUNCTIONS.evaluate(code, uint256(x)));
        uint256 count = opened.operands.length;
        if (count == 1) {
            uint256 rounding = opened.operation.attributes.length == 0 ? 0 : uint256(opened.operation.attributes[0]);
            return Scalars.unary(code, x, dtype, opened.operation.result.dtype, rounding);
        }
        int256 y = Elements.value(opened, proof, opened.operands[1], element);
        if (count == 2) return Scalars.binary(code, x, y, dtype);
        if (code != 56) revert RefereeErrors.UnknownOpcode(code);
        int256 z = Elements.value(opened, proof, opened.operands[2], element);
        return x != 0 ? y : z;
    }
}
