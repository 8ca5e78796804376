// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Run} from "../contracts/Run.sol";
import {RunRules} from "../contracts/RunRules.sol";
import {RunLens} from "../contracts/RunLens.sol";
import {ScriptedBeacon} from "../contracts/ScriptedBeacon.sol";
import {Cid, IRun, IRunTypes, Parameters} from "../interfaces/IRun.sol";
import {IRunLens} from "../interfaces/IRunLens.sol";
import {Round, Unit} from "../contracts/run/Types.sol";
import {IRunState} from "../contracts/run/IRunState.sol";
import {Judge, SEGMENTS, makeParameters} from "./Judge.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

/// @dev A run, three miners, four verifiers and one who is neither; what a node does in each phase, with the odd one asleep, lying,
/// dissenting or silent, as a seed says.
abstract contract Playing is Test {
    struct Posted {
        uint64 round;
        address miner;
        uint8 index;
        bool lied;
        IRunTypes.Commitment commitment;
    }

    IRun public immutable run;
    IRunState public immutable state;
    RunLens public immutable lens;
    Judge public immutable judge;
    uint256 public constant ACCOUNTS = 8;
    uint256 internal constant MINERS = 3;
    uint256 public height = 1;
    bytes32[] public units;
    mapping(uint256 round => bytes32[]) public unitsIn;
    mapping(bytes32 unitId => Posted) internal _posted;
    /// @dev What an account sealed about a unit: what a liar would say, or what is true.
    mapping(bytes32 unitId => mapping(address verifier => bool)) private _saidLie;
    /// @dev The last round in which an account answered for something.
    mapping(address account => uint256) public lastRound;
    mapping(address account => bool) public hasAnswered;
    /// @dev How often what the invariants speak of has come about.
    mapping(bytes32 what => uint256) public reached;

    constructor() {
        ScriptedBeacon beacon = new ScriptedBeacon("players");
        lens = new RunLens();
        judge = new Judge();
        Parameters memory p = makeParameters(address(beacon), address(judge));
        run = IRun(address(new Run(p, address(new RunRules(p)), address(lens), "Players", "PLAY")));
        state = IRunState(address(run));
        for (uint256 i = 0; i < ACCOUNTS; ++i) vm.deal(accounts(i), 1000 ether);
    }

    function accounts(uint256 number) public pure returns (address) {
        return address(uint160(0x1000 + number));
    }

    function unitsCount() external view returns (uint256) {
        return units.length;
    }

    function commitmentOf(bytes32 unitId) external view returns (bytes27) {
        return bytes27(keccak256(abi.encode(_posted[unitId].commitment)));
    }

    /// @dev Blocks pass, and what is due meanwhile comes about.
    function _rollTo(uint256 target) internal virtual;

    /// @dev What the phase asks of everybody, and on to the next one.
    function _playPhase(uint256 seed) internal {
        run.advance();
        uint64 number = run.currentRound();
        Round memory r = state.rounds(number);
        IRunTypes.Phase phase = r.played.phase;
        if (phase == IRunTypes.Phase.Train) _commitAll(number, r, seed);
        else if (phase == IRunTypes.Phase.Seal) _sealAll(number, r.drawSeed, seed);
        else if (phase == IRunTypes.Phase.Open) _openAll(number, r, seed);
        else if (phase == IRunTypes.Phase.Merge) _mergeAll(number, r.drawSeed, seed);
        else if (phase == IRunTypes.Phase.Acknowledge) _acknowledgeAll(number, r.drawSeed, seed, false);
        _passPhase();
        if (phase == IRunTypes.Phase.Seal && state.rounds(number).played.attempt > r.played.attempt) ++reached["redrawn"];
        if (phase == IRunTypes.Phase.Open && state.rounds(number).mergeLast != 0) ++reached["more units than are merged"];
    }

    function _passPhase() internal {
        Round memory r = state.rounds(run.currentRound());
        IRunTypes.Phase phase = r.played.phase;
        bool isAwaited = phase == IRunTypes.Phase.Seed || phase == IRunTypes.Phase.Draw;
        uint256 next = isAwaited ? r.played.until : uint256(r.played.until) + 1;
        _rollTo(next > height ? next : height + 1);
        run.advance();
    }

    function _chance(uint256 seed, uint256 number, bytes32 what) internal pure returns (uint256) {
        return uint256(keccak256(abi.encode(seed, number, what)));
    }

    function _commitAll(uint64 round, Round memory r, uint256 seed) private {
        for (uint256 i = 0; i < MINERS; ++i) {
            uint256 chance = _chance(seed, i, "commit");
            if (chance % 16 == 0) continue;
            uint8 drawn = lens.unitsOf(address(run), accounts(i));
            for (uint8 index = 0; index < drawn; ++index) {
                _commit(round, r, accounts(i), index, chance >> (8 + index) & 7 == 0);
            }
        }
    }

    function _commit(uint64 round, Round memory r, address miner, uint8 index, bool lie) private {
        bytes32 unitId = keccak256(abi.encode(block.chainid, address(run), round, miner, index));
        if (_posted[unitId].miner != address(0)) return;
        (IRunTypes.Commitment memory said,) = this.openingOf(unitId, r.stateRoot, lie);
        vm.prank(miner);
        try run.commit(r.seed, index, said.root, said.contribution, said.cid) {
            units.push(unitId);
            unitsIn[round].push(unitId);
            _posted[unitId] = Posted(round, miner, index, lie, said);
        } catch {}
    }

    /// @dev A few sleep, a few contradict, and most say what the miner said, true or not.
    function _sealAll(uint64 round, bytes32 drawSeed, uint256 seed) private {
        bytes32[] memory one = new bytes32[](1);
        bytes32[] memory seals = new bytes32[](1);
        for (uint256 i = 0; i < unitsIn[round].length; ++i) {
            bytes32 unitId = unitsIn[round][i];
            Unit memory unit = state.units(unitId);
            if (unit.status != IRunTypes.Status.Committed) continue;
            for (uint256 v = 0; unit.verifierIds >> 32 * v != 0; ++v) {
                uint256 chance = _chance(seed, i * 8 + v, "seal");
                if (unit.sealedMask >> v & 1 == 1 || chance % 10 == 0) continue;
                address verifier = state.accountOf(uint32(unit.verifierIds >> 32 * v));
                bool lie = _posted[unitId].lied != (chance % 10 == 1);
                IRunTypes.Answer[] memory answers = _answers(round, unitId, verifier, lie);
                (one[0], seals[0]) = (unitId, keccak256(abi.encode(unitId, verifier, answers, bytes32("salt"))));
                vm.prank(verifier);
                try run.seal(drawSeed, one, seals) {
                    _saidLie[unitId][verifier] = lie;
                    _answered(verifier, round);
                } catch {}
            }
        }
    }

    function _answered(address account, uint64 round) private {
        lastRound[account] = round;
        hasAnswered[account] = true;
    }

    function _answers(uint64 round, bytes32 unitId, address verifier, bool lie)
        private
        view
        returns (IRunTypes.Answer[] memory answers)
    {
        uint8[] memory drawn = lens.assignedSegments(address(run), round, unitId, verifier);
        answers = new IRunTypes.Answer[](drawn.length);
        for (uint256 i = 0; i < drawn.length; ++i) answers[i] = Trees.answerOf(unitId, drawn[i], lie);
    }

    function _openAll(uint64 round, Round memory r, uint256 seed) private {
        bool isMinerFirst = _chance(seed, 0, "order") & 1 == 0;
        if (isMinerFirst) _openUnits(round, r.stateRoot, seed);
        _revealAll(round, seed);
        if (!isMinerFirst) _openUnits(round, r.stateRoot, seed);
    }

    function _openUnits(uint64 round, bytes32 start, uint256 seed) private {
        for (uint256 i = 0; i < unitsIn[round].length; ++i) {
            bytes32 unitId = unitsIn[round][i];
            if (_chance(seed, i, "open") % 16 == 0) continue;
            Posted storage posted = _posted[unitId];
            (IRunTypes.Commitment memory said, IRunTypes.Opened[] memory opened) = this.openingOf(unitId, start, posted.lied);
            (address miner, uint8 index) = (posted.miner, posted.index);
            vm.prank(miner);
            try run.open(round, index, said, opened, new bytes32[](0)) {} catch {}
        }
    }

    function _revealAll(uint64 round, uint256 seed) private {
        bytes32[] memory one = new bytes32[](1);
        bytes32[] memory salts = new bytes32[](1);
        IRunTypes.Answer[][] memory answers = new IRunTypes.Answer[][](1);
        salts[0] = "salt";
        for (uint256 i = 0; i < unitsIn[round].length; ++i) {
            one[0] = unitsIn[round][i];
            Unit memory unit = state.units(one[0]);
            for (uint256 v = 0; unit.verifierIds >> 32 * v != 0; ++v) {
                bool isDue = unit.sealedMask >> v & 1 == 1 && unit.revealedMask >> v & 1 == 0;
                if (!isDue || _chance(seed, i * 8 + v, "reveal") % 16 == 0) continue;
                address verifier = state.accountOf(uint32(unit.verifierIds >> 32 * v));
                answers[0] = _answers(round, one[0], verifier, _saidLie[one[0]][verifier]);
                vm.prank(verifier);
                try run.reveal(round, one, answers, salts) {} catch {}
            }
        }
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

    /// @dev One candidate or two. Half of the jury is often undecided until the next phase.
    function _mergeAll(uint64 round, bytes32 drawSeed, uint256 seed) private {
        uint256 chance = _chance(seed, 0, "merge");
        for (uint256 i = 0; i < 1 + (chance >> 8) % 2; ++i) {
            bytes32 root = keccak256(abi.encode("merged", round, i));
            vm.prank(accounts((chance + i) % (ACCOUNTS - 1)));
            try run.proposeMerge(drawSeed, root, Cid(0x55, root)) {} catch {}
        }
        _acknowledgeAll(round, drawSeed, seed, true);
    }

    function _acknowledgeAll(uint64 round, bytes32 drawSeed, uint256 seed, bool isEarly) private {
        IRunLens.CandidateView[] memory stand = lens.candidates(address(run), round);
        if (stand.length == 0) return;
        address[] memory jury = lens.jury(address(run));
        for (uint256 i = 0; i < jury.length; ++i) {
            uint256 chance = _chance(seed, i, "acknowledge");
            if (isEarly && chance >> 8 & 1 == 0) continue;
            uint8 number = chance % 8 == 0 ? uint8(stand.length - 1) : 0;
            vm.prank(jury[i]);
            try run.acknowledge(drawSeed, number, stand[number].stateRoot, stand[number].cid) {
                _answered(jury[i], round);
                if (state.rounds(round).played.merged) ++reached["merged"];
            } catch {}
        }
    }
}
