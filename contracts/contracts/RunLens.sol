// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBeacon} from "../interfaces/IBeacon.sol";
import {Cid, IRun, IRunTypes, Parameters} from "../interfaces/IRun.sol";
import {IRunLens} from "../interfaces/IRunLens.sol";
import {CodeLib} from "./libraries/CodeLib.sol";
import {DrawLib} from "./libraries/DrawLib.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {FeesLib} from "./libraries/FeesLib.sol";
import {IRunState} from "./run/IRunState.sol";
import {Candidate, Entry, Live, Member, Place, Round, Span, Unit} from "./run/Types.sol";

/// @title Answers about any run
contract RunLens is IRunLens {
    // It only reads, from the run that the caller names; every loop is over seats, units or rounds that were asked for.
    // slither-disable-start calls-loop
    /// @dev As `RunStorage.BEACON_WINDOW`.
    uint256 private constant BEACON_WINDOW = 256;
    /// @dev As `RunStorage.MAX_EXTENSIONS`.
    uint256 private constant MAX_EXTENSIONS = 4;
    /// @dev As `Claims.SETTLED_AT_ONCE`.
    uint64 private constant SETTLED_AT_ONCE = 16;

    /// @inheritdoc IRunLens
    function parameters(address run) external view returns (Parameters memory) {
        return _parameters(run);
    }

    /// @inheritdoc IRunLens
    function current(address run) external view returns (Current memory c) {
        c.round = IRun(run).currentRound();
        Live memory r = IRunState(run).rounds(c.round).played;
        c.phase = r.phase;
        c.until = r.until;
        if (c.phase == IRunTypes.Phase.Waiting) return c;
        if (c.phase != IRunTypes.Phase.Seed && c.phase != IRunTypes.Phase.Draw) {
            c.due = block.number > c.until;
        } else if (block.number >= c.until) {
            // Asked whether the value is there, not for it.
            // slither-disable-next-line unused-return
            (, bool known) = IBeacon(_parameters(run).beacon).valueAt(c.until);
            c.due = known || block.number == c.until || block.number > c.until + BEACON_WINDOW;
        }
    }

    /// @inheritdoc IRunLens
    function getRound(address run, uint64 round) external view returns (RoundView memory v) {
        Parameters memory p = _parameters(run);
        Round memory r = _round(run, round);
        Live memory live = r.played;
        v.phase = live.phase;
        v.seed = r.seed;
        v.drawSeed = r.drawSeed;
        v.stateRoot = r.stateRoot;
        v.state = Cid(r.stateCodec, r.stateDigest);
        v.miners = live.miners;
        v.verifiers = live.verifiers;
        v.units = live.units;
        v.committed = live.committed;
        v.opened = live.opened;
        v.attested = live.attested;
        v.assignments = live.assignments;
        v.seals = live.seals;
        v.reveals = live.reveals;
        v.jurors = live.jurors;
        v.candidates = live.candidates;
        v.merged = live.merged;
        v.accepted = live.accepted;
        v.judgedAt = r.judgedAt;
        v.disputes = r.disputes;
        v.endedAt = _endedAt(r);
        v.matureAt = _matureAt(p, r);
        v.seededAt = r.seededAt;
        v.drawnAt = r.drawnAt;
    }

    /// @inheritdoc IRunLens
    function getState(address run, uint64 round) external view returns (bytes32 stateRoot, Cid memory cid) {
        Round memory r = _round(run, round);
        return (r.stateRoot, Cid(r.stateCodec, r.stateDigest));
    }

    /// @inheritdoc IRunLens
    function unitIdOf(address run, uint64 round, address miner, uint8 index) external view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, run, round, miner, index));
    }

    /// @inheritdoc IRunLens
    function getUnitStates(address run, bytes32[] calldata unitIds) external view returns (UnitState[] memory states) {
        states = new UnitState[](unitIds.length);
        for (uint256 i = 0; i < unitIds.length; ++i) states[i] = _state(run, unitIds[i]);
    }

    /// @inheritdoc IRunLens
    function getUnitNames(address run) external view returns (UnitName[] memory) {
        return _names(run, IRun(run).currentRound());
    }

    /// @inheritdoc IRunLens
    function assignedVerifiers(address run, bytes32 unitId) external view returns (address[] memory) {
        return _verifiers(run, IRunState(run).units(unitId).verifierIds);
    }

    /// @inheritdoc IRunLens
    function assignedSegments(address run, uint64 round, bytes32 unitId, address verifier) external view returns (uint8[] memory) {
        Unit memory unit = IRunState(run).units(unitId);
        uint256 id = IRunState(run).members(verifier).id;
        if (DrawLib.placeOf(unit.verifierIds, id) == DrawLib.NOT_THERE) revert ErrorsLib.NotAssigned(unitId, verifier);
        return _segments(_parameters(run), _round(run, round), unitId, unit, id);
    }

    /// @inheritdoc IRunLens
    function assignmentsOf(address run, uint64 round, address verifier) external view returns (Assignment[] memory assignments) {
        if (round != IRun(run).currentRound()) return assignments;
        Parameters memory p = _parameters(run);
        Round memory r = IRunState(run).rounds(round);
        uint256 id = IRunState(run).members(verifier).id;
        UnitName[] memory names = _names(run, round);
        assignments = new Assignment[](names.length);
        uint256 found = 0;
        for (uint256 place = 0; place < names.length; ++place) {
            bytes32 unitId = names[place].unitId;
            Unit memory unit = IRunState(run).units(unitId);
            uint256 v = DrawLib.placeOf(unit.verifierIds, id);
            if (v == DrawLib.NOT_THERE || _isLeftOut(unit.status)) continue;
            assignments[found++] = Assignment({
                unitId: unitId,
                segments: _segments(p, r, unitId, unit, id),
                isSealed: unit.sealedMask >> v & 1 == 1,
                isRevealed: unit.revealedMask >> v & 1 == 1
            });
        }
        assembly ("memory-safe") {
            mstore(assignments, found)
        }
    }

    /// @inheritdoc IRunLens
    function unitsOf(address run, address miner) external view returns (uint8) {
        uint64 round = IRun(run).currentRound();
        IRunTypes.Phase phase = IRunState(run).rounds(round).played.phase;
        Member memory member = IRunState(run).members(miner);
        if (phase == IRunTypes.Phase.Waiting || phase == IRunTypes.Phase.Seed) return 0;
        if (member.role != IRunTypes.Role.Miner || member.joinedRound > round) return 0;
        return IRunState(run).frozenUnits(member.seat);
    }

    /// @inheritdoc IRunLens
    function jury(address run) external view returns (address[] memory jurors) {
        Round memory r = IRunState(run).rounds(IRun(run).currentRound());
        jurors = new address[](r.played.jurors);
        uint256 filled = 0;
        for (uint256 seat = 0; filled < jurors.length; ++seat) {
            if (r.jury >> seat & 1 == 1) jurors[filled++] = IRunState(run).verifierSeats(seat).account;
        }
    }

    /// @inheritdoc IRunLens
    function reportedBy(address run, address juror) external view returns (bytes32[] memory unitIds) {
        uint64 round = IRun(run).currentRound();
        Member memory member = IRunState(run).members(juror);
        unitIds = new bytes32[](IRunState(run).rounds(round).played.committed);
        if (member.role != IRunTypes.Role.Verifier) return new bytes32[](0);
        uint256 found = 0;
        for (uint256 i = 0; i < unitIds.length; ++i) {
            Place memory place = IRunState(run).places(i);
            if (place.reports >> member.seat & 1 == 0) continue;
            unitIds[found++] = keccak256(abi.encode(block.chainid, run, round, place.miner, place.index));
        }
        assembly ("memory-safe") {
            mstore(unitIds, found)
        }
    }

    /// @inheritdoc IRunLens
    function extension(address run) external view returns (uint64 from, uint256 above) {
        Round memory r = IRunState(run).rounds(IRun(run).currentRound());
        Parameters memory p = _parameters(run);
        above = FeesLib.spikeAbove(r.baseFee);
        uint256 length = _lengthOf(p, r.played.phase);
        if (length == 0 || r.played.extensions >= MAX_EXTENSIONS) return (0, above);
        from = uint64(r.played.until - FeesLib.quarterOf(length) + 1);
    }

    function _lengthOf(Parameters memory p, IRunTypes.Phase phase) private pure returns (uint256) {
        if (phase == IRunTypes.Phase.Train) return p.trainBlocks;
        if (phase == IRunTypes.Phase.Seal) return p.sealBlocks;
        if (phase == IRunTypes.Phase.Open) return p.openBlocks;
        if (phase == IRunTypes.Phase.Merge) return p.mergeBlocks;
        return phase == IRunTypes.Phase.Acknowledge ? p.acknowledgeBlocks : 0;
    }

    function _isLeftOut(IRunTypes.Status status) private pure returns (bool) {
        return status == IRunTypes.Status.Unavailable || status == IRunTypes.Status.Disclosed;
    }

    /// @inheritdoc IRunLens
    function acknowledgedBy(address run, uint64 round, address juror) external view returns (uint8) {
        return IRunState(run).entries(round, juror).acknowledged;
    }

    /// @inheritdoc IRunLens
    function candidates(address run, uint64 round) external view returns (CandidateView[] memory views) {
        views = new CandidateView[](_round(run, round).played.candidates);
        for (uint256 i = 0; i < views.length; ++i) {
            Candidate memory c = IRunState(run).candidates(round, i);
            views[i] = CandidateView(c.proposer, c.stateRoot, Cid(c.codec, c.digest), c.acknowledgements, c.isConvicted);
        }
    }

    /// @inheritdoc IRunLens
    function memberOf(address run, address account) external view returns (MemberView memory v) {
        Member memory member = IRunState(run).members(account);
        v.account = account;
        v.role = member.role;
        v.leaving = member.leaving;
        v.units = member.units;
        v.joinedRound = member.joinedRound;
        v.deposit = member.deposit;
        v.locked = member.locked;
        if (member.role == IRunTypes.Role.None) v.exitAt = member.exitAt;
        v.endpoint = IRunState(run).endpoints(account);
    }

    /// @inheritdoc IRunLens
    function participants(address run) external view returns (Participant[] memory all) {
        Round memory r = IRunState(run).rounds(IRun(run).currentRound());
        (uint256 miners, uint256 verifiers) = IRunState(run).seatCounts();
        all = new Participant[](miners + verifiers);
        for (uint256 i = 0; i < all.length; ++i) {
            bool isMiner = i < miners;
            uint256 seat = isMiner ? i : i - miners;
            Participant memory p = all[i];
            p.account = isMiner ? IRunState(run).minerSeats(seat).account : IRunState(run).verifierSeats(seat).account;
            Member memory member = IRunState(run).members(p.account);
            p.role = member.role;
            p.leaving = member.leaving;
            p.endpoint = IRunState(run).endpoints(p.account);
            // Seats taken since the round was frozen play from the next one.
            if (isMiner && seat < r.played.miners) p.frozen = IRunState(run).frozenUnits(seat);
            else if (!isMiner && seat < r.played.verifiers) p.frozen = IRunState(run).frozenSlots(seat);
        }
    }

    /// @inheritdoc IRunLens
    function claimable(address run, address account, uint64 from, uint64 to) external view returns (Claimable[] memory found) {
        Parameters memory p = _parameters(run);
        uint64 currentRound = IRun(run).currentRound();
        if (to > currentRound + 1) to = currentRound + 1;
        if (from > to) from = to;
        found = new Claimable[](to - from);
        uint64 settling = _settling(run, p);
        uint256 count = 0;
        for (uint64 round = from; round < to; ++round) {
            Entry memory entry = IRunState(run).entries(round, account);
            uint256 tokens = IRun(run).rewardOf(round, account);
            if (entry.bonds == 0 && entry.held == 0 && tokens == 0) continue;
            Round memory r = IRunState(run).rounds(round);
            Claimable memory c = found[count++];
            c.round = round;
            c.tokens = tokens;
            c.bonds = entry.bonds;
            c.held = entry.held;
            c.matureAt = _matureAt(p, r);
            c.claimableNow = round < settling;
        }
        assembly ("memory-safe") {
            mstore(found, count)
        }
    }

    /// @inheritdoc IRunLens
    function finality(address run) external view returns (uint64 settled, uint64 settling, Void[] memory voids) {
        settled = IRunState(run).settled();
        settling = _settling(run, _parameters(run));
        Span[] memory spans = IRunState(run).voids();
        voids = new Void[](spans.length);
        for (uint256 i = 0; i < spans.length; ++i) voids[i] = Void(spans[i].from, spans[i].to);
    }

    /// @inheritdoc IRunLens
    function subjectOf(address run, uint64 round, uint8 candidate) external view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, run, round, "merge", candidate));
    }

    function _round(address run, uint64 round) private view returns (Round memory) {
        uint64 currentRound = IRun(run).currentRound();
        if (round > currentRound) revert ErrorsLib.UnknownRound(round, currentRound);
        return IRunState(run).rounds(round);
    }

    function _segments(Parameters memory p, Round memory r, bytes32 unitId, Unit memory unit, uint256 id)
        private
        pure
        returns (uint8[] memory)
    {
        bool isFirst = uint32(unit.verifierIds) == id;
        if (isFirst && DrawLib.isWhole(r.drawSeed, unit.place, r.played.committed, p.replayBps)) return DrawLib.all(p.segments);
        return DrawLib.segments(r.drawSeed, unitId, id, p.segments, p.segmentsPerVerifier);
    }

    /// @dev A static struct's encoding, after one zero byte, is the code of an account the run deployed.
    function _parameters(address run) private view returns (Parameters memory) {
        return abi.decode(CodeLib.load(IRun(run).parametersAt()), (Parameters));
    }

    function _matureAt(Parameters memory p, Round memory r) private pure returns (uint64) {
        uint64 endedAt = _endedAt(r);
        return endedAt == 0 ? 0 : endedAt + p.maturityBlocks;
    }

    function _endedAt(Round memory r) private pure returns (uint64) {
        return r.played.phase == IRunTypes.Phase.Ended ? r.played.until : 0;
    }

    /// @dev How many rounds will be settled once a claim has settled what it can, as `Claims._settle` does.
    function _settling(address run, Parameters memory p) private view returns (uint64 rounds) {
        rounds = IRunState(run).settled();
        for (uint64 end = rounds + SETTLED_AT_ONCE; rounds < end; ++rounds) {
            Round memory r = IRunState(run).rounds(rounds);
            if (r.played.phase != IRunTypes.Phase.Ended || block.number < _matureAt(p, r) || r.disputes != 0) break;
        }
    }

    function _names(address run, uint64 round) private view returns (UnitName[] memory names) {
        names = new UnitName[](IRunState(run).rounds(round).played.committed);
        for (uint256 i = 0; i < names.length; ++i) {
            Place memory place = IRunState(run).places(i);
            bytes32 unitId = keccak256(abi.encode(block.chainid, run, round, place.miner, place.index));
            names[i] = UnitName(unitId, place.miner, place.index);
        }
    }

    function _state(address run, bytes32 unitId) private view returns (UnitState memory s) {
        Unit memory unit = IRunState(run).units(unitId);
        s.status = unit.status;
        // Who has not opened by the judgement is rejected, and nobody else; what was left out before need not be opened.
        s.opened = unit.status > IRunTypes.Status.Rejected;
        s.commitment = unit.commitment;
        s.verifiers = _verifiers(run, unit.verifierIds);
        s.sealedMask = unit.sealedMask;
        s.revealedMask = unit.revealedMask;
        s.agreedMask = unit.agreedMask;
    }

    function _verifiers(address run, uint256 ids) private view returns (address[] memory verifiers) {
        uint256 count = 0;
        while (ids >> (32 * count) != 0) ++count;
        verifiers = new address[](count);
        for (uint256 i = 0; i < count; ++i) verifiers[i] = IRunState(run).accountOf(uint32(ids >> (32 * i)));
    }
    // slither-disable-end calls-loop
}
