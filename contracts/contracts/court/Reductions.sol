// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ICourt, Stage} from "../../interfaces/ICourt.sol";
import {CourtEventsLib} from "../libraries/CourtEventsLib.sol";
import {Sums} from "../referee/Types.sol";
import {Dispute} from "./Disputes.sol";
import {Reduction} from "./Reduction.sol";
import {Verdicts} from "./Verdicts.sol";

/// @title Elements of too many terms to be recomputed at once
/// @dev What is checked is checked by the clerk (`Reckoner`), asked as in `Verdicts` with the reduction appended as well.
abstract contract Reductions is Verdicts {
    // ---------------------------------------------------------------- the challenger

    /// @inheritdoc ICourt
    function askSums(uint64 dispute, uint64 element, bytes calldata) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Element);
        _reckon(d);
        emit CourtEventsLib.SumsAsked(dispute, element, d.reduction.end, d.reduction.block);
        _moved(dispute, d, Stage.Sums, gasBefore);
    }

    /// @inheritdoc ICourt
    function chooseSum(uint64 dispute, uint64 place, int256 sum, bytes32[] calldata) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.SumChoice);
        _reckon(d);
        emit CourtEventsLib.SumChosen(dispute, place, d.reduction.first, d.reduction.end, sum);
        _moved(dispute, d, Stage.Parts, gasBefore);
    }

    /// @inheritdoc ICourt
    function judgeBlock(uint64 dispute, uint64, int256, bytes32[] calldata, bytes calldata) external nonReentrant {
        _ruleReduced(dispute);
    }

    /// @inheritdoc ICourt
    function judgeWitness(uint64 dispute, uint64[2] calldata, bytes calldata) external nonReentrant {
        _ruleReduced(dispute);
    }

    /// @inheritdoc ICourt
    function judgeOrder(uint64 dispute, uint64 element, uint64[2] calldata, bytes calldata) external nonReentrant {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Element);
        _rule(dispute, d, _consult(d.standing), element, gasBefore);
    }

    // ---------------------------------------------------------------- the accused

    /// @inheritdoc ICourt
    function postSums(uint64 dispute, Sums calldata sums, bytes calldata) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Sums);
        _reckon(d);
        emit CourtEventsLib.SumsPosted(dispute, sums.exponent, sums.positions, sums.sums);
        _moved(dispute, d, Stage.SumChoice, gasBefore);
    }

    /// @inheritdoc ICourt
    function postParts(uint64 dispute, int256[] calldata parts) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Parts);
        _reckon(d);
        emit CourtEventsLib.PartsPosted(dispute, parts);
        _moved(dispute, d, Stage.SumChoice, gasBefore);
    }

    // ---------------------------------------------------------------- asking

    /// @dev The clerk's answer is what stands from here on.
    function _reckon(Dispute storage d) private {
        (Reduction memory reduction, bytes32 node) = abi.decode(_consultReduced(d), (Reduction, bytes32));
        d.reduction = reduction;
        d.standing.node = node;
    }

    function _ruleReduced(uint64 dispute) private {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.SumChoice);
        _rule(dispute, d, _consultReduced(d), d.reduction.element, gasBefore);
    }

    function _consultReduced(Dispute storage d) private view returns (bytes memory) {
        // As in `_consult`: both have fixed lengths, and nothing is hashed.
        // slither-disable-next-line encode-packed-collision
        return _ask(CLERK, abi.encodePacked(msg.data, abi.encode(d.reduction, d.standing)));
    }
}
