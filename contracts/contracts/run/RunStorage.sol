// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBeacon} from "../../interfaces/IBeacon.sol";
import {Cid, IRun, Parameters} from "../../interfaces/IRun.sol";
import {CodeLib} from "../libraries/CodeLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Token} from "../Token.sol";
import {Candidate, Entry, Member, Round, Seat, Unit} from "./Types.sol";

/// @title What a run remembers, and the bookkeeping of deposits
/// @dev Solvency: the balance is at least the sum of all deposits plus `burnOwed`. `locked` is a part of `deposit`.
abstract contract RunStorage is IRun {
    /// @dev Bounds of every loop: they keep each transaction far below 2^24 gas.
    uint256 internal constant MAX_MINERS = 64;
    uint256 internal constant MAX_VERIFIERS = 64;
    uint256 internal constant MAX_UNITS = 64;
    uint256 internal constant MAX_UNITS_PER_MINER = 32; // bits of Entry.committedMask
    uint256 internal constant MAX_VERIFIERS_PER_UNIT = 8; // ids in Unit.verifierIds, bits of its masks
    uint256 internal constant MAX_SEGMENTS = 254; // segments + 2 leaves, numbered in uint8
    uint256 internal constant MAX_ENDPOINT_BYTES = 256;
    /// @dev A header can prove its value for so long; then the awaited height moves on by as much.
    uint256 internal constant BEACON_WINDOW = 256;
    /// @dev A miner that leaves this many rounds running without a single commit frees its seat.
    uint256 internal constant SILENT_ROUNDS = 3;
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    uint8 internal immutable SEGMENTS;
    uint8 internal immutable UNITS_PER_MINER;
    uint8 internal immutable UNITS;
    uint8 internal immutable LEAST_MINERS;
    uint8 internal immutable MINER_SEATS;
    uint8 internal immutable LEAST_VERIFIERS;
    uint8 internal immutable VERIFIER_SEATS;
    uint8 internal immutable VERIFIERS_PER_UNIT;
    uint8 internal immutable SEGMENTS_PER_VERIFIER;
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
    uint32 internal immutable HOLD_BLOCKS;
    uint32 internal immutable EXIT_BLOCKS;
    uint128 internal immutable INITIAL_REWARD;
    uint32 internal immutable HALVING_ROUNDS;
    uint16 internal immutable WORK_TARGET;
    uint16 internal immutable VERIFIER_SHARE_BPS;
    uint16 internal immutable MERGE_SHARE_BPS;
    IBeacon internal immutable BEACON;
    Token internal immutable TOKEN;
    /// @inheritdoc IRun
    address public immutable lens;
    /// @inheritdoc IRun
    address public immutable parametersAt;

    /// @inheritdoc IRun
    uint64 public currentRound;
    uint32 internal _lastId;
    mapping(address account => Member) public members;
    mapping(address account => string) public endpoints;
    mapping(uint256 id => address) public accountOf;
    Seat[] public minerSeats;
    Seat[] public verifierSeats;
    /// @dev By seat, for the current round: units (asked, then drawn) and slots.
    uint8[MAX_MINERS] public frozenUnits;
    uint16[MAX_VERIFIERS] public frozenSlots;

    mapping(uint256 round => Round) public rounds;
    mapping(uint256 round => mapping(uint256 place => bytes32)) public unitIds;
    mapping(bytes32 unitId => Unit) public units;
    /// @dev Place v of a unit: its seal; once revealed before the miner opened, the hash of the answers.
    mapping(bytes32 unitId => mapping(uint256 v => bytes32)) internal _seals;
    /// @dev Place v of a unit: hash of the answers the miner opened, while v has not revealed.
    mapping(bytes32 unitId => mapping(uint256 v => bytes32)) internal _openedAnswers;
    mapping(uint256 round => mapping(uint256 number => Candidate)) public candidates;
    /// @dev Number + 1 of the candidate with this root and CID, by the hash of both.
    mapping(uint256 round => mapping(bytes32 identity => uint8)) internal _candidateOf;
    mapping(uint256 round => mapping(address proposer => bool)) internal _hasProposed;
    mapping(uint256 round => mapping(address account => Entry)) public entries;

    /// @inheritdoc IRun
    uint256 public burnOwed;

    constructor(Parameters memory p, address lens_, string memory tokenName, string memory tokenSymbol) {
        _check(p, lens_);
        SEGMENTS = p.segments;
        UNITS_PER_MINER = p.maxUnitsPerMiner;
        UNITS = p.maxUnits;
        LEAST_MINERS = p.minMiners;
        MINER_SEATS = p.maxMiners;
        LEAST_VERIFIERS = p.minVerifiers;
        VERIFIER_SEATS = p.maxVerifiers;
        VERIFIERS_PER_UNIT = p.verifiersPerUnit;
        SEGMENTS_PER_VERIFIER = p.segmentsPerVerifier;
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
        HOLD_BLOCKS = p.holdBlocks;
        EXIT_BLOCKS = p.exitBlocks;
        INITIAL_REWARD = p.initialReward;
        HALVING_ROUNDS = p.halvingRounds;
        WORK_TARGET = p.workTarget;
        VERIFIER_SHARE_BPS = p.verifierShareBps;
        MERGE_SHARE_BPS = p.mergeShareBps;
        BEACON = IBeacon(p.beacon);
        TOKEN = new Token(tokenName, tokenSymbol);
        lens = lens_;
        parametersAt = CodeLib.store(abi.encode(p));

        Round storage first = rounds[0];
        first.stateRoot = p.genesisRoot;
        first.stateCodec = p.genesis.codec;
        first.stateDigest = p.genesis.digest;
    }

    /// @inheritdoc IRun
    function token() external view returns (address) {
        return address(TOKEN);
    }

    /// @notice Seats taken, by role.
    function seatCounts() external view returns (uint256 miners, uint256 verifiers) {
        return (minerSeats.length, verifierSeats.length);
    }

    function _check(Parameters memory p, address lens_) private view {
        if (p.programsRoot == 0 || p.dataRoot == 0 || p.genesisRoot == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(p.genesis.codec);
        _checkCodec(p.manifest.codec);
        _range("segments", p.segments, 1, MAX_SEGMENTS);
        _range("segmentSteps", p.segmentSteps, 1, type(uint32).max);
        _range("maxUnitsPerMiner", p.maxUnitsPerMiner, 1, MAX_UNITS_PER_MINER);
        _range("maxUnits", p.maxUnits, 1, MAX_UNITS);
        _range("maxMerge", p.maxMerge, 1, MAX_UNITS);
        _range("maxMiners", p.maxMiners, 1, MAX_MINERS);
        _range("minMiners", p.minMiners, 1, p.maxMiners);
        _range("maxVerifiers", p.maxVerifiers, 1, MAX_VERIFIERS);
        _range("minVerifiers", p.minVerifiers, 1, p.maxVerifiers);
        _range("verifiersPerUnit", p.verifiersPerUnit, 1, MAX_VERIFIERS_PER_UNIT);
        _range("segmentsPerVerifier", p.segmentsPerVerifier, 1, p.segments);
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
        _range("code size of lens", lens_.code.length, 1, type(uint256).max);
        _range("code size of beacon", p.beacon.code.length, 1, type(uint256).max);
    }

    function _range(string memory name, uint256 value, uint256 low, uint256 high) private pure {
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
        Member storage member = members[account];
        uint96 free = _free(member);
        if (amount > free) amount = free;
        if (amount == 0) return;
        member.deposit -= amount;
        burnOwed += amount;
        emit EventsLib.Burned(round, account, amount);
    }

    /// @dev The current round in the phase an action needs. Call after `_advance`.
    function _inPhase(uint64 round, Phase phase) internal view returns (Round storage r) {
        if (round != currentRound) revert ErrorsLib.WrongRound(round, currentRound);
        r = rounds[round];
        if (r.phase != phase) revert ErrorsLib.WrongPhase(uint8(r.phase), uint8(phase));
    }

    /// @dev The current round, if it is the one of this seed: the first for Train, the draw's from then on. What a fork that was
    /// undone asked for has another seed, so an answer to it cannot act here. Call after `_advance`.
    function _answering(bytes32 given, Phase phase) internal view returns (uint64 round, Round storage r) {
        round = currentRound;
        r = rounds[round];
        bytes32 expected = phase == Phase.Train ? r.seed : r.drawSeed;
        if (given != expected) revert ErrorsLib.WrongSeed(given, expected);
        // A merge can be acknowledged while candidates may still come.
        if (r.phase != phase && (phase != Phase.Acknowledge || r.phase != Phase.Merge)) {
            revert ErrorsLib.WrongPhase(uint8(r.phase), uint8(phase));
        }
    }

    function _unitIdOf(uint64 round, address miner, uint8 index) internal view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, address(this), round, miner, index));
    }
}
