// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Cid, IRun} from "../../interfaces/IRun.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {MerkleLib} from "../libraries/MerkleLib.sol";
import {Rounds} from "./Rounds.sol";
import {Entry, Member, Round, Unit} from "./Types.sol";

/// @title Units of work: committed and opened by miners, sealed and revealed by verifiers
abstract contract Work is Rounds {
    /// @inheritdoc IRun
    function commit(bytes32 seed, uint8 index, bytes32 root, bytes32 contribution, Cid calldata cid) external {
        _advance();
        (uint64 round, Round storage r) = _answering(seed, Phase.Train);
        Member storage member = members[msg.sender];
        uint8 drawn = _drawnFor(member, round);
        if (index >= drawn) revert ErrorsLib.IndexNotDrawn(index, drawn);
        if (root == 0 || contribution == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(cid.codec);
        bytes32 unitId = _unitIdOf(round, msg.sender, index);
        Unit storage unit = units[unitId];
        if (unit.status != Status.None) revert ErrorsLib.AlreadyCommitted(unitId);

        _lock(member, UNIT_BOND);
        Entry storage entry = entries[round][msg.sender];
        entry.committedMask |= uint32(1) << index;
        entry.bonds += UNIT_BOND;
        unit.miner = msg.sender;
        unit.round = uint40(round);
        unit.index = index;
        unit.status = Status.Committed;
        unit.codec = cid.codec;
        unit.root = root;
        unit.contribution = contribution;
        unit.digest = cid.digest;
        unitIds[round][r.committed++] = unitId;
        if (r.committed == r.units) _endPhaseHere(r);

        emit EventsLib.Committed(round, unitId, msg.sender, index, root, contribution, cid.codec, cid.digest);
    }

    /// @inheritdoc IRun
    function seal(bytes32 drawSeed, bytes32[] calldata unitIds, bytes32[] calldata seals) external {
        _advance();
        (uint64 round, Round storage r) = _answering(drawSeed, Phase.Seal);
        if (unitIds.length != seals.length) revert ErrorsLib.LengthsDiffer(unitIds.length, seals.length);
        for (uint256 i = 0; i < unitIds.length; ++i) {
            bytes32 unitId = unitIds[i];
            Unit storage unit = _unitIn(round, unitId);
            uint256 v = _placeOf(unit, unitId);
            if (unit.sealedMask >> v & 1 == 1) revert ErrorsLib.AlreadySealed(unitId, msg.sender);
            if (seals[i] == 0) revert ErrorsLib.EmptySeal(unitId);
            unit.sealedMask |= uint8(1 << v);
            _seals[unitId][v] = seals[i];
            emit EventsLib.Sealed(round, unitId, msg.sender, seals[i]);
        }
        r.seals += uint16(unitIds.length);
        if (r.seals == r.assignments) _endPhaseHere(r);
    }

    /// @inheritdoc IRun
    function open(
        uint64 round,
        uint8 index,
        bytes32[] calldata startProof,
        Opened[] calldata leaves,
        bytes32[] calldata contributionProof
    ) external {
        _advance();
        Round storage r = _inPhase(round, Phase.Open);
        bytes32 unitId = _unitIdOf(round, msg.sender, index);
        Unit storage unit = _unitIn(round, unitId);
        if (unit.opened) revert ErrorsLib.AlreadyOpened(unitId);

        bytes32 root = unit.root;
        uint256 count = uint256(SEGMENTS) + 2;
        _checkLeaf(root, MerkleLib.checkpointLeaf(r.stateRoot, 0), 0, count, startProof);
        _checkLeaf(root, MerkleLib.contributionLeaf(unit.contribution), count - 1, count, contributionProof);
        uint256[] memory places = _checkLeaves(root, count, leaves);
        bytes32 endRoot = leaves[_openedPlace(places, SEGMENTS - 1)].answer.endRoot;
        if (endRoot != unit.contribution) revert ErrorsLib.ContributionMismatch(unit.contribution, endRoot);

        unit.opened = true;
        ++r.opened;
        _compareAll(round, r.drawSeed, unitId, unit, leaves, places);
        if (r.opened == r.committed && r.reveals == r.seals) _endPhaseHere(r);

        emit EventsLib.UnitOpened(round, unitId, msg.sender);
    }

    /// @inheritdoc IRun
    function reveal(uint64 round, bytes32[] calldata unitIds, Answer[][] calldata answers, bytes32[] calldata salts)
        external
    {
        _advance();
        Round storage r = _inPhase(round, Phase.Open);
        if (unitIds.length != answers.length) revert ErrorsLib.LengthsDiffer(unitIds.length, answers.length);
        if (unitIds.length != salts.length) revert ErrorsLib.LengthsDiffer(unitIds.length, salts.length);
        for (uint256 i = 0; i < unitIds.length; ++i) _reveal(round, unitIds[i], answers[i], salts[i]);
        r.reveals += uint16(unitIds.length);
        if (r.opened == r.committed && r.reveals == r.seals) _endPhaseHere(r);
    }

    function _reveal(uint64 round, bytes32 unitId, Answer[] calldata answers, bytes32 salt) private {
        Unit storage unit = _unitIn(round, unitId);
        uint256 v = _placeOf(unit, unitId);
        if (unit.sealedMask >> v & 1 == 0) revert ErrorsLib.NotSealed(unitId, msg.sender);
        if (unit.revealedMask >> v & 1 == 1) revert ErrorsLib.AlreadyRevealed(unitId, msg.sender);
        if (answers.length != SEGMENTS_PER_VERIFIER) {
            revert ErrorsLib.AnswersMismatch(unitId, answers.length, SEGMENTS_PER_VERIFIER);
        }
        bytes32 posted = _seals[unitId][v];
        bytes32 revealed = keccak256(abi.encode(unitId, msg.sender, answers, salt));
        if (posted != revealed) revert ErrorsLib.SealMismatch(unitId, posted, revealed);

        bytes32 answersHash = keccak256(abi.encode(answers));
        unit.revealedMask |= uint8(1 << v);
        emit EventsLib.Revealed(round, unitId, msg.sender, answersHash);
        if (unit.opened) {
            _compare(round, unitId, unit, v, msg.sender, answersHash, _openedAnswers[unitId][v]);
            delete _seals[unitId][v];
            delete _openedAnswers[unitId][v];
        } else {
            _seals[unitId][v] = answersHash;
        }
    }

    // ---------------------------------------------------------------- opened leaves

    /// @dev Every leaf in the unit's tree. Returns, by segment, its place in `leaves` plus 1; 0 where it was not opened.
    function _checkLeaves(bytes32 root, uint256 count, Opened[] calldata leaves)
        private
        view
        returns (uint256[] memory places)
    {
        places = new uint256[](SEGMENTS);
        uint8 previous = 0;
        for (uint256 i = 0; i < leaves.length; ++i) {
            Opened calldata opened = leaves[i];
            uint8 segment = opened.segment;
            if (segment >= SEGMENTS) revert ErrorsLib.SegmentOutOfRange(segment, SEGMENTS);
            if (i != 0 && segment <= previous) revert ErrorsLib.SegmentsNotAscending(segment, previous);
            previous = segment;
            places[segment] = i + 1;
            Answer calldata answer = opened.answer;
            bytes32 evidence = MerkleLib.evidenceOf(answer.loss, answer.gradientNorm, opened.salt);
            bytes32 leaf = MerkleLib.checkpointLeaf(answer.endRoot, evidence);
            _checkLeaf(root, leaf, uint256(segment) + 1, count, opened.proof);
        }
    }

    function _checkLeaf(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof) private pure {
        if (!MerkleLib.isIn(root, leaf, index, count, proof)) revert ErrorsLib.LeafNotInTree(index, leaf, root);
    }

    function _openedPlace(uint256[] memory places, uint8 segment) private pure returns (uint256) {
        uint256 place = places[segment];
        if (place == 0) revert ErrorsLib.SegmentNotOpened(segment);
        return place - 1;
    }

    /// @dev Compare with what was revealed already; leave a hash for those that have still to reveal.
    function _compareAll(
        uint64 round,
        bytes32 drawSeed,
        bytes32 unitId,
        Unit storage unit,
        Opened[] calldata leaves,
        uint256[] memory places
    ) private {
        uint256 ids = unit.verifierIds;
        for (uint256 v = 0; ids >> (32 * v) != 0; ++v) {
            address verifier = accountOf[uint32(ids >> (32 * v))];
            uint8[] memory segments = DrawLib.segments(drawSeed, unitId, verifier, SEGMENTS, SEGMENTS_PER_VERIFIER);
            Answer[] memory answers = new Answer[](segments.length);
            for (uint256 i = 0; i < segments.length; ++i) answers[i] = leaves[_openedPlace(places, segments[i])].answer;
            bytes32 openedHash = keccak256(abi.encode(answers));
            if (unit.revealedMask >> v & 1 == 1) {
                _compare(round, unitId, unit, v, verifier, _seals[unitId][v], openedHash);
                delete _seals[unitId][v];
            } else if (unit.sealedMask >> v & 1 == 1) {
                _openedAnswers[unitId][v] = openedHash;
            }
        }
    }

    function _compare(
        uint64 round,
        bytes32 unitId,
        Unit storage unit,
        uint256 v,
        address verifier,
        bytes32 answersHash,
        bytes32 openedHash
    ) private {
        if (answersHash == openedHash) unit.agreedMask |= uint8(1 << v);
        else emit EventsLib.Dissent(round, unitId, verifier);
    }

    // ---------------------------------------------------------------- look-ups

    /// @dev Units drawn for a member in the current round; seats keep their places while a round lasts.
    function _drawnFor(Member storage member, uint64 round) internal view returns (uint8) {
        if (member.role != Role.Miner || member.joinedRound > round) return 0;
        return frozenUnits[member.seat];
    }

    function _unitIn(uint64 round, bytes32 unitId) private view returns (Unit storage unit) {
        unit = units[unitId];
        if (unit.status == Status.None || unit.round != round) revert ErrorsLib.UnknownUnit(unitId);
    }

    /// @dev The sender's place among the unit's verifiers.
    function _placeOf(Unit storage unit, bytes32 unitId) private view returns (uint256 v) {
        v = DrawLib.placeOf(unit.verifierIds, members[msg.sender].id);
        if (v == DrawLib.NOT_THERE) revert ErrorsLib.NotAssigned(unitId, msg.sender);
    }
}
