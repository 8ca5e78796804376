// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind, IDisputable, PostedClaim, Rules} from "../../interfaces/IDisputable.sol";
import {IRunDisputes, Parameters} from "../../interfaces/IRun.sol";
import {CodeLib} from "../libraries/CodeLib.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {RunStorage} from "./RunStorage.sol";
import {Candidate, Entry, Live, Member, Round, Subject, Unit} from "./Types.sol";

/// @title What a run owes its court: claims, and the execution of its judgements
/// @dev None of it moves phases: a judgement is about what was said, whatever height it is.
abstract contract Disputable is IDisputable, IRunDisputes, RunStorage {
    bytes32 private immutable _PROGRAMS_ROOT;
    bytes32 private immutable _DATA_ROOT;
    uint32 private immutable _SHARDS;
    uint64 private immutable _SHARD_TOKENS;
    uint32 private immutable _SEGMENT_STEPS;

    constructor(Parameters memory p) {
        _PROGRAMS_ROOT = p.programsRoot;
        _DATA_ROOT = p.dataRoot;
        _SHARDS = p.shards;
        _SHARD_TOKENS = p.shardTokens;
        _SEGMENT_STEPS = p.segmentSteps;
    }

    modifier onlyCourt() {
        if (msg.sender != COURT) revert ErrorsLib.NotTheCourt(msg.sender, COURT);
        _;
    }

    /// @dev Give up every round from `from` on. In the other half of the code.
    function _voidFrom(uint64 from) internal virtual;

    // ---------------------------------------------------------------- questions

    /// @inheritdoc IDisputable
    function court() external view returns (address) {
        return COURT;
    }

    /// @inheritdoc IDisputable
    function claimRules() external view returns (Rules memory) {
        return Rules({
            programsRoot: _PROGRAMS_ROOT,
            programs: 4 + uint32(MERGED),
            dataRoot: _DATA_ROOT,
            shards: _SHARDS,
            shardTokens: _SHARD_TOKENS,
            segments: SEGMENTS,
            segmentSteps: _SEGMENT_STEPS
        });
    }

    /// @inheritdoc IDisputable
    function claimOf(bytes32 subject) external view returns (PostedClaim memory) {
        Subject storage s = _subjects[subject];
        return PostedClaim({
            kind: s.kind,
            contestable: _isContestable(subject, s),
            accused: s.accused,
            round: s.round,
            root: s.root,
            seed: _rounds[s.round].seed
        });
    }

    /// @inheritdoc IDisputable
    function mergeInputs(bytes32 subject) external view returns (bytes32[] memory contributions) {
        bytes memory packed = CodeLib.load(_subjects[subject].inputs);
        contributions = new bytes32[](packed.length / 32);
        for (uint256 i = 0; i < contributions.length; ++i) {
            assembly ("memory-safe") {
                let at := add(32, mul(i, 32))
                mstore(add(contributions, at), mload(add(packed, at)))
            }
        }
    }

    /// @dev A unit from its judgement on, a candidate at once; until the window behind the round has passed.
    function _isContestable(bytes32 subject, Subject storage s) private view returns (bool) {
        if (s.kind == ClaimKind.None || s.isConvicted) return false;
        if (s.kind == ClaimKind.Unit) {
            Status status = _units[subject].status;
            if (status != Status.Disputed && status != Status.Unverified && status != Status.Attested) return false;
        }
        return s.round == _live.round || block.number <= uint256(_rounds[s.round].played.until) + WINDOW_BLOCKS;
    }

    // ---------------------------------------------------------------- presenting

    /// @inheritdoc IRunDisputes
    function presentUnit(uint64 round, address miner, uint8 index, Commitment calldata commitment)
        external
        returns (bytes32 subject)
    {
        subject = _unitIdOf(round, miner, index);
        _checkCommitted(subject, commitment);
        Subject storage s = _subjects[subject];
        if (s.kind != ClaimKind.None) return subject;
        s.kind = ClaimKind.Unit;
        s.number = index;
        s.round = uint32(round);
        s.accused = miner;
        s.root = commitment.root;
        emit EventsLib.Presented(subject, round, miner);
    }

    /// @inheritdoc IRunDisputes
    function presentMerge(uint64 round, uint8 candidate, MergedUnit[] calldata units) external returns (bytes32 subject) {
        Live storage played = _playedOf(round);
        if (candidate >= played.candidates) revert ErrorsLib.UnknownCandidate(candidate, played.candidates);
        subject = keccak256(abi.encode(block.chainid, address(this), round, "merge", candidate));
        Subject storage s = _subjects[subject];
        if (s.kind != ClaimKind.None) return subject;
        Candidate storage posted = _candidates[round][candidate];
        s.kind = ClaimKind.Merge;
        s.number = candidate;
        s.round = uint32(round);
        s.accused = posted.proposer;
        s.root = posted.stateRoot;
        s.inputs = CodeLib.store(_contributions(round, played.attested, units));
        emit EventsLib.Presented(subject, round, posted.proposer);
    }

    /// @dev Of exactly the units of the round's merge set, in the order of their ids.
    function _contributions(uint64 round, uint256 attested, MergedUnit[] calldata units)
        private
        view
        returns (bytes memory packed)
    {
        if (units.length != (attested < MERGED ? attested : MERGED)) revert ErrorsLib.NotTheMergeSet(round, units.length);
        bytes32[] memory contributions = new bytes32[](units.length);
        bytes32 previous = 0;
        for (uint256 i = 0; i < units.length; ++i) {
            MergedUnit calldata merged = units[i];
            bytes32 unitId = _unitIdOf(round, merged.miner, merged.index);
            _checkCommitted(unitId, merged.commitment);
            if (unitId <= previous || !_isMerged(round, unitId)) revert ErrorsLib.NotTheMergeSet(round, i);
            previous = unitId;
            contributions[i] = merged.commitment.contribution;
        }
        packed = abi.encodePacked(contributions);
    }

    /// @dev Whether the round's merge set has the unit; a conviction does not take it out.
    function _isMerged(uint64 round, bytes32 unitId) private view returns (bool) {
        Status status = _units[unitId].status;
        if (status == Status.Convicted) return _subjects[unitId].isMerged;
        bytes32 last = _rounds[round].mergeLast;
        return status == Status.Attested && (last == 0 || unitId <= last);
    }

    function _checkCommitted(bytes32 unitId, Commitment calldata commitment) private view {
        Unit storage unit = _units[unitId];
        if (unit.status == Status.None) revert ErrorsLib.UnknownUnit(unitId);
        bytes27 given = bytes27(keccak256(abi.encode(commitment)));
        if (unit.commitment != given) revert ErrorsLib.CommitmentMismatch(unitId, unit.commitment, given);
    }

    // ---------------------------------------------------------------- the court's

    /// @inheritdoc IDisputable
    function disputeOpened(bytes32 subject) external onlyCourt {
        Subject storage s = _subjects[subject];
        if (!_isContestable(subject, s)) revert ErrorsLib.NotContestable(subject);
        ++s.disputes;
        ++_rounds[s.round].disputes;
    }

    /// @inheritdoc IDisputable
    function disputeClosed(bytes32 subject) external onlyCourt {
        _closeDispute(_subjects[subject]);
    }

    /// @inheritdoc IDisputable
    function convict(bytes32 subject, uint8 segment) external onlyCourt returns (uint256 prizeWei) {
        Subject storage s = _subjects[subject];
        _closeDispute(s);
        if (s.kind == ClaimKind.None || s.isConvicted) return 0;
        s.isConvicted = true;
        uint64 round = s.round;
        address accused = s.accused;
        (uint96 slashed, bool isUsed) =
            s.kind == ClaimKind.Unit ? _convictUnit(subject, s, segment) : _convictCandidate(round, s.number, accused);
        prizeWei = slashed / 2;
        _burnOwed += slashed - prizeWei;
        emit EventsLib.Convicted(round, subject, accused, prizeWei, slashed - prizeWei);
        if (isUsed && !_isVoid(round)) _voidFrom(round);

        // Last, and to the court that called: it takes ether at this moment only.
        (bool sent,) = msg.sender.call{value: prizeWei}("");
        if (!sent) revert ErrorsLib.TransferFailed(msg.sender, prizeWei);
    }

    function _closeDispute(Subject storage s) private {
        if (s.disputes == 0) return;
        --s.disputes;
        --_rounds[s.round].disputes;
    }

    /// @return slashed The unit's bond.
    /// @return isUsed Whether a state rests on it, or is about to.
    function _convictUnit(bytes32 unitId, Subject storage s, uint8 segment)
        private
        returns (uint96 slashed, bool isUsed)
    {
        uint64 round = s.round;
        Unit storage unit = _units[unitId];
        Status status = unit.status;
        bool isMerged = _isMerged(round, unitId);
        s.isMerged = isMerged;
        unit.status = Status.Convicted;
        Entry storage entry = _entries[round][s.accused];
        if (status == Status.Attested) --entry.attestedUnits;
        slashed = _slash(round, s.accused, UNIT_BOND);
        _judgeVerifiers(round, unitId, unit, segment, status);
        isUsed = isMerged && (round == _live.round || _rounds[round].played.merged);
    }

    /// @dev Who contradicted the unit was right, and who attested the segment is not paid for it. No more than that: a conviction shows
    /// that the accused did not stand by its claim, which it can do on purpose, and the claim may have been true.
    function _judgeVerifiers(uint64 round, bytes32 unitId, Unit storage unit, uint8 segment, Status status) private {
        bytes32 drawSeed = _rounds[round].drawSeed;
        uint256 ids = unit.verifierIds;
        uint256 revealed = unit.revealedMask;
        uint256 agreed = unit.agreedMask;
        bool isWhole = DrawLib.isWhole(drawSeed, unit.place, _playedOf(round).committed, REPLAY_BPS);
        for (uint256 v = 0; ids != 0; ++v) {
            uint256 id = uint32(ids);
            ids >>= 32;
            if (revealed >> v & 1 == 0) continue;
            Entry storage entry = _entries[round][_accountOf[id]];
            if (agreed >> v & 1 == 0) {
                if (entry.dissents != 0) --entry.dissents;
                continue;
            }
            if (status != Status.Attested) continue;
            bool isAll = isWhole && v == 0;
            if (isAll || _holds(DrawLib.segments(drawSeed, unitId, id, SEGMENTS, SEGMENTS_PER_VERIFIER), segment)) {
                --entry.attestations;
                if (isAll) --entry.wholeAttestations;
            }
        }
    }

    function _holds(uint8[] memory numbers, uint8 number) private pure returns (bool) {
        for (uint256 i = 0; i < numbers.length; ++i) if (numbers[i] == number) return true;
        return false;
    }

    function _convictCandidate(uint64 round, uint8 number, address proposer) private returns (uint96 slashed, bool isUsed) {
        _candidates[round][number].isConvicted = true;
        slashed = _slash(round, proposer, MERGE_BOND);
        Live storage played = _playedOf(round);
        isUsed = played.merged && played.accepted == number;
    }

    /// @dev Take a bond out of what is locked for the round: it is there until the round is settled, and nothing is accused after that.
    function _slash(uint64 round, address account, uint96 amount) private returns (uint96 slashed) {
        Member storage member = _members[account];
        Entry storage entry = _entries[round][account];
        uint96 bonds = amount < entry.bonds ? amount : entry.bonds;
        uint96 held = amount - bonds < entry.held ? amount - bonds : entry.held;
        entry.bonds -= bonds;
        entry.held -= held;
        slashed = bonds + held;
        member.locked -= slashed;
        member.deposit -= slashed;
        emit EventsLib.Burned(round, account, slashed);
    }
}
