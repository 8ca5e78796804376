// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Cid, IRunTypes, Parameters} from "./IRun.sol";

/// @title What a node asks a run: everything on the path of a round without reading events
/// @notice One lens serves every run. It holds nothing and decides nothing: its answers are a run's public getters, put together. It
/// stands apart because one contract may have no more than 24 KiB of code. A run names the lens it was deployed with in `lens()`.
interface IRunLens {
    /// @notice Where the run stands.
    /// @param until Height that ends the phase: the last block in which its actions are accepted. In Seed and Draw, the height
    /// whose beacon value is awaited. In Waiting, 0.
    /// @param due Whether `advance` would move the run in the block this is asked in.
    struct Current {
        uint64 round;
        IRunTypes.Phase phase;
        uint64 until;
        bool due;
    }

    /// @notice One round. Counters stay after the round has ended.
    /// @param units Units that may be committed; `committed` of them were.
    /// @param assignments Pairs of a unit and a verifier; `seals` were sealed, `reveals` of those revealed.
    /// @param merged Whether a candidate was accepted: `accepted` is its number.
    /// @param endedAt Height the round ended at, 0 before. Bonds and rewards unlock at `matureAt`.
    /// @param seededAt Block of the seed, 0 before, and `drawnAt` of the draw: what the round's units are is said by the `Committed`
    /// events of the blocks between.
    /// @param judgedAt Height of the judgement, 0 before.
    /// @param disputes Open ones about its units and candidates: until they are closed, nothing of the round is final.
    struct RoundView {
        IRunTypes.Phase phase;
        bytes32 seed;
        bytes32 drawSeed;
        bytes32 stateRoot;
        Cid state;
        uint8 miners;
        uint8 verifiers;
        uint8 units;
        uint8 committed;
        uint8 opened;
        uint8 attested;
        uint16 assignments;
        uint16 seals;
        uint16 reveals;
        uint8 jurors;
        uint8 candidates;
        bool merged;
        uint8 accepted;
        uint64 judgedAt;
        uint64 endedAt;
        uint64 matureAt;
        uint64 seededAt;
        uint64 drawnAt;
        uint16 disputes;
    }

    /// @notice What became of a unit so far. Bit v of the masks speaks of `verifiers[v]`.
    /// @param opened Whether its miner opened it, or need not any more.
    /// @param commitment First 27 bytes of keccak256(abi.encode(Commitment)).
    struct UnitState {
        IRunTypes.Status status;
        bool opened;
        bytes27 commitment;
        address[] verifiers;
        uint8 sealedMask;
        uint8 revealedMask;
        uint8 agreedMask;
    }

    /// @notice A committed unit of the current round.
    struct UnitName {
        bytes32 unitId;
        address miner;
        uint8 index;
    }

    /// @notice One unit a verifier was drawn for. `segments` ascend; answers are given in that order.
    struct Assignment {
        bytes32 unitId;
        uint8[] segments;
        bool isSealed;
        bool isRevealed;
    }

    /// @notice A proposed result of the merge.
    struct CandidateView {
        address proposer;
        bytes32 stateRoot;
        Cid cid;
        uint8 acknowledgements;
        bool isConvicted;
    }

    /// @notice Rounds that rest on something a court found false: they earn nobody a miner's or a merge's reward.
    struct Void {
        uint64 from;
        uint64 to;
    }

    /// @notice A member or former member.
    /// @param units Units a miner asks for per round.
    /// @param deposit Wei owned by the member here; `locked` of them back units, merges and disputes.
    /// @param exitAt Height at which `withdraw` opens; 0 while seated.
    struct MemberView {
        address account;
        IRunTypes.Role role;
        bool leaving;
        uint8 units;
        uint64 joinedRound;
        uint96 deposit;
        uint96 locked;
        uint64 exitAt;
        string endpoint;
    }

    /// @notice A seated member and what was frozen for the current round: units drawn for a miner, slots of a verifier.
    struct Participant {
        address account;
        IRunTypes.Role role;
        bool leaving;
        uint16 frozen;
        string endpoint;
    }

    /// @notice What an account has in one round.
    /// @param tokens Reward, minted by `claim` once the round is settled; 0 once claimed.
    /// @param bonds Wei unlocked by `claim` likewise.
    /// @param held Wei that a dispute among its answers holds, unlocked likewise, but for a slot stake for each dissent that convicted nobody.
    /// @param matureAt Height the round can be settled at, 0 while it is played: later, while a dispute or an earlier round keeps it.
    /// @param claimableNow Whether `claim` would do something in this block.
    struct Claimable {
        uint64 round;
        uint256 tokens;
        uint96 bonds;
        uint96 held;
        uint64 matureAt;
        bool claimableNow;
    }

    /// @notice What the run was deployed with.
    function parameters(address run) external view returns (Parameters memory);

    function current(address run) external view returns (Current memory);

    function getRound(address run, uint64 round) external view returns (RoundView memory);

    /// @notice Root and CID of the state a round starts from; also of the next round's as soon as it is known.
    function getState(address run, uint64 round) external view returns (bytes32 stateRoot, Cid memory cid);

    /// @notice keccak256(abi.encode(chain id, contract, round, miner, index)).
    function unitIdOf(address run, uint64 round, address miner, uint8 index) external view returns (bytes32);

    /// @notice What became of units of any round, in the order asked for. Of one that was never committed, status None.
    function getUnitStates(address run, bytes32[] calldata unitIds) external view returns (UnitState[] memory);

    /// @notice Committed units of the current round, in the order of their commits.
    function getUnitNames(address run) external view returns (UnitName[] memory);

    function assignedVerifiers(address run, bytes32 unitId) external view returns (address[] memory);

    /// @notice Segments drawn for a verifier of a round's unit, ascending. Reverts if it was not drawn.
    function assignedSegments(address run, uint64 round, bytes32 unitId, address verifier) external view returns (uint8[] memory);

    /// @notice Everything `verifier` was drawn for in `round`, if that is the current one; nothing where it is not. Without units that were left
    /// out before they were judged.
    function assignmentsOf(address run, uint64 round, address verifier) external view returns (Assignment[] memory);

    /// @notice Units drawn for `miner` in the current round (indices 0 to that less 1); 0 before the seed.
    function unitsOf(address run, address miner) external view returns (uint8);

    /// @notice The current round's jury; empty before the draw.
    function jury(address run) external view returns (address[] memory);

    /// @notice Units of the current round of which a juror has said that their data is not to be had.
    function reportedBy(address run, address juror) external view returns (bytes32[] memory unitIds);

    /// @notice When and above which base fee, in wei per gas, `extend` is taken. `from` is 0 where the phase is not extended any more.
    /// @dev The base fee itself has to be asked of the chain: nodes tell views another one.
    function extension(address run) external view returns (uint64 from, uint256 above);

    /// @notice Number + 1 of the candidate a juror acknowledged in a round; 0 if none.
    function acknowledgedBy(address run, uint64 round, address juror) external view returns (uint8);

    function candidates(address run, uint64 round) external view returns (CandidateView[] memory);

    function memberOf(address run, address account) external view returns (MemberView memory);

    /// @notice All seats, miners first.
    function participants(address run) external view returns (Participant[] memory);

    /// @notice The account's entries of rounds `from` <= r < `to` that still hold something.
    /// @dev Every round asked for costs the node some 30,000 gas: ask for a few hundred at a time.
    function claimable(address run, address account, uint64 from, uint64 to) external view returns (Claimable[] memory);

    /// @notice What is final.
    /// @return settled Rounds settled so far: all below that number.
    /// @return settling As many as a claim in this block would find settled.
    /// @return voids Void rounds, ascending and apart.
    function finality(address run) external view returns (uint64 settled, uint64 settling, Void[] memory voids);

    /// @notice What a court calls a merge candidate.
    function subjectOf(address run, uint64 round, uint8 candidate) external view returns (bytes32);
}
