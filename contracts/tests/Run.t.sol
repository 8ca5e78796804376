// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Token} from "../contracts/Token.sol";
import {IRun, IRunTypes} from "../interfaces/IRun.sol";
import {IRunLens} from "../interfaces/IRunLens.sol";
import {Candidate, Entry, Member, Round, Span, Unit} from "../contracts/run/Types.sol";
import {IRunState} from "../contracts/run/IRunState.sol";
import {MATURITY, SLOT_STAKE, UNIT_BOND} from "./Judge.sol";
import {Players} from "./Players.sol";
import {Test} from "./Test.sol";

/// @dev After any sequence of what the players do.
contract RunInvariants is Test {
    uint256 private constant GAMES = 48;
    uint256 private constant CALLS = 64;
    uint256 private constant ACTIONS = 8;

    Players private _players;
    IRun private _run;
    IRunState private _state;
    uint256 private _burnedBefore;
    mapping(bytes32 what => uint256) private _reached;

    function setUp() external {
        _begin();
    }

    function _begin() private {
        _players = new Players();
        _run = _players.run();
        _state = _players.state();
        _burnedBefore = address(0xdEaD).balance;
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_players);
    }

    function excludeSelectors() external view returns (FuzzSelector[] memory excluded) {
        excluded = new FuzzSelector[](1);
        excluded[0].addr = address(_players);
        excluded[0].selectors = new bytes4[](1);
        excluded[0].selectors[0] = Players.finish.selector;
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    /// @dev One function for all: Forge plays the whole campaign anew for each.
    function invariant_whatever_anybody_does() external view {
        _checkAll();
    }

    function afterInvariant() external {
        _players.finish();
        _checkAll();
    }

    function _checkAll() private view {
        bytes32 broken = _players.broken();
        assertTrue(string(abi.encodePacked(broken)), broken == 0);
        _checkMoney();
        _checkLocks();
        _checkRewards();
        _checkUnits();
        _checkStates();
        _checkFinality();
    }

    // ---------------------------------------------------------------- what must hold

    /// @dev In = out + held + burned; what was forced on the run is nobody's.
    function _checkMoney() private view {
        uint256 owed = _players.depositsOfAll() + _run.burnOwed();
        assertEq("balance", address(_run).balance, owed + _players.forced());
        uint256 gone = _players.paidOut() + _players.prizes() + address(0xdEaD).balance - _burnedBefore;
        assertEq("in = out + held + burned", _players.paidIn(), gone + owed);
    }

    /// @dev What is locked is what entries hold, and never more than the deposit.
    function _checkLocks() private view {
        uint64 current = _run.currentRound();
        Round memory r = _state.rounds(current);
        for (uint256 i = 0; i < _players.ACCOUNTS(); ++i) {
            address account = _players.accounts(i);
            Member memory member = _state.members(account);
            assertAtMost("locked", member.locked, member.deposit);
            uint256 entries = 0;
            for (uint64 round = 0; round <= current; ++round) {
                Entry memory entry = _state.entries(round, account);
                entries += uint256(entry.bonds) + entry.held;
                (uint256 dissents, uint256 attestations) = (0, 0);
                if (i > 2) (dissents, attestations) = _players.countOf(round, account);
                bool isJudged = round < current || uint8(r.played.phase) > uint8(IRunTypes.Phase.Open);
                // Less where one was not heard, for want of a stake.
                if (isJudged && !entry.claimed) assertAtMost("dissents", entry.dissents, dissents);
                if (i > 2) assertAtMost("a dissent without a stake", entry.dissents * SLOT_STAKE, entry.held);
                assertAtMost("attestations", entry.attestations, attestations);
            }
            // Until the draw, what commits have locked is in no entry yet.
            if (r.drawnAt == 0) entries += _committedBy(current, account) * UNIT_BOND;
            assertEq("entries", member.locked, entries);
        }
    }

    function _committedBy(uint64 round, address account) private view returns (uint256 committed) {
        IRunLens.UnitName[] memory names = _players.lens().getUnitNames(address(_run));
        for (uint256 i = 0; i < names.length; ++i) {
            bool isCommitted = _state.units(names[i].unitId).status == IRunTypes.Status.Committed;
            if (names[i].miner == account && isCommitted && round == _run.currentRound()) ++committed;
        }
    }

    /// @dev Nothing is minted that is not in the schedule. One reward a unit, and none for what is convicted.
    function _checkRewards() private view {
        uint256 scheduled = 0;
        uint256 owed = 0;
        for (uint64 round = 0; round < _run.currentRound(); ++round) {
            uint8 committed = _state.rounds(round).played.committed;
            uint256 subsidy = uint256(1e24) >> (round / 2);
            if (committed < 2) subsidy = subsidy * committed / 2;
            uint256 earned = 0;
            for (uint256 i = 0; i < _players.ACCOUNTS(); ++i) earned += _run.rewardOf(round, _players.accounts(i));
            assertAtMost("a round's subsidy", earned, subsidy);
            scheduled += subsidy;
            owed += earned;
        }
        assertAtMost("the schedule", Token(_run.token()).totalSupply() + owed, scheduled);
    }

    function _checkUnits() private view {
        uint256 attested = 0;
        for (uint256 i = 0; i < _players.unitsCount(); ++i) {
            bytes32 unitId = _players.units(i);
            Unit memory unit = _state.units(unitId);
            assertTrue("what was committed stays", unit.commitment == _players.commitmentOf(unitId));
            assertEq("revealed after sealed", unit.revealedMask & ~unit.sealedMask, 0);
            assertEq("agreed after revealed", unit.agreedMask & ~unit.revealedMask, 0);
            if (unit.status != IRunTypes.Status.Attested) continue;
            ++attested;
            assertTrue("somebody agreed", unit.agreedMask != 0);
        }
        uint256 paid = 0;
        for (uint64 round = 0; round <= _run.currentRound(); ++round) {
            for (uint256 i = 0; i < 3; ++i) paid += _state.entries(round, _players.accounts(i)).attestedUnits;
        }
        assertEq("attested units", paid, attested);
    }

    /// @dev States form a chain; behind void rounds comes the state they began with, and nothing stands on what was convicted.
    function _checkStates() private view {
        Span[] memory voids = _state.voids();
        for (uint64 round = 0; round < _run.currentRound(); ++round) {
            Round memory r = _state.rounds(round);
            bytes32 next = _state.rounds(round + 1).stateRoot;
            (bool isVoid, Span memory span) = _spanOf(voids, round);
            if (isVoid) {
                if (round == span.to) assertTrue("resumed", next == _state.rounds(span.from).stateRoot);
                assertTrue("void and final", round >= _state.settled() || !r.played.merged);
            } else if (!r.played.merged) {
                assertTrue("stays", next == r.stateRoot);
            } else {
                Candidate memory accepted = _state.candidates(round, r.played.accepted);
                assertTrue("accepted", next == accepted.stateRoot);
                assertTrue("of something", r.played.attested != 0);
                assertTrue("stands on a false merge", !accepted.isConvicted);
                assertTrue("stands on a false unit", !_hasFalseUnit(round));
            }
        }
    }

    function _hasFalseUnit(uint64 round) private view returns (bool) {
        for (uint256 i = 0; i < _state.rounds(round).played.committed; ++i) {
            bytes32 unitId = _players.unitsIn(round, i);
            if (_state.units(unitId).status == IRunTypes.Status.Convicted && _state.subjects(unitId).isMerged) return true;
        }
        return false;
    }

    function _spanOf(Span[] memory voids, uint64 round) private pure returns (bool isVoid, Span memory span) {
        for (uint256 i = 0; i < voids.length; ++i) {
            if (voids[i].from <= round && round <= voids[i].to) return (true, voids[i]);
        }
    }

    /// @dev Nothing is final inside a dispute or the window.
    function _checkFinality() private view {
        for (uint64 round = 0; round <= _run.currentRound(); ++round) {
            Round memory r = _state.rounds(round);
            assertEq("open disputes", r.disputes, _players.openIn(round));
            if (round >= _state.settled()) continue;
            assertTrue("over", r.played.phase == IRunTypes.Phase.Ended && _players.height() >= uint256(r.played.until) + MATURITY);
            assertEq("final inside a dispute", r.disputes, 0);
        }
    }

    // ---------------------------------------------------------------- that the above speaks of something

    /// @dev As Forge does: any of the actions, with anything. What the invariants are about comes about in some of these games.
    function test_players_reach_all_that_the_invariants_are_about() external {
        for (uint256 game = 0; game < GAMES; ++game) {
            _begin();
            for (uint256 i = 0; i < CALLS; ++i) _act(uint256(keccak256(abi.encode(game, i))));
            _checkAll();
            bytes32[] memory all = _names();
            for (uint256 i = 0; i < all.length; ++i) _reached[all[i]] += _players.reached(all[i]);
            for (uint256 i = 0; i < 16; ++i) _reached[_voidIn(i)] += _players.reached(_voidIn(i));
            _players.finish();
            _checkAll();
        }
        bytes32[] memory names = _names();
        for (uint256 i = 0; i < names.length; ++i) log(string(abi.encodePacked(names[i])), _reached[names[i]]);
        for (uint256 i = 0; i < 16; ++i) log("void in phase (8 more: after a redraw)", _reached[_voidIn(i)]);
        for (uint256 i = 0; i < names.length; ++i) {
            assertTrue(string(abi.encodePacked("never reached: ", names[i])), _reached[names[i]] != 0);
        }
        // Given up in every phase there is, and in the second draw and seal.
        for (uint256 phase = 1; phase < 8; ++phase) {
            assertTrue(string(abi.encodePacked("never void in phase ", bytes1(uint8(48 + phase)))), _voids(phase) != 0);
        }
        assertTrue("never void after a redraw", _reached[_voidIn(8 + uint8(IRunTypes.Phase.Seal))] != 0);
    }

    function _voids(uint256 phase) private view returns (uint256) {
        return _reached[_voidIn(phase)] + _reached[_voidIn(8 + phase)];
    }

    function _voidIn(uint256 number) private pure returns (bytes32) {
        return keccak256(abi.encode("void", IRunTypes.Phase(number % 8), uint8(number / 8)));
    }

    function _act(uint256 seed) private {
        uint256 a = uint256(keccak256(abi.encode(seed, "a")));
        uint256 b = uint256(keccak256(abi.encode(seed, "b")));
        uint256 action = seed % ACTIONS;
        if (action == 0) _players.playPhases(a);
        else if (action == 1) _players.playPhase(a);
        else if (action == 2) _players.wait(a);
        else if (action == 3) _players.comeOrGo(a, b, uint8(a >> 8), uint96(b));
        else if (action == 4) _players.claim(a);
        else if (action == 5) _players.dispute(a, b);
        else if (action == 6) _players.decide(a, b);
        else _players.meddle(a, b);
    }

    function _names() private pure returns (bytes32[] memory names) {
        names = new bytes32[](24);
        (names[0], names[1], names[2], names[3]) = ("merged", "paid", "settled", "redrawn");
        (names[4], names[5], names[6]) = ("unit convicted", "candidate convicted", "dismissed");
        (names[7], names[8], names[9]) = ("one round void", "later rounds void", "inner void popped");
        (names[10], names[11], names[12]) = ("convicted in a void round", "vindicated", "dissent lost");
        (names[13], names[14], names[15]) = ("withheld", "disclosed", "extended");
        (names[16], names[17], names[18]) = ("withdrawn", "retired", "abandoned");
        (names[19], names[20], names[21]) = ("rejected", "disputed", "unverified");
        (names[22], names[23]) = ("more units than are merged", "ended late");
    }
}
