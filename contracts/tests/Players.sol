// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputable} from "../interfaces/IDisputable.sol";
import {Cid, IRunDisputes, IRunTypes} from "../interfaces/IRun.sol";
import {IRunLens} from "../interfaces/IRunLens.sol";
import {Live, Round, Span, Subject, Unit} from "../contracts/run/Types.sol";
import {LONGEST, MATURITY, MERGED, SEGMENTS, SLOT_STAKE, UNIT_BOND, WINDOW} from "./Judge.sol";
import {Playing} from "./Playing.sol";
import {Trees} from "./Trees.sol";

/// @dev Everything anybody may do to a run, well or badly, before a court that judges as it likes; and what must never come of it, kept in
/// books of their own. Each function may be called at any time, in any order.
contract Players is Playing {
    struct Open {
        bytes32 subject;
        uint64 round;
        uint256 since;
    }

    Open[] private _open;
    mapping(uint64 round => uint256) public openIn;
    /// @dev What must never be: named as it came about, or zero.
    bytes32 public broken;
    uint256 public paidIn;
    uint256 public paidOut;
    uint256 public prizes;
    uint256 public forced;
    /// @dev (round, attempt, phase) as one number: never smaller than before.
    uint256 private _progress;
    mapping(bytes32 unitId => IRunTypes.Status) private _statusOf;
    mapping(uint64 round => bytes32) private _seedOf;
    mapping(uint64 round => bytes32) private _drawSeedOf;

    constructor() {
        // Two verifiers have enough for whatever comes, two have not.
        uint64[7] memory amounts = [8 ether, 8 ether, 8 ether, 18 ether, 18 ether, 4.5 ether, 2.5 ether];
        for (uint256 i = 0; i < amounts.length; ++i) _join(i, 2, amounts[i]);
    }

    modifier watched() {
        _;
        _watch();
    }

    // ---------------------------------------------------------------- what may be done

    /// @dev A round, more or less.
    function playPhases(uint256 seed) external watched {
        for (uint256 i = 0; i < 1 + seed % 10; ++i) _playPhase(seed);
    }

    function playPhase(uint256 seed) external watched {
        _playPhase(seed);
    }

    function wait(uint256 blocks) external watched {
        _rollTo(height + bound(blocks, 1, 9));
        run.advance();
        uint64 settled = state.settled();
        if (run.settle() != settled) ++reached["settled"];
    }

    function comeOrGo(uint256 who, uint256 what, uint8 number, uint96 deposit) external watched {
        who %= ACCOUNTS - 1;
        if (what % 8 == 0) {
            vm.prank(accounts(who));
            try run.retire() { ++reached["retired"]; } catch {}
        } else if (what % 8 < 4) {
            for (uint256 i = 0; i < ACCOUNTS; ++i) _withdraw(accounts(i));
        } else {
            _join(who, uint8(bound(number, 1, 3)), bound(deposit, 0, 9 ether));
        }
    }

    function claim(uint256 who) external watched {
        _claim(accounts(who % ACCOUNTS));
    }

    /// @dev Before the court: one of the newest units that are judged, or a candidate of the last rounds.
    function dispute(uint256 which, uint256 kind) external watched {
        if (kind % 3 != 0) {
            for (uint256 back = which % 8; back < 12 && back < units.length; ++back) {
                bytes32 unitId = units[units.length - 1 - back];
                if (_isJudged(state.units(unitId).status)) return _disputeUnit(unitId);
            }
        } else {
            uint64 round = run.currentRound();
            for (uint64 back = uint64(which % 2); back < 3 && back <= round; ++back) {
                uint8 candidates = state.rounds(round - back).played.candidates;
                if (candidates != 0) return _disputeMerge(round - back, uint8((which >> 8) % candidates));
            }
        }
    }

    function _isJudged(IRunTypes.Status status) private pure returns (bool) {
        return status == IRunTypes.Status.Attested || status == IRunTypes.Status.Disputed || status == IRunTypes.Status.Unverified;
    }

    function decide(uint256 which, uint256 how) external watched {
        if (_open.length != 0) _end(which % _open.length, how % 4 != 0, uint8(how >> 8) % uint8(SEGMENTS));
    }

    /// @dev What is rare: reports, disclosures, spikes of the fee, ether that nobody asked for, other forks.
    function meddle(uint256 seed, uint256 what) external watched {
        if (what % 5 == 0) _report(seed);
        else if (what % 5 == 1) _disclose(seed);
        else if (what % 5 == 2) _extend(bound(seed, 0, 100 gwei));
        else if (what % 5 == 3) _force(bound(seed, 1, 1e9));
        else _answerAnotherFork(accounts(seed % ACCOUNTS), keccak256(abi.encode(seed)));
    }

    // ---------------------------------------------------------------- seats and money

    function _join(uint256 who, uint8 wanted, uint256 amount) private {
        address account = accounts(who);
        vm.prank(account);
        if (who < MINERS) try run.joinMiner{value: amount}(wanted, "miner") { paidIn += amount; } catch {}
        else try run.stake{value: amount}("verifier") { paidIn += amount; } catch {}
    }

    function _withdraw(address account) private {
        vm.prank(account);
        try run.withdraw() returns (uint256 amount) {
            paidOut += amount;
            ++reached["withdrawn"];
            if (!hasAnswered[account]) return;
            // Nothing can be said any more against anything it has said, unless somebody let a dispute lie.
            if (_isSlashable(uint64(lastRound[account]))) _break("stake left while slashable");
        } catch {}
    }

    function _claim(address account) private {
        IRunLens.Claimable[] memory found = lens.claimable(address(run), account, 0, type(uint64).max);
        uint64[] memory one = new uint64[](1);
        for (uint256 i = 0; i < found.length; ++i) {
            one[0] = found[i].round;
            bool hasDissented = state.entries(one[0], account).dissents != 0;
            Live memory played = state.rounds(one[0]).played;
            vm.prank(account);
            try run.claim(one) returns (uint256 tokens, uint256) {
                if (!found[i].claimableNow) _break("the lens did not say claimable");
                bool isOver = played.phase == IRunTypes.Phase.Ended && height >= uint256(played.until) + MATURITY;
                if (!isOver || openIn[one[0]] != 0) _break("claimed before it was final");
                if (tokens != 0) ++reached["paid"];
                if (hasDissented) ++reached["dissent lost"];
            } catch {
                if (found[i].claimableNow) _break("the lens said claimable");
                continue;
            }
            vm.prank(account);
            try run.claim(one) { _break("claimed twice"); } catch {}
        }
    }

    function _force(uint256 amount) private {
        // What a contract destroyed in its own creation, or a block's reward, leaves there: nobody can refuse it.
        vm.deal(address(run), address(run).balance + amount);
        forced += amount;
    }

    // ---------------------------------------------------------------- disputes

    function _disputeUnit(bytes32 unitId) private {
        Posted storage posted = _posted[unitId];
        try run.presentUnit(posted.round, posted.miner, posted.index, posted.commitment) {}
        catch { _break("a unit was not presented"); }
        _begin(unitId, posted.round);
    }

    function _disputeMerge(uint64 round, uint8 number) private {
        try run.presentMerge(round, number, _mergeSet(round)) returns (bytes32 subject) {
            _begin(subject, round);
        } catch {
            _break("a candidate was not presented");
        }
    }

    function _begin(bytes32 subject, uint64 round) private {
        bool isContestable = IDisputable(address(run)).claimOf(subject).contestable;
        try judge.begin(IDisputable(address(run)), subject) {
            if (!isContestable) _break("accused what is not contestable");
            _open.push(Open(subject, round, height));
            ++openIn[round];
        } catch {
            if (isContestable) _break("contestable, and not accused");
        }
    }

    /// @dev The units of the round that were attested at its judgement, by their ids, as many as are merged.
    function _mergeSet(uint64 round) private view returns (IRunDisputes.MergedUnit[] memory set) {
        bytes32[] memory ids = new bytes32[](unitsIn[round].length);
        uint256 count = 0;
        for (uint256 i = 0; i < ids.length; ++i) {
            bytes32 unitId = unitsIn[round][i];
            IRunTypes.Status status = state.units(unitId).status;
            bool isMerged = status == IRunTypes.Status.Attested;
            if (status == IRunTypes.Status.Convicted) isMerged = state.subjects(unitId).isMerged;
            if (!isMerged) continue;
            uint256 place = count++;
            for (; place != 0 && ids[place - 1] > unitId; --place) ids[place] = ids[place - 1];
            ids[place] = unitId;
        }
        set = new IRunDisputes.MergedUnit[](count < MERGED ? count : MERGED);
        for (uint256 i = 0; i < set.length; ++i) {
            Posted storage posted = _posted[ids[i]];
            set[i] = IRunDisputes.MergedUnit(posted.miner, posted.index, posted.commitment);
        }
    }

    function _end(uint256 which, bool isFalse, uint8 segment) private {
        Open memory ended = _open[which];
        for (uint256 i = which; i + 1 < _open.length; ++i) _open[i] = _open[i + 1];
        _open.pop();
        --openIn[ended.round];
        if (isFalse) return _convict(ended, segment);
        try judge.end(IDisputable(address(run)), ended.subject) { ++reached["dismissed"]; }
        catch { _break("a dismissal reverted"); }
    }

    function _convict(Open memory ended, uint8 segment) private {
        uint256 deposits = depositsOfAll();
        uint64 settled = state.settled();
        Span[] memory before = state.voids();
        Live memory live = state.rounds(run.currentRound()).played;
        Subject memory s = state.subjects(ended.subject);
        Unit memory unit = state.units(ended.subject);
        uint256 own = state.members(s.accused).deposit;
        try judge.convict(IDisputable(address(run)), ended.subject, segment) returns (uint256 prize) {
            prizes += prize;
            uint256 lost = deposits - depositsOfAll();
            // It may have lost on purpose, to hurt whoever agreed with it.
            if (lost != own - state.members(s.accused).deposit) _break("another paid for a conviction");
            // Whoever convicts itself gets back half of what it loses, at most.
            if (2 * prize > lost) _break("a conviction paid");
            if (s.isConvicted && lost != 0) _break("convicted twice");
            if (s.isConvicted) return;
            bool isUnit = unit.status != IRunTypes.Status.None;
            ++reached[isUnit ? bytes32("unit convicted") : bytes32("candidate convicted")];
            if (isUnit && unit.revealedMask != unit.agreedMask) ++reached["vindicated"];
            _noteVoid(before, ended.round, settled, live);
        } catch {
            _break("a conviction reverted");
        }
    }

    function _noteVoid(Span[] memory before, uint64 round, uint64 settled, Live memory live) private {
        Span[] memory spans = state.voids();
        if (spans.length == 0) return;
        Span memory last = spans[spans.length - 1];
        bool isSame = before.length != 0 && before[before.length - 1].to == last.to && before[before.length - 1].from == last.from;
        if (isSame) {
            if (last.from <= round && round <= last.to) ++reached["convicted in a void round"];
            return;
        }
        if (last.from != round) _break("another round is void");
        if (last.from < settled) _break("a final round is void");
        if (last.to != (live.phase == IRunTypes.Phase.Waiting ? live.round - 1 : live.round)) _break("void up to another round");
        for (uint256 i = 1; i < spans.length; ++i) if (spans[i - 1].to >= spans[i].from) _break("void rounds overlap");
        ++reached[last.from == last.to ? bytes32("one round void") : bytes32("later rounds void")];
        if (spans.length <= before.length) ++reached["inner void popped"];
        ++reached[keccak256(abi.encode("void", live.phase, live.attempt))];
    }

    // ---------------------------------------------------------------- what is rare

    /// @dev Most of the jury cannot get one of the round's units; now and then only one juror.
    function _report(uint256 seed) private {
        uint64 round = run.currentRound();
        if (unitsIn[round].length == 0) return;
        bytes32[] memory one = new bytes32[](1);
        one[0] = unitsIn[round][seed % unitsIn[round].length];
        bytes32 drawSeed = state.rounds(round).drawSeed;
        address[] memory jury = lens.jury(address(run));
        for (uint256 i = 0; i < jury.length && (seed >> 8 & 3 != 0 || i == 0); ++i) {
            vm.prank(jury[i]);
            try run.reportUnavailable(drawSeed, one) {} catch {}
        }
        if (state.units(one[0]).status == IRunTypes.Status.Unavailable) ++reached["withheld"];
    }

    function _disclose(uint256 seed) private {
        uint64 round = run.currentRound();
        if (unitsIn[round].length == 0) return;
        bytes32 unitId = unitsIn[round][seed % unitsIn[round].length];
        Posted storage posted = _posted[unitId];
        uint256 segment = (seed >> 8) % SEGMENTS;
        bytes32[] memory proof =
            Trees.proofOf(Trees.leavesOf(unitId, state.rounds(round).stateRoot, SEGMENTS, posted.lied), segment + 1);
        IRunTypes.Opened memory leaf = IRunTypes.Opened(
            uint8(segment), Trees.answerOf(unitId, segment, posted.lied), Trees.saltOf(unitId, segment)
        );
        (address miner, uint8 index, IRunTypes.Commitment memory said) = (posted.miner, posted.index, posted.commitment);
        vm.prank(accounts(ACCOUNTS - 1));
        try run.disclose(round, miner, index, said, leaf, proof) { ++reached["disclosed"]; } catch {}
    }

    /// @dev In the last block of the phase.
    function _extend(uint256 fee) private {
        uint256 until = state.rounds(run.currentRound()).played.until;
        if (until > height) _rollTo(until);
        vm.fee(fee);
        try run.extend() { ++reached["extended"]; } catch {}
        vm.fee(0);
    }

    /// @dev What another fork's transactions would do here: nothing, whoever sends them and whenever.
    function _answerAnotherFork(address account, bytes32 seed) private {
        uint64 round = run.currentRound();
        bytes32[] memory one = new bytes32[](1);
        if (unitsIn[round].length != 0) one[0] = unitsIn[round][0];
        IRunLens.CandidateView[] memory stand = lens.candidates(address(run), round);
        Cid memory cid = stand.length == 0 ? Cid(0x55, seed) : stand[0].cid;
        bytes32 root = stand.length == 0 ? keccak256("root") : stand[0].stateRoot;
        _try(account, abi.encodeCall(run.commit, (seed, 0, root, root, cid)));
        _try(account, abi.encodeCall(run.seal, (seed, one, one)));
        _try(account, abi.encodeCall(run.proposeMerge, (seed, keccak256("other"), cid)));
        _try(account, abi.encodeCall(run.acknowledge, (seed, 0, root, cid)));
        _try(account, abi.encodeCall(run.reportUnavailable, (seed, one)));
    }

    function _try(address account, bytes memory call_) private {
        vm.prank(account);
        (bool acted,) = address(run).call(call_);
        if (acted) _break("acted for another fork");
    }

    // ---------------------------------------------------------------- the books

    function depositsOfAll() public view returns (uint256 deposits) {
        for (uint256 i = 0; i < ACCOUNTS; ++i) deposits += state.members(accounts(i)).deposit;
    }

    function _break(bytes32 what) private {
        if (broken == 0) broken = what;
    }

    /// @dev Counted here, because the compiler takes block.number for constant within a call. No dispute lasts longer than a court's may,
    /// but for those that nobody ends though their time is out.
    function _rollTo(uint256 target) internal override {
        uint256 i = 0;
        while (i < _open.length) {
            uint256 chance = uint256(_open[i].subject);
            uint256 last = _open[i].since + LONGEST + (chance >> 16 & 3 == 0 ? MATURITY : 0);
            if (last >= target) {
                ++i;
                continue;
            }
            if (last > height) vm.roll(height = last);
            if (height > _open[i].since + LONGEST) ++reached["ended late"];
            // Whose time it was that ran out depends.
            _end(i, chance % 2 == 0, uint8(chance >> 8) % uint8(SEGMENTS));
        }
        vm.roll(height = target);
    }

    function _isSlashable(uint64 round) private view returns (bool) {
        Live memory played = state.rounds(round).played;
        if (played.phase != IRunTypes.Phase.Ended || height <= uint256(played.until) + WINDOW) return true;
        for (uint256 i = 0; i < _open.length; ++i) {
            if (_open[i].round == round && height <= _open[i].since + LONGEST) return true;
        }
        return false;
    }

    function _watch() private {
        uint64 round = run.currentRound();
        Round memory r = state.rounds(round);
        Live memory live = r.played;
        if (_seedOf[round] != 0 && r.seed != _seedOf[round]) _break("a seed changed");
        if (_drawSeedOf[round] != 0 && r.drawSeed != _drawSeedOf[round]) _break("a draw seed changed");
        (_seedOf[round], _drawSeedOf[round]) = (r.seed, r.drawSeed);
        // A missing seal takes a round back to its draw, once.
        uint256 now_ = uint256(round) << 16 | uint256(live.attempt) << 8 | uint8(live.phase);
        if (now_ < _progress) _break("went back");
        _progress = now_;
        for (uint64 back = 0; back < 3 && back <= round; ++back) {
            for (uint256 i = 0; i < unitsIn[round - back].length; ++i) _watchUnit(unitsIn[round - back][i]);
        }
    }

    /// @dev A unit only ever goes on; what is behind some of these states leads nowhere.
    function _watchUnit(bytes32 unitId) private {
        IRunTypes.Status from = _statusOf[unitId];
        IRunTypes.Status to = state.units(unitId).status;
        if (from == to) return;
        _statusOf[unitId] = to;
        if (to == IRunTypes.Status.Abandoned) ++reached["abandoned"];
        if (to == IRunTypes.Status.Rejected) ++reached["rejected"];
        if (to == IRunTypes.Status.Disputed) ++reached["disputed"];
        if (to == IRunTypes.Status.Unverified) ++reached["unverified"];
        bool isJudged = from == IRunTypes.Status.Disputed || from == IRunTypes.Status.Unverified
            || from == IRunTypes.Status.Attested;
        bool isPlayed = from == IRunTypes.Status.None || from == IRunTypes.Status.Committed || from == IRunTypes.Status.Opened;
        bool isAllowed = isJudged && to == IRunTypes.Status.Convicted;
        if (isPlayed) isAllowed = to != IRunTypes.Status.None;
        if (from == IRunTypes.Status.Opened) {
            isAllowed = to != IRunTypes.Status.None && to != IRunTypes.Status.Committed && to != IRunTypes.Status.Rejected
                && to != IRunTypes.Status.Disclosed;
        }
        if (!isAllowed) _break("a unit went back");
    }

    /// @dev Whatever has been done: disputes end, everybody leaves, and gets back all that is its own.
    function finish() external {
        while (_open.length != 0) _end(0, false, 0);
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            vm.prank(accounts(i));
            try run.retire() {} catch {}
        }
        for (uint256 i = 0; i < 12; ++i) _passPhase();
        _rollTo(height + 2 * MATURITY);
        // Sixteen at once.
        for (uint64 i = 0; i <= run.currentRound(); i += 16) run.settle();
        if (state.settled() != run.currentRound()) _break("a round is never final");
        for (uint256 i = 0; i < ACCOUNTS; ++i) {
            _claim(accounts(i));
            _withdraw(accounts(i));
            if (state.members(accounts(i)).deposit != 0) _break("a deposit stays for good");
        }
        run.advance();
        if (address(run).balance != forced) _break("ether stays for good");
    }

    /// @dev What a verifier is said to have contradicted and attested in a round, counted from its units.
    function countOf(uint64 round, address account) external view returns (uint256 dissents, uint256 attestations) {
        uint32 id = state.members(account).id;
        for (uint256 i = 0; i < unitsIn[round].length; ++i) {
            Unit memory unit = state.units(unitsIn[round][i]);
            for (uint256 v = 0; unit.verifierIds >> 32 * v != 0; ++v) {
                if (uint32(unit.verifierIds >> 32 * v) != id || unit.revealedMask >> v & 1 == 0) continue;
                if (unit.agreedMask >> v & 1 == 1) ++attestations;
                else if (unit.status == IRunTypes.Status.Disputed) ++dissents;
            }
        }
    }
}
