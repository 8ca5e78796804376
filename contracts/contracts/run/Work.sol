// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Cid, IRunWork} from "../../interfaces/IRun.sol";
import {AnswersLib} from "../libraries/AnswersLib.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {LeavesLib} from "../libraries/LeavesLib.sol";
import {RunStorage} from "./RunStorage.sol";
import {Live, Member, Place, Unit} from "./Types.sol";

/// @title Units of work: committed and opened by miners, sealed and revealed by verifiers
abstract contract Work is IRunWork, RunStorage {
    /// @dev Move the phases that are due.
    function _advance() internal virtual;

    /// @inheritdoc IRunWork
    function commit(bytes32 seed, uint8 index, bytes32 root, bytes32 contribution, Cid calldata cid) external {
        _advance();
        uint64 round = _answering(seed, Phase.Train);
        Member storage member = _members[msg.sender];
        uint8 drawn = _drawnFor(member, round);
        if (index >= drawn) revert ErrorsLib.IndexNotDrawn(index, drawn);
        if (root == 0 || contribution == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(cid.codec);
        bytes32 unitId = _unitIdOf(round, msg.sender, index);
        Unit storage unit = _units[unitId];
        if (unit.status != Status.None) revert ErrorsLib.AlreadyCommitted(unitId);

        _lock(member, UNIT_BOND);
        Live storage live = _live;
        uint8 place = live.committed++;
        unit.commitment = bytes27(keccak256(abi.encode(root, contribution, cid)));
        unit.place = place;
        unit.status = Status.Committed;
        _places[place] = Place({miner: msg.sender, index: index, reports: 0});
        if (live.committed == live.units) _endPhaseHere();

        emit EventsLib.Committed(round, unitId, msg.sender, index, root, contribution, cid.codec, cid.digest);
    }

    /// @inheritdoc IRunWork
    function seal(bytes32 drawSeed, bytes32[] calldata unitIds, bytes32[] calldata seals) external {
        _advance();
        uint64 round = _answering(drawSeed, Phase.Seal);
        if (unitIds.length != seals.length) revert ErrorsLib.LengthsDiffer(unitIds.length, seals.length);
        uint256 id = _members[msg.sender].id;
        for (uint256 i = 0; i < unitIds.length; ++i) {
            bytes32 unitId = unitIds[i];
            Unit storage unit = _units[unitId];
            uint256 v = _placeOf(unit.status, unit.verifierIds, unitId, id);
            uint8 sealedMask = unit.sealedMask;
            if (sealedMask >> v & 1 == 1) revert ErrorsLib.AlreadySealed(unitId, msg.sender);
            if (seals[i] == 0) revert ErrorsLib.EmptySeal(unitId);
            unit.sealedMask = sealedMask | uint8(1 << v);
            _seals[_slotOf(unit.place, v)] = seals[i];
            emit EventsLib.Sealed(round, unitId, msg.sender, seals[i]);
        }
        Live storage live = _live;
        live.seals += uint16(unitIds.length);
        if (live.seals == live.assignments) _endPhaseHere();
    }

    /// @inheritdoc IRunWork
    function open(
        uint64 round,
        uint8 index,
        Commitment calldata commitment,
        Opened[] calldata leaves,
        bytes32[] calldata proof
    ) external {
        _advance();
        _inPhase(round, Phase.Open);
        bytes32 unitId = _unitIdOf(round, msg.sender, index);
        Unit storage unit = _units[unitId];
        _checkCommitment(unit, unitId, commitment);
        uint256[] memory places = _checkLeaves(_rounds[round].stateRoot, commitment, leaves, proof);

        uint8 agreedMask = _compareAll(round, unitId, unit, leaves, places);
        unit.status = Status.Opened;
        if (agreedMask != 0) unit.agreedMask = agreedMask;
        ++_live.opened;
        _endIfAllIsOpen();

        emit EventsLib.UnitOpened(round, unitId, msg.sender);
    }

    /// @inheritdoc IRunWork
    function reveal(uint64 round, bytes32[] calldata unitIds, Answer[][] calldata answers, bytes32[] calldata salts)
        external
    {
        _advance();
        _inPhase(round, Phase.Open);
        if (unitIds.length != answers.length) revert ErrorsLib.LengthsDiffer(unitIds.length, answers.length);
        if (unitIds.length != salts.length) revert ErrorsLib.LengthsDiffer(unitIds.length, salts.length);
        uint256 id = _members[msg.sender].id;
        for (uint256 i = 0; i < unitIds.length; ++i) _reveal(round, unitIds[i], id, answers[i], salts[i]);
        Live storage live = _live;
        uint16 reveals = live.reveals + uint16(unitIds.length);
        live.reveals = reveals;
        if (reveals == live.seals && live.opened == live.committed) _endPhaseHere();
    }

    function _reveal(uint64 round, bytes32 unitId, uint256 id, Answer[] calldata answers, bytes32 salt) private {
        Unit storage unit = _units[unitId];
        Status status = unit.status;
        uint256 v = _placeOf(status, unit.verifierIds, unitId, id);
        uint8 bit = uint8(1 << v);
        uint8 revealedMask = unit.revealedMask;
        uint8 agreedMask = unit.agreedMask;
        if (unit.sealedMask & bit == 0) revert ErrorsLib.NotSealed(unitId, msg.sender);
        if (revealedMask & bit != 0) revert ErrorsLib.AlreadyRevealed(unitId, msg.sender);
        // As many answers as it drew: fewer or more have another hash than what is opened, and are dissent. Bounded here.
        if (answers.length != SEGMENTS_PER_VERIFIER && answers.length != SEGMENTS) {
            revert ErrorsLib.AnswersMismatch(unitId, answers.length, SEGMENTS_PER_VERIFIER);
        }
        uint256 slot = _slotOf(unit.place, v);
        bytes32 posted = _seals[slot];
        (bytes32 revealed, bytes32 answersHash) = AnswersLib.hashes(unitId, msg.sender, answers, salt);
        if (posted != revealed) revert ErrorsLib.SealMismatch(unitId, posted, revealed);

        unit.revealedMask = revealedMask | bit;
        bool isDissent = false;
        if (status != Status.Opened) _seals[slot] = answersHash;
        else if (bytes10(answersHash) == _openedAnswers[slot]) unit.agreedMask = agreedMask | bit;
        else isDissent = true;
        emit EventsLib.Revealed(round, unitId, msg.sender, answersHash);
        if (isDissent) emit EventsLib.Dissent(round, unitId, msg.sender);
    }

    function _endIfAllIsOpen() internal {
        Live storage live = _live;
        if (live.opened == live.committed && live.reveals == live.seals) _endPhaseHere();
    }

    // ---------------------------------------------------------------- opened leaves

    function _checkCommitment(Unit storage unit, bytes32 unitId, Commitment calldata commitment) internal view {
        Status status = unit.status;
        if (status == Status.None) revert ErrorsLib.UnknownUnit(unitId);
        if (status != Status.Committed) revert ErrorsLib.AlreadyOpened(unitId);
        bytes27 given = bytes27(keccak256(abi.encode(commitment)));
        if (unit.commitment != given) revert ErrorsLib.CommitmentMismatch(unitId, unit.commitment, given);
    }

    /// @dev Leaf 0, the contribution and every opened leaf in the unit's tree, the end state what the merge gets. Returns, by
    /// segment, its place in `leaves` plus 1; 0 where it was not opened.
    function _checkLeaves(
        bytes32 startRoot,
        Commitment calldata commitment,
        Opened[] calldata leaves,
        bytes32[] calldata proof
    ) private view returns (uint256[] memory places) {
        places = new uint256[](SEGMENTS);
        uint256 count = uint256(SEGMENTS) + 2;
        uint256 last = leaves.length + 1;
        bytes32[] memory hashes = new bytes32[](last + 1);
        uint256[] memory indices = new uint256[](last + 1);
        hashes[0] = LeavesLib.checkpointLeaf(startRoot, 0);
        uint256 previous = 0; // segment plus 1, as in the tree
        unchecked {
            for (uint256 i = 1; i < last; ++i) {
                Opened calldata opened = leaves[i - 1];
                uint256 segment = opened.segment;
                if (segment >= SEGMENTS) revert ErrorsLib.SegmentOutOfRange(uint8(segment), SEGMENTS);
                if (segment < previous) revert ErrorsLib.SegmentsNotAscending(uint8(segment), uint8(previous - 1));
                previous = segment + 1;
                places[segment] = i;
                Answer calldata answer = opened.answer;
                bytes32 evidence = LeavesLib.evidenceOf(answer.loss, answer.gradientNorm, opened.salt);
                hashes[i] = LeavesLib.checkpointLeaf(answer.endRoot, evidence);
                indices[i] = previous;
            }
        }
        bytes32 endRoot = leaves[_openedPlace(places, SEGMENTS - 1)].answer.endRoot;
        if (endRoot != commitment.contribution) revert ErrorsLib.ContributionMismatch(commitment.contribution, endRoot);
        hashes[last] = LeavesLib.contributionLeaf(endRoot);
        indices[last] = count - 1;
        bytes32 found = LeavesLib.rootOf(hashes, indices, count, proof);
        if (found != commitment.root) revert ErrorsLib.LeavesNotInTree(found, commitment.root);
    }

    function _openedPlace(uint256[] memory places, uint8 segment) private pure returns (uint256) {
        uint256 place = places[segment];
        if (place == 0) revert ErrorsLib.SegmentNotOpened(segment);
        return place - 1;
    }

    /// @dev Compare with what was revealed already; leave a hash for those that have still to reveal.
    /// @return agreedMask Whose answers are the same.
    function _compareAll(
        uint64 round,
        bytes32 unitId,
        Unit storage unit,
        Opened[] calldata leaves,
        uint256[] memory places
    ) private returns (uint8 agreedMask) {
        uint256 sealedMask = unit.sealedMask;
        uint256 revealedMask = unit.revealedMask;
        uint256 slot = _slotOf(unit.place, 0);
        bytes32 drawSeed = _rounds[round].drawSeed;
        uint256 ids = unit.verifierIds;
        bool isWhole = DrawLib.isWhole(drawSeed, unit.place, _live.committed, REPLAY_BPS);
        for (uint256 v = 0; ids != 0; ++v) {
            uint256 id = uint32(ids);
            ids >>= 32;
            uint8[] memory segments = isWhole && v == 0
                ? DrawLib.all(SEGMENTS)
                : DrawLib.segments(drawSeed, unitId, id, SEGMENTS, SEGMENTS_PER_VERIFIER);
            (bytes32 openedHash, uint256 missing) = AnswersLib.hashOf(leaves, places, segments);
            if (missing != 0) revert ErrorsLib.SegmentNotOpened(uint8(missing - 1));
            if (sealedMask >> v & 1 == 0) continue;
            if (revealedMask >> v & 1 == 0) _openedAnswers[slot + v] = bytes10(openedHash);
            else if (_seals[slot + v] == openedHash) agreedMask |= uint8(1 << v);
            else emit EventsLib.Dissent(round, unitId, _accountOf[id]);
        }
    }

    // ---------------------------------------------------------------- look-ups

    /// @dev Units drawn for a member in the current round; seats keep their places while a round lasts.
    function _drawnFor(Member storage member, uint64 round) private view returns (uint8) {
        if (member.role != Role.Miner || member.joinedRound > round) return 0;
        return _frozenUnits[member.seat];
    }

    /// @dev The sender's place among the unit's verifiers. A judged unit is of an earlier round.
    function _placeOf(Status status, uint256 verifierIds, bytes32 unitId, uint256 id) private view returns (uint256 v) {
        if (status != Status.Committed && status != Status.Opened) revert ErrorsLib.UnknownUnit(unitId);
        v = DrawLib.placeOf(verifierIds, id);
        if (v == DrawLib.NOT_THERE) revert ErrorsLib.NotAssigned(unitId, msg.sender);
    }

    /// @dev Where the round keeps what verifier `v` says of the unit at a place.
    function _slotOf(uint8 place, uint256 v) private pure returns (uint256) {
        return uint256(place) * MAX_VERIFIERS_PER_UNIT + v;
    }
}
