// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunWork} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {LeavesLib} from "../libraries/LeavesLib.sol";
import {Work} from "./Work.sol";
import {Live, Member, Place, Unit} from "./Types.sol";

/// @title Units that are left out before they are judged: nobody can get their data, or their evidence was shown too early
abstract contract Withheld is Work {
    /// @inheritdoc IRunWork
    function reportUnavailable(bytes32 drawSeed, bytes32[] calldata unitIds) external {
        _advance();
        uint64 round = _answering(drawSeed, Phase.Seal, Phase.Open);
        Member storage member = _members[msg.sender];
        if (!_isJuror(member, round)) revert ErrorsLib.NotAJuror(msg.sender);
        for (uint256 i = 0; i < unitIds.length; ++i) _report(round, unitIds[i], uint64(1) << member.seat);
    }

    function _report(uint64 round, bytes32 unitId, uint64 bit) private {
        Unit storage unit = _units[unitId];
        Status status = unit.status;
        Place storage place = _places[unit.place];
        address miner = place.miner;
        // What lies at its place may be of a later round.
        bool isPlayed = status == Status.Committed || status == Status.Opened;
        if (!isPlayed || _unitIdOf(round, miner, place.index) != unitId) revert ErrorsLib.UnknownUnit(unitId);
        uint64 reports = place.reports;
        if (reports & bit != 0) revert ErrorsLib.AlreadyReported(unitId, msg.sender);

        reports |= bit;
        place.reports = reports;
        emit EventsLib.ReportedUnavailable(round, unitId, msg.sender);
        if (_ones(reports) * 2 <= _live.jurors) return;
        _leaveOut(unit, Status.Unavailable);
        _entries[round][miner].bonds -= UNAVAILABLE_FEE;
        _burnLocked(round, miner, UNAVAILABLE_FEE);
    }

    /// @inheritdoc IRunWork
    function disclose(
        uint64 round,
        address miner,
        uint8 index,
        Commitment calldata commitment,
        Opened calldata leaf,
        bytes32[] calldata proof
    ) external {
        _advance();
        Phase phase = _live.phase;
        if (round != _live.round) revert ErrorsLib.WrongRound(round, _live.round);
        if (phase != Phase.Train && phase != Phase.Draw && phase != Phase.Seal) {
            revert ErrorsLib.WrongPhase(uint8(phase), uint8(Phase.Seal));
        }
        bytes32 unitId = _unitIdOf(round, miner, index);
        Unit storage unit = _units[unitId];
        if (unit.status != Status.Committed) revert ErrorsLib.UnknownUnit(unitId);
        _checkCommitment(unit, unitId, commitment);
        _checkLeaf(commitment.root, leaf, proof);

        _leaveOut(unit, Status.Disclosed);
        // Never cheaper than not to open: what pays for that is burned, whatever the half is.
        uint96 burned = UNIT_BOND - UNIT_BOND / 2;
        if (burned < UNAVAILABLE_FEE) burned = UNAVAILABLE_FEE;
        uint96 prize = UNIT_BOND - burned;
        // Bonds are booked at the draw.
        if (_rounds[round].drawSeed != 0) _entries[round][miner].bonds -= UNIT_BOND;
        _burnLocked(round, miner, burned);
        Member storage member = _members[miner];
        member.locked -= prize;
        member.deposit -= prize;
        _members[msg.sender].deposit += prize;
        emit EventsLib.Disclosed(round, unitId, msg.sender, leaf.segment, prize);
    }

    function _checkLeaf(bytes32 root, Opened calldata leaf, bytes32[] calldata proof) private view {
        if (leaf.segment >= SEGMENTS) revert ErrorsLib.SegmentOutOfRange(leaf.segment, SEGMENTS);
        bytes32[] memory hashes = new bytes32[](1);
        uint256[] memory indices = new uint256[](1);
        bytes32 evidence = LeavesLib.evidenceOf(leaf.answer.loss, leaf.answer.gradientNorm, leaf.salt);
        hashes[0] = LeavesLib.checkpointLeaf(leaf.answer.endRoot, evidence);
        indices[0] = uint256(leaf.segment) + 1;
        bytes32 found = LeavesLib.rootOf(hashes, indices, uint256(SEGMENTS) + 2, proof);
        if (found != root) revert ErrorsLib.LeavesNotInTree(found, root);
    }

    /// @dev Nobody waits for this unit any more: it counts as opened, and its seals as if they had never been asked for.
    function _leaveOut(Unit storage unit, Status status) private {
        Live storage live = _live;
        uint256 drawn = 0;
        for (uint256 ids = unit.verifierIds; ids != 0; ids >>= 32) ++drawn;
        live.assignments -= uint16(drawn);
        live.seals -= uint16(_ones(unit.sealedMask));
        live.reveals -= uint16(_ones(unit.revealedMask));
        if (unit.status != Status.Opened) ++live.opened;
        unit.status = status;
        if (live.phase == Phase.Seal && live.seals == live.assignments) _endPhaseHere();
        if (live.phase == Phase.Open) _endIfAllIsOpen();
    }

    function _ones(uint256 mask) private pure returns (uint256 count) {
        for (; mask != 0; mask &= mask - 1) ++count;
    }
}
