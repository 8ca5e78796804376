// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Encoding} from "./Encoding.sol";
import {Integers} from "./Integers.sol";
import {Lanes} from "./Lanes.sol";
import {Openings} from "./Openings.sol";
import {RefereeErrors} from "./RefereeErrors.sol";
import {Claim, Opened, Operation, Proof, Reader, TensorType} from "./Types.sol";

/// @title What every judgement begins and ends with: declarations against the trace, every opening used
library Judging {
    /// @notice The operation and its operands, as the trace declares them.
    /// @dev That the item is the Program's own is not asked: a leaf that holds another item cannot be opened by its owner,
    /// who loses by silence (docs/design/disputes.md). That it is well typed follows: the Program was checked when deployed.
    function open(Claim calldata claim, Proof calldata proof) internal view returns (Opened memory opened) {
        bytes4 count = bytes4(Encoding.littleEndian(claim.values));
        bytes32 trace = sha256(abi.encodePacked(bytes1(0x08), claim.program, count, proof.tree));
        if (trace != claim.trace) revert RefereeErrors.NotTheTrace(claim.trace);

        (Operation memory op, uint256 typeAt) = Encoding.operation(proof.operation.item, claim.value);
        Openings.checkValue(claim, claim.value, proof.operation, op.result, typeAt, proof.tree);
        if (claim.element >= op.result.elements) {
            revert RefereeErrors.ElementOutOfRange(claim.element, op.result.elements);
        }
        if (proof.operands.length != op.operands.length) {
            revert RefereeErrors.WrongOperands(op.operands.length, proof.operands.length);
        }
        opened.operation = op;
        opened.result = Reader(op.result, proof.operation.tree, Openings.RESULT, 0, 0, 0);
        opened.operands = new Reader[](op.operands.length);
        for (uint256 i = 0; i < op.operands.length; ++i) {
            TensorType memory declared;
            (declared, typeAt) = Encoding.declared(proof.operands[i].item, op.operands[i]);
            Openings.checkValue(claim, op.operands[i], proof.operands[i], declared, typeAt, proof.tree);
            opened.operands[i] = Reader(declared, proof.operands[i].tree, i, 0, 0, 0);
        }
    }

    /// @notice That no opening was left over.
    function checkUsed(Opened memory opened, Proof calldata proof) internal pure {
        if (opened.used != proof.openings.length) {
            revert RefereeErrors.OpeningsLeft(opened.used, proof.openings.length);
        }
    }

    /// @notice Whether these bytes are exactly this value: a NaN of another pattern or a bool of 2 is none.
    function isValue(bytes calldata data, int256 value, uint256 dtype) internal pure returns (bool) {
        uint256 size = Integers.size(dtype);
        return Lanes.load(Lanes.begin(data, 1, size), 0, size) == uint256(value) & ((1 << (8 * size)) - 1);
    }
}
