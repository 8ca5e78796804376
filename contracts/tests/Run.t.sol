// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Run} from "../contracts/Run.sol";
import {RunRules} from "../contracts/RunRules.sol";
import {RunLens} from "../contracts/RunLens.sol";
import {ScriptedBeacon} from "../contracts/ScriptedBeacon.sol";
import {Token} from "../contracts/Token.sol";
import {IDisputable} from "../interfaces/IDisputable.sol";
import {Cid, IRun, IRunTypes, Parameters} from "../interfaces/IRun.sol";
import {IRunLens} from "../interfaces/IRunLens.sol";
import {Entry, Member, Unit} from "../contracts/run/Types.sol";
import {IRunState} from "../contracts/run/IRunState.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

uint256 constant SEGMENTS = 3;

function makeParameters(address beacon, address court) pure returns (Parameters memory p) {
    p.programsRoot = keccak256("programs");
    p.dataRoot = keccak256("data");
    (p.shards, p.shardTokens) = (3, 3000);
    p.genesisRoot = keccak256("genesis");
    p.genesis = Cid(0x70, keccak256("genesis cid"));
    p.manifest = Cid(0x70, keccak256("manifest"));
    p.segments = uint8(SEGMENTS);
    p.segmentSteps = 10;
    p.maxUnitsPerMiner = 3;
    p.maxUnits = 5;
    p.maxMerge = 4;
    (p.minMiners, p.maxMiners, p.minVerifiers, p.maxVerifiers) = (1, 3, 1, 4);
    (p.verifiersPerUnit, p.segmentsPerVerifier, p.quorum, p.juryTarget) = (2, 2, 1, 3);
    p.replayBps = 2000;
    (p.unitBond, p.slotStake, p.unavailableFee, p.sealFee, p.mergeBond) = (1 ether, 2 ether, 0.4 ether, 0.1 ether, 0.3 ether);
    (p.beaconDelay, p.trainBlocks, p.sealBlocks, p.openBlocks) = (1, 8, 8, 8);
    (p.mergeBlocks, p.acknowledgeBlocks, p.maturityBlocks, p.windowBlocks, p.exitBlocks) = (8, 4, 10, 4, 10);
    (p.initialReward, p.halvingRounds, p.workTarget) = (1e24, 2, 2);
    (p.verifierShareBps, p.mergeShareBps) = (2000, 500);
    p.beacon = beacon;
    p.court = court;
}

/// @dev A court as bad as one could be: it opens, closes and convicts whatever it is told to, true or false.
contract Judge {
    function longestDispute() external pure returns (uint256) {
        return 6;
    }

    function begin(IDisputable run, bytes32 subject) external {
        run.disputeOpened(subject);
    }

    function end(IDisputable run, bytes32 subject) external {
        run.disputeClosed(subject);
    }

    function convict(IDisputable run, bytes32 subject, uint8 segment) external returns (uint256 prize) {
        uint256 before = address(this).balance;
        run.convict(subject, segment);
        prize = address(this).balance - before;
    }

    receive() external payable {}
}

/// @dev Lets a few accounts do anything a node could do, well or badly, and remembers what must not change.
contract Players is Test {
    IRun public immutable run;
    RunLens public immutable lens;
    Judge public immutable judge;
    address[] public accounts;

    /// @dev (round, draws, phase) as one number: never smaller than before.
    uint256 public progress;
    bool public wentBack;
    /// @dev Whether anything was done with another seed than the run's.
    bool public actedForAnother;
    /// @dev What was said about a unit: the first answer is the only one.
    mapping(bytes32 unitId => bytes27) public commitmentOf;
    bytes32[] public committedUnits;
    mapping(bytes32 unitId => bool) private _lied;
    uint256 public height = 1;
    uint256 public mergedRounds;
    /// @dev Whether a conviction ever brought half of what it cost, or more.
    bool public convictionPaid;
    uint256 public convictions;
    uint256 public voidedRounds;
    mapping(bytes32 unitId => Presented) private _posted;

    struct Presented {
        uint64 round;
        address miner;
        uint8 index;
        IRunTypes.Commitment commitment;
    }

    constructor() {
        ScriptedBeacon beacon = new ScriptedBeacon("players");
        lens = new RunLens();
        judge = new Judge();
        Parameters memory p = makeParameters(address(beacon), address(judge));
        run = IRun(address(new Run(p, address(new RunRules(p)), address(lens), "Players", "PLAY")));
        for (uint256 i = 0; i < 8; ++i) {
            accounts.push(address(uint160(0x1000 + i)));
            vm.deal(accounts[i], 1000 ether);
        }
    }

    modifier watched() {
        _;
        IRunLens.Current memory c = lens.current(address(run));
        // A missing seal takes a round back to its draw, once.
        uint256 attempt = IRunState(address(run)).rounds(c.round).played.attempt;
        uint256 now_ = uint256(c.round) << 16 | attempt << 8 | uint8(c.phase);
        if (now_ < progress) wentBack = true;
        progress = now_;
    }

    function accountsCount() external view returns (uint256) {
        return accounts.length;
    }

    function unitsCount() external view returns (uint256) {
        return committedUnits.length;
    }

    function _who(uint256 seed) private view returns (address) {
        return accounts[seed % accounts.length];
    }

    function join(uint256 who, uint8 units, uint96 deposit) external watched {
        address account = _who(who);
        vm.prank(account);
        if (who % accounts.length < 3) {
            try run.joinMiner{value: bound(deposit, 0, 9 ether)}(uint8(bound(units, 1, 3)), "miner") {} catch {}
        } else {
            try run.stake{value: bound(deposit, 0, 9 ether)}("verifier") {} catch {}
        }
    }

    function retire(uint256 who) external watched {
        if (who % 4 != 0) return;
        vm.prank(_who(who / 4));
        try run.retire() {} catch {}
    }

    function withdraw(uint256 who) external watched {
        vm.prank(_who(who));
        try run.withdraw() {} catch {}
    }

    function wait(uint256 blocks) external watched {
        _roll(bound(blocks, 1, 9));
        run.advance();
    }

    /// @dev What each phase asks of everybody, about a round long, with the odd one asleep, lying or dissenting: so that rounds
    /// get to their end.
    function everybody(uint256 seed) external watched {
        for (uint256 i = 0; i < 8; ++i) {
            _roll(2);
            run.advance();
            answerAnotherFork(seed >> i, keccak256(abi.encode(seed, i)));
            _playPhase(seed);
        }
    }

    function _playPhase(uint256 seed) private {
        IRunTypes.Phase phase = lens.current(address(run)).phase;
        for (uint256 i = 0; i < accounts.length; ++i) {
            uint256 chance = uint256(keccak256(abi.encode(seed, i)));
            if (chance % 16 == 0) continue;
            if (phase == IRunTypes.Phase.Train) commit(i, chance >> 8 & 7 == 0);
            else if (phase == IRunTypes.Phase.Seal) seal(i, chance >> 8 & 7 == 0);
            else if (phase == IRunTypes.Phase.Open) (i < 3) ? open(i) : reveal(i);
            else if (phase == IRunTypes.Phase.Merge) (i < 3) ? merge(i, chance >> 8 & 7 == 0) : acknowledge(i);
            else if (phase == IRunTypes.Phase.Acknowledge) acknowledge(i);
            claim(i);
        }
    }

    /// @dev Counted here, because the compiler takes block.number for constant within a call.
    function _roll(uint256 blocks) private {
        height += blocks;
        vm.roll(height);
    }

    function commit(uint256 who, bool lie) public watched {
        address miner = _who(who % 3);
        uint64 round = run.currentRound();
        bytes32 seed = lens.getRound(address(run), round).seed;
        (bytes32 start,) = lens.getState(address(run), round);
        uint8 drawn = lens.unitsOf(address(run), miner);
        for (uint8 index = 0; index < drawn; ++index) {
            bytes32 unitId = lens.unitIdOf(address(run), round, miner, index);
            bool lies = lie && who % 5 < 2;
            (IRunTypes.Commitment memory said,) = this.openingOf(unitId, start, lies);
            vm.prank(miner);
            try run.commit(seed, index, said.root, said.contribution, said.cid) {
                commitmentOf[unitId] = bytes27(keccak256(abi.encode(said)));
                committedUnits.push(unitId);
                _posted[unitId] = Presented(round, miner, index, said);
                _lied[unitId] = lies;
            } catch {}
        }
    }

    /// @dev Whatever can be disputed is, now and then, and ends one way or the other, sometimes in the same block.
    function dispute(uint256 which, uint8 end) external watched {
        if (committedUnits.length == 0) return;
        // One of the newest: what is older can be disputed no more.
        uint256 back = which % 6;
        if (back >= committedUnits.length) return;
        bytes32 unitId = committedUnits[committedUnits.length - 1 - back];
        Presented memory posted = _posted[unitId];
        run.presentUnit(posted.round, posted.miner, posted.index, posted.commitment);
        IDisputable disputable = IDisputable(address(run));
        if (end % 4 == 0) try judge.begin(disputable, unitId) {} catch {}
        if (end % 4 == 1) judge.end(disputable, unitId);
        if (end % 4 == 2) _convict(disputable, unitId, end);
    }

    function _convict(IDisputable disputable, bytes32 unitId, uint8 end) private {
        try judge.begin(disputable, unitId) {} catch { return; }
        uint256 before = _deposits();
        (,, IRunLens.Void[] memory voids) = lens.finality(address(run));
        uint256 spans = voids.length;
        uint256 prize = judge.convict(disputable, unitId, uint8(end >> 2) % uint8(SEGMENTS));
        ++convictions;
        if (2 * prize > before - _deposits()) convictionPaid = true;
        (,, voids) = lens.finality(address(run));
        if (voids.length > spans) ++voidedRounds;
    }

    function _deposits() private view returns (uint256 deposits) {
        for (uint256 i = 0; i < accounts.length; ++i) deposits += lens.memberOf(address(run), accounts[i]).deposit;
    }

    function seal(uint256 who, bool dissent) public watched {
        address verifier = _who(who);
        uint64 round = run.currentRound();
        IRunLens.Assignment[] memory drawn = lens.assignmentsOf(address(run), round, verifier);
        bytes32[] memory units = new bytes32[](1);
        bytes32 drawSeed = lens.getRound(address(run), round).drawSeed;
        bytes32[] memory seals = new bytes32[](1);
        for (uint256 i = 0; i < drawn.length; ++i) {
            units[0] = drawn[i].unitId;
            IRunTypes.Answer[] memory answers = _answers(drawn[i], dissent && who % 7 == 0);
            seals[0] = keccak256(abi.encode(units[0], verifier, answers, bytes32("salt")));
            vm.prank(verifier);
            try run.seal(drawSeed, units, seals) {} catch {}
        }
    }

    function reveal(uint256 who) public watched {
        address verifier = _who(who);
        uint64 round = run.currentRound();
        IRunLens.Assignment[] memory drawn = lens.assignmentsOf(address(run), round, verifier);
        bytes32[] memory units = new bytes32[](1);
        bytes32[] memory salts = new bytes32[](1);
        IRunTypes.Answer[][] memory answers = new IRunTypes.Answer[][](1);
        salts[0] = "salt";
        for (uint256 i = 0; i < drawn.length; ++i) {
            units[0] = drawn[i].unitId;
            // What was sealed, whichever of the two it was.
            for (uint256 dissent = 0; dissent < 2; ++dissent) {
                answers[0] = _answers(drawn[i], dissent == 1);
                vm.prank(verifier);
                try run.reveal(round, units, answers, salts) {} catch {}
            }
        }
    }

    function open(uint256 who) public watched {
        address miner = _who(who % 3);
        IRunLens.UnitName[] memory units = lens.getUnitNames(address(run));
        for (uint256 i = 0; i < units.length; ++i) {
            if (units[i].miner == miner) _open(miner, units[i].unitId, units[i].index);
        }
    }

    function _open(address miner, bytes32 unitId, uint8 index) private {
        uint64 round = run.currentRound();
        (bytes32 start,) = lens.getState(address(run), round);
        (IRunTypes.Commitment memory said, IRunTypes.Opened[] memory opened) =
            this.openingOf(unitId, start, _lied[unitId]);
        vm.prank(miner);
        try run.open(round, index, said, opened, new bytes32[](0)) {} catch {}
    }

    /// @dev What a miner says of a unit, and all its leaves: with every leaf the tree needs no other word. External, so that its
    /// variables have a stack of their own.
    function openingOf(bytes32 unitId, bytes32 start, bool lied)
        external
        pure
        returns (IRunTypes.Commitment memory said, IRunTypes.Opened[] memory opened)
    {
        bytes32 root = Trees.rootOf(Trees.leavesOf(unitId, start, SEGMENTS, lied));
        opened = new IRunTypes.Opened[](SEGMENTS);
        for (uint256 j = 0; j < SEGMENTS; ++j) {
            opened[j] = IRunTypes.Opened(uint8(j), Trees.answerOf(unitId, j, lied), Trees.saltOf(unitId, j));
        }
        said = IRunTypes.Commitment(root, opened[SEGMENTS - 1].answer.endRoot, Cid(0x55, root));
    }

    function merge(uint256 who, bool other) public watched {
        uint64 round = run.currentRound();
        bytes32 drawSeed = lens.getRound(address(run), round).drawSeed;
        bytes32 root = keccak256(abi.encode("merged", round, other && who % 5 == 0));
        vm.prank(_who(who));
        // Some name a file that is not there: the same root may stand with either CID.
        try run.proposeMerge(drawSeed, root, Cid(who % 3 == 0 ? 0x70 : 0x55, root)) {} catch {}
    }

    function acknowledge(uint256 who) public watched {
        uint64 round = run.currentRound();
        IRunLens.CandidateView[] memory stand = lens.candidates(address(run), round);
        if (stand.length == 0) return;
        bytes32 drawSeed = lens.getRound(address(run), round).drawSeed;
        uint8 number = uint8(who / 8 % stand.length);
        vm.prank(_who(who));
        try run.acknowledge(drawSeed, number, stand[number].stateRoot, stand[number].cid) {
            if (lens.getRound(address(run), round).merged) ++mergedRounds;
        } catch {}
    }

    /// @dev What another fork's transactions would do here: nothing, whoever sends them and whenever.
    function answerAnotherFork(uint256 who, bytes32 seed) public watched {
        address account = _who(who);
        uint64 round = run.currentRound();
        IRunLens.RoundView memory r = lens.getRound(address(run), round);
        if (seed == r.seed || seed == r.drawSeed) return;
        // A unit drawn for whoever it is, if there is one; and the first candidate.
        bytes32[] memory units = new bytes32[](1);
        IRunLens.Assignment[] memory drawn = lens.assignmentsOf(address(run), round, account);
        if (drawn.length != 0) units[0] = drawn[0].unitId;
        IRunLens.CandidateView[] memory stand = lens.candidates(address(run), round);
        Cid memory cid = stand.length == 0 ? Cid(0x55, seed) : stand[0].cid;
        bytes32 root = stand.length == 0 ? keccak256("root") : stand[0].stateRoot;
        _try(account, abi.encodeCall(run.commit, (seed, 0, root, root, cid)));
        _try(account, abi.encodeCall(run.seal, (seed, units, units)));
        _try(account, abi.encodeCall(run.proposeMerge, (seed, keccak256("other"), cid)));
        _try(account, abi.encodeCall(run.acknowledge, (seed, 0, root, cid)));
    }

    function _try(address account, bytes memory call_) private {
        vm.prank(account);
        (bool acted,) = address(run).call(call_);
        if (acted) actedForAnother = true;
    }

    function claim(uint256 who) public watched {
        address account = _who(who);
        IRunLens.Claimable[] memory found = lens.claimable(address(run), account, 0, type(uint64).max);
        uint64[] memory one = new uint64[](1);
        for (uint256 i = 0; i < found.length; ++i) {
            one[0] = found[i].round;
            vm.prank(account);
            try run.claim(one) {
                assertTrue("the lens said so", found[i].claimableNow);
            } catch {
                assertTrue("the lens said so", !found[i].claimableNow);
            }
        }
    }

    function _answers(IRunLens.Assignment memory drawn, bool dissent) private pure returns (IRunTypes.Answer[] memory answers) {
        answers = new IRunTypes.Answer[](drawn.segments.length);
        for (uint256 i = 0; i < answers.length; ++i) answers[i] = Trees.answerOf(drawn.unitId, drawn.segments[i], dissent);
    }
}

/// @dev After any sequence of what the players do.
contract RunInvariants is Test {
    Players private _players;
    IRun private _run;
    RunLens private _lens;

    function setUp() external {
        _players = new Players();
        _run = _players.run();
        _lens = _players.lens();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_players);
    }

    /// @dev The players are able to what the invariants are about.
    function test_PlayersGetARoundMergedAndPaid() external {
        for (uint256 i = 0; i < 8; ++i) _players.join(i, 2, 8 ether);
        for (uint256 i = 0; i < 12; ++i) {
            _players.everybody(i);
            _players.wait(4);
        }
        assertTrue("merged", _players.mergedRounds() != 0);
        assertTrue("paid", Token(_run.token()).totalSupply() != 0);
        assertTrue("burned", address(0xdEaD).balance != 0);
        assertTrue("disputed", _disputes() != 0);
    }

    function _disputes() private view returns (uint256 disputes) {
        for (uint256 i = 0; i < _players.unitsCount(); ++i) {
            IRunTypes.Status status = IRunState(address(_run)).units(_players.committedUnits(i)).status;
            if (status == IRunTypes.Status.Disputed) ++disputes;
        }
    }

    function invariant_TheBalanceIsTheDepositsAndWhatIsOwedToTheFire() external view {
        uint256 deposits = 0;
        for (uint256 i = 0; i < _players.accountsCount(); ++i) {
            deposits += _lens.memberOf(address(_run), _players.accounts(i)).deposit;
        }
        assertEq("solvent", address(_run).balance, deposits + _run.burnOwed());
    }

    function invariant_WhatIsLockedIsWhatEntriesHoldAndNeverMoreThanTheDeposit() external view {
        IRunState state = IRunState(address(_run));
        IRunTypes.Phase phase = _lens.current(address(_run)).phase;
        // Until the draw, what commits have locked is in no entry yet.
        bool isBefore = phase == IRunTypes.Phase.Train || phase == IRunTypes.Phase.Draw;
        IRunLens.UnitName[] memory units = _lens.getUnitNames(address(_run));
        for (uint256 i = 0; i < _players.accountsCount(); ++i) {
            address account = _players.accounts(i);
            Member memory member = state.members(account);
            assertAtMost("locked", member.locked, member.deposit);
            uint256 entries = 0;
            for (uint64 round = 0; round <= _run.currentRound(); ++round) {
                Entry memory entry = state.entries(round, account);
                entries += uint256(entry.bonds) + entry.held;
            }
            for (uint256 j = 0; isBefore && j < units.length; ++j) if (units[j].miner == account) entries += 1 ether;
            assertEq("entries", member.locked, entries);
        }
    }

    function invariant_NothingUnearnedIsMinted() external view {
        uint256 scheduled = 0;
        uint256 owed = 0;
        for (uint64 round = 0; round < _run.currentRound(); ++round) {
            uint8 committed = IRunState(address(_run)).rounds(round).played.committed;
            uint256 subsidy = uint256(1e24) >> (round / 2);
            if (committed < 2) subsidy = subsidy * committed / 2;
            uint256 earned = 0;
            for (uint256 i = 0; i < _players.accountsCount(); ++i) earned += _run.rewardOf(round, _players.accounts(i));
            assertAtMost("a round's subsidy", earned, subsidy);
            scheduled += subsidy;
            owed += earned;
        }
        assertAtMost("the schedule", Token(_run.token()).totalSupply() + owed, scheduled);
    }

    function invariant_PhasesNeverGoBack() external view {
        assertTrue("monotone", !_players.wentBack());
    }

    function invariant_WhatAnswersAnotherSeedDoesNothing() external view {
        assertTrue("refused", !_players.actedForAnother());
    }

    function invariant_AUnitHasOneAnswerOfEverybody() external view {
        for (uint256 i = 0; i < _players.unitsCount(); ++i) {
            bytes32 unitId = _players.committedUnits(i);
            Unit memory unit = IRunState(address(_run)).units(unitId);
            assertTrue("what was committed stays", unit.commitment == _players.commitmentOf(unitId));
            assertEq("revealed after sealed", unit.revealedMask & ~unit.sealedMask, 0);
            assertEq("agreed after revealed", unit.agreedMask & ~unit.revealedMask, 0);
            if (unit.status == IRunTypes.Status.Attested) {
                assertTrue("somebody agreed and nobody dissented", unit.agreedMask != 0 && unit.agreedMask == unit.revealedMask);
            }
        }
    }

    /// @dev Behind void rounds, the state they began with; nothing is said about states within.
    function invariant_StatesFormAChain() external view {
        (,, IRunLens.Void[] memory voids) = _lens.finality(address(_run));
        for (uint64 round = 0; round < _run.currentRound(); ++round) {
            IRunLens.RoundView memory r = _lens.getRound(address(_run), round);
            (bytes32 next,) = _lens.getState(address(_run), round + 1);
            (bool isVoid, IRunLens.Void memory span) = _spanOf(voids, round);
            if (isVoid) {
                (bytes32 sound,) = _lens.getState(address(_run), span.from);
                if (round == span.to) assertTrue("resumed", next == sound);
                continue;
            }
            if (!r.merged) assertTrue("stays", next == r.stateRoot);
            else assertTrue("accepted", next == _lens.candidates(address(_run), round)[r.accepted].stateRoot);
            if (r.merged) assertTrue("of something", r.attested != 0);
        }
    }

    function _spanOf(IRunLens.Void[] memory voids, uint64 round)
        private
        pure
        returns (bool isVoid, IRunLens.Void memory span)
    {
        for (uint256 i = 0; i < voids.length; ++i) {
            if (voids[i].from <= round && round <= voids[i].to) return (true, voids[i]);
        }
    }

    function invariant_NothingIsFinalInsideADisputeOrTheWindow() external view {
        (uint64 settled,,) = _lens.finality(address(_run));
        for (uint64 round = 0; round < settled; ++round) {
            IRunLens.RoundView memory r = _lens.getRound(address(_run), round);
            assertTrue("over", r.phase == IRunTypes.Phase.Ended && _players.height() >= r.matureAt);
            assertEq("disputes", r.disputes, 0);
        }
    }

    function invariant_ConvictedUnitsEarnNothing() external view {
        uint256 attested = 0;
        for (uint256 i = 0; i < _players.unitsCount(); ++i) {
            IRunTypes.Status status = IRunState(address(_run)).units(_players.committedUnits(i)).status;
            if (status == IRunTypes.Status.Attested) ++attested;
        }
        uint256 paid = 0;
        for (uint64 round = 0; round <= _run.currentRound(); ++round) {
            for (uint256 i = 0; i < _players.accountsCount(); ++i) {
                paid += IRunState(address(_run)).entries(round, _players.accounts(i)).attestedUnits;
            }
        }
        assertEq("attested units", paid, attested);
    }

    function invariant_ConvictingOneselfLoses() external view {
        assertTrue("at least half is gone", !_players.convictionPaid());
    }
}
