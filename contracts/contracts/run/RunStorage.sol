// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBeacon} from "../../interfaces/IBeacon.sol";
import {ICourt} from "../../interfaces/ICourt.sol";
import {IRunTypes, Parameters} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Candidate, Entry, Live, Member, Place, Round, Seat, Span, Subject, Unit} from "./Types.sol";

/// @title What a run remembers, and the bookkeeping of deposits
/// @dev Solvency: the balance is at least the sum of all deposits plus `_burnOwed`. `locked` is a part of `deposit`.
abstract contract RunStorage is IRunTypes {
    // Both halves of a run have this storage, and each writes its part of it.
    // slither-disable-start unused-state,uninitialized-state,constable-states
    /// @dev Bounds of every loop: they keep each transaction far below 2^24 gas.
    uint256 internal constant MAX_MINERS = 64;
    uint256 internal constant MAX_VERIFIERS = 64;
    uint256 internal constant MAX_UNITS = 64;
    uint256 internal constant MAX_UNITS_PER_MINER = 32; // keeps 64 miners' lots in one transaction
    uint256 internal constant MAX_VERIFIERS_PER_UNIT = 8; // ids in Unit.verifierIds, bits of its masks
    uint256 internal constant MAX_SEGMENTS = 254; // segments + 2 leaves, numbered in uint8
    uint256 internal constant MAX_ENDPOINT_BYTES = 256;
    /// @dev A header can prove its value for so long; then the awaited height moves on by as much.
    uint256 internal constant BEACON_WINDOW = 256;
    /// @dev Of one phase's clock, each by a quarter: at most twice its length.
    uint8 internal constant MAX_EXTENSIONS = 4;
    /// @dev A miner that leaves this many rounds running without a single commit frees its seat.
    uint256 internal constant SILENT_ROUNDS = 3;
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    uint8 internal immutable SEGMENTS;
    uint8 internal immutable UNITS_PER_MINER;
    uint8 internal immutable UNITS;
    uint8 internal immutable MERGED;
    uint8 internal immutable LEAST_MINERS;
    uint8 internal immutable MINER_SEATS;
    uint8 internal immutable LEAST_VERIFIERS;
    uint8 internal immutable VERIFIER_SEATS;
    uint8 internal immutable VERIFIERS_PER_UNIT;
    uint8 internal immutable SEGMENTS_PER_VERIFIER;
    uint16 internal immutable REPLAY_BPS;
    uint8 internal immutable QUORUM;
    uint8 internal immutable JURY_TARGET;
    uint96 internal immutable UNIT_BOND;
    uint96 internal immutable SLOT_STAKE;
    uint96 internal immutable UNAVAILABLE_FEE;
    uint96 internal immutable SEAL_FEE;
    uint96 internal immutable MERGE_BOND;
    uint32 internal immutable BEACON_DELAY;
    uint32 internal immutable TRAIN_BLOCKS;
    uint32 internal immutable SEAL_BLOCKS;
    uint32 internal immutable OPEN_BLOCKS;
    uint32 internal immutable MERGE_BLOCKS;
    uint32 internal immutable ACKNOWLEDGE_BLOCKS;
    uint32 internal immutable MATURITY_BLOCKS;
    uint32 internal immutable WINDOW_BLOCKS;
    uint32 internal immutable EXIT_BLOCKS;
    uint128 internal immutable INITIAL_REWARD;
    uint32 internal immutable HALVING_ROUNDS;
    uint16 internal immutable WORK_TARGET;
    uint16 internal immutable VERIFIER_SHARE_BPS;
    uint16 internal immutable MERGE_SHARE_BPS;
    IBeacon internal immutable BEACON;
    address internal immutable COURT;

    Live internal _live;
    uint32 internal _lastId;
    /// @dev Rounds that are final: all below.
    uint32 internal _settled;
    mapping(address account => Member) internal _members;
    mapping(address account => string) internal _endpoints;
    mapping(uint256 id => address) internal _accountOf;
    Seat[] internal _minerSeats;
    Seat[] internal _verifierSeats;
    /// @dev By seat, for the current round: units (asked, then drawn) and slots.
    uint8[MAX_MINERS] internal _frozenUnits;
    uint16[MAX_VERIFIERS] internal _frozenSlots;

    mapping(uint256 round => Round) internal _rounds;
    mapping(bytes32 unitId => Unit) internal _units;
    mapping(uint256 round => mapping(uint256 number => Candidate)) internal _candidates;
    /// @dev Number + 1 of the candidate with this root and CID, by the hash of both.
    mapping(uint256 round => mapping(bytes32 identity => uint8)) internal _candidateOf;
    mapping(uint256 round => mapping(address account => Entry)) internal _entries;

    /// @dev Of the round that is played. Every round writes them anew, over what the one before left: a word that is there
    /// already costs a quarter of a new one. What was not written this round is not read: the unit's masks say so.
    Place[MAX_UNITS] internal _places;
    /// @dev Verifier v of the unit at a place: its seal; once revealed before the miner opened, the hash of the answers.
    bytes32[MAX_UNITS * MAX_VERIFIERS_PER_UNIT] internal _seals;
    /// @dev Likewise: ten bytes of the hash of the answers the miner opened, where v had still to reveal. To pass for right, wrong
    /// answers would have to be found, before the draw, of which these ten bytes are those of the right ones: 2^80 trials.
    bytes10[MAX_UNITS * MAX_VERIFIERS_PER_UNIT] internal _openedAnswers;

    mapping(bytes32 subject => Subject) internal _subjects;
    /// @dev Void rounds, ascending and apart. Of use for those not settled only: in the others it is written down.
    Span[] internal _voids;

    /// @dev Burned and not yet sent away.
    uint256 internal _burnOwed;

    // slither-disable-end unused-state,uninitialized-state,constable-states

    constructor(Parameters memory p) {
        _check(p);
        SEGMENTS = p.segments;
        UNITS_PER_MINER = p.maxUnitsPerMiner;
        UNITS = p.maxUnits;
        MERGED = p.maxMerge;
        LEAST_MINERS = p.minMiners;
        MINER_SEATS = p.maxMiners;
        LEAST_VERIFIERS = p.minVerifiers;
        VERIFIER_SEATS = p.maxVerifiers;
        VERIFIERS_PER_UNIT = p.verifiersPerUnit;
        SEGMENTS_PER_VERIFIER = p.segmentsPerVerifier;
        REPLAY_BPS = p.replayBps;
        QUORUM = p.quorum;
        JURY_TARGET = p.juryTarget;
        UNIT_BOND = p.unitBond;
        SLOT_STAKE = p.slotStake;
        UNAVAILABLE_FEE = p.unavailableFee;
        SEAL_FEE = p.sealFee;
        MERGE_BOND = p.mergeBond;
        BEACON_DELAY = p.beaconDelay;
        TRAIN_BLOCKS = p.trainBlocks;
        SEAL_BLOCKS = p.sealBlocks;
        OPEN_BLOCKS = p.openBlocks;
        MERGE_BLOCKS = p.mergeBlocks;
        ACKNOWLEDGE_BLOCKS = p.acknowledgeBlocks;
        MATURITY_BLOCKS = p.maturityBlocks;
        WINDOW_BLOCKS = p.windowBlocks;
        EXIT_BLOCKS = p.exitBlocks;
        INITIAL_REWARD = p.initialReward;
        HALVING_ROUNDS = p.halvingRounds;
        WORK_TARGET = p.workTarget;
        VERIFIER_SHARE_BPS = p.verifierShareBps;
        MERGE_SHARE_BPS = p.mergeShareBps;
        BEACON = IBeacon(p.beacon);
        COURT = p.court;
    }

    function _check(Parameters memory p) private view {
        if (p.programsRoot == 0 || p.dataRoot == 0 || p.genesisRoot == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(p.genesis.codec);
        _checkCodec(p.manifest.codec);
        _range("segments", p.segments, 1, MAX_SEGMENTS);
        // More, and the roots between the steps of a segment would not fit in a move of a dispute.
        _range("segmentSteps", p.segmentSteps, 1, 1024);
        _range("shards", p.shards, 1, type(uint32).max);
        _range("shardTokens", p.shardTokens, 1, type(uint64).max);
        _range("maxUnitsPerMiner", p.maxUnitsPerMiner, 1, MAX_UNITS_PER_MINER);
        _range("maxUnits", p.maxUnits, 1, MAX_UNITS);
        _range("maxMerge", p.maxMerge, 1, MAX_UNITS);
        _range("maxMiners", p.maxMiners, 1, MAX_MINERS);
        _range("minMiners", p.minMiners, 1, p.maxMiners);
        _range("maxVerifiers", p.maxVerifiers, 1, MAX_VERIFIERS);
        _range("minVerifiers", p.minVerifiers, 1, p.maxVerifiers);
        _range("verifiersPerUnit", p.verifiersPerUnit, 1, MAX_VERIFIERS_PER_UNIT);
        _range("segmentsPerVerifier", p.segmentsPerVerifier, 1, p.segments);
        _range("replayBps", p.replayBps, 0, 10_000);
        _range("quorum", p.quorum, 1, p.verifiersPerUnit);
        _range("juryTarget", p.juryTarget, 1, MAX_VERIFIERS);
        _range("unitBond", p.unitBond, 1, type(uint96).max / MAX_UNITS);
        _range("slotStake", p.slotStake, 1, type(uint96).max / MAX_UNITS);
        _range("unavailableFee", p.unavailableFee, 0, p.unitBond);
        _range("sealFee", p.sealFee, 0, p.slotStake);
        _range("beaconDelay", p.beaconDelay, 1, BEACON_WINDOW);
        _range("trainBlocks", p.trainBlocks, 1, type(uint32).max);
        _range("sealBlocks", p.sealBlocks, 1, type(uint32).max);
        _range("openBlocks", p.openBlocks, 1, type(uint32).max);
        _range("mergeBlocks", p.mergeBlocks, 1, type(uint32).max);
        _range("acknowledgeBlocks", p.acknowledgeBlocks, 1, type(uint32).max);
        _range("halvingRounds", p.halvingRounds, 1, type(uint32).max);
        _range("workTarget", p.workTarget, 1, type(uint16).max);
        _range("verifierShareBps + mergeShareBps", uint256(p.verifierShareBps) + p.mergeShareBps, 0, 10_000);
        _range("code size of beacon", p.beacon.code.length, 1, type(uint256).max);
        _range("windowBlocks", p.windowBlocks, 1, type(uint32).max);
        if (p.court == address(0)) return;
        _range("code size of court", p.court.code.length, 1, type(uint256).max);
        // Who is accused in the last block of the window is judged before anything of it is final, or its stake gone.
        uint256 longest = p.windowBlocks + ICourt(p.court).longestDispute();
        _range("maturityBlocks", p.maturityBlocks, longest, type(uint32).max);
        _range("exitBlocks", p.exitBlocks, p.maturityBlocks, type(uint32).max);
    }

    function _range(string memory name, uint256 value, uint256 low, uint256 high) internal pure {
        if (value < low || value > high) revert ErrorsLib.ParameterOutOfRange(name, value, low, high);
    }

    function _checkCodec(uint8 codec) internal pure {
        if (codec != 0x55 && codec != 0x70) revert ErrorsLib.UnknownCodec(codec);
    }

    function _free(Member storage member) internal view returns (uint96) {
        return member.deposit - member.locked;
    }

    function _lock(Member storage member, uint96 amount) internal {
        uint96 free = _free(member);
        if (free < amount) revert ErrorsLib.NotEnoughFree(free, amount);
        member.locked += amount;
    }

    /// @dev Burn up to `amount` of what is free of an account's deposit: a short deposit never blocks a judgement.
    function _burnFree(uint64 round, address account, uint96 amount) internal {
        Member storage member = _members[account];
        uint96 free = _free(member);
        if (amount > free) amount = free;
        if (amount == 0) return;
        member.deposit -= amount;
        _burnOwed += amount;
        emit EventsLib.Burned(round, account, amount);
    }

    /// @dev Burn what backs something: it is there, and locked.
    function _burnLocked(uint64 round, address account, uint96 amount) internal {
        Member storage member = _members[account];
        member.deposit -= amount;
        member.locked -= amount;
        // Several in a transaction only where a juror reports several units: as many as a round has.
        // slither-disable-next-line costly-loop
        _burnOwed += amount;
        emit EventsLib.Burned(round, account, amount);
    }

    /// @dev What has become of a round so far, and of an ended one at last.
    function _playedOf(uint64 round) internal view returns (Live storage) {
        return round == _live.round ? _live : _rounds[round].played;
    }

    function _isVoid(uint256 round) internal view returns (bool) {
        for (uint256 i = _voids.length; i != 0; --i) {
            Span storage span = _voids[i - 1];
            if (span.to < round) return false;
            if (span.from <= round) return true;
        }
        return false;
    }

    /// @dev The current round in the phase an action needs. Call after `_advance`.
    function _inPhase(uint64 round, Phase phase) internal view {
        Live storage live = _live;
        if (round != live.round) revert ErrorsLib.WrongRound(round, live.round);
        if (live.phase != phase) revert ErrorsLib.WrongPhase(uint8(live.phase), uint8(phase));
    }

    /// @dev The current round, if it is the one of this seed: the first for Train, the draw's from then on. What a fork that was
    /// undone asked for has another seed, so an answer to it cannot act here. Call after `_advance`.
    function _answering(bytes32 given, Phase phase) internal view returns (uint64 round) {
        return _answering(given, phase, phase);
    }

    /// @dev What may be done in one phase and in another.
    function _answering(bytes32 given, Phase phase, Phase other) internal view returns (uint64 round) {
        round = _live.round;
        Round storage r = _rounds[round];
        bytes32 expected = phase == Phase.Train ? r.seed : r.drawSeed;
        if (given != expected) revert ErrorsLib.WrongSeed(given, expected);
        if (_live.phase != phase && _live.phase != other) {
            revert ErrorsLib.WrongPhase(uint8(_live.phase), uint8(phase));
        }
    }

    function _isJuror(Member storage member, uint64 round) internal view returns (bool) {
        return member.role == Role.Verifier && member.joinedRound <= round && _rounds[round].jury >> member.seat & 1 == 1;
    }

    /// @dev End the phase once everybody has acted: what comes next starts from this block, in the next transaction to come later.
    function _endPhaseHere() internal {
        _live.until = uint40(block.number);
        _live.extensions = MAX_EXTENSIONS;
    }

    function _unitIdOf(uint64 round, address miner, uint8 index) internal view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), round, miner, index));
    }
}
