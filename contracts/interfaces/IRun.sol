// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice A CIDv1 over SHA-256: version 1 and multihash 0x12 0x20 are implied.
/// @param codec 0x55 (raw) or 0x70 (dag-pb).
/// @param digest The 32 bytes of the multihash.
struct Cid {
    uint8 codec;
    bytes32 digest;
}

/// @notice Everything a run is deployed with; nothing of it can change. Amounts in wei, clocks in blocks.
struct Parameters {
    // Model
    bytes32 programsRoot; // Merkle root over the program roots: step, evaluate, sample, genesis, merge 1...maxMerge
    bytes32 dataRoot; // Merkle root over the shards' tensor roots
    uint32 shards; // leaves of that tree
    uint64 shardTokens; // of every shard
    bytes32 genesisRoot; // state root S_0
    Cid genesis; // where S_0 can be fetched; it can also be computed from the genesis program
    Cid manifest; // programs, shards, tokenizer and training configuration
    // Work
    uint8 segments; // n, per unit
    uint32 segmentSteps; // S; a unit is n S steps
    uint8 maxUnitsPerMiner;
    uint8 maxUnits; // per round; above, units are drawn by lot
    uint8 maxMerge; // units averaged at most
    // Seats
    uint8 minMiners; // with units; fewer, and no round opens
    uint8 maxMiners;
    uint8 minVerifiers; // with slots; fewer, and no round opens
    uint8 maxVerifiers;
    // Checking
    uint8 verifiersPerUnit; // V
    uint8 segmentsPerVerifier; // k
    uint16 replayBps; // of the units, ten-thousandths: replayed whole by their first verifier
    uint8 quorum; // q
    uint8 juryTarget; // J
    // Money
    uint96 unitBond;
    uint96 slotStake;
    uint96 unavailableFee; // at most unitBond
    uint96 sealFee; // at most slotStake
    uint96 mergeBond;
    // Clocks
    uint32 beaconDelay;
    uint32 trainBlocks;
    uint32 sealBlocks;
    uint32 openBlocks;
    uint32 mergeBlocks;
    uint32 acknowledgeBlocks;
    uint32 maturityBlocks;
    uint32 windowBlocks; // after a round in which its units and merges can be disputed
    uint32 exitBlocks;
    // Reward
    uint128 initialReward; // R0, in the token's smallest unit
    uint32 halvingRounds;
    uint16 workTarget; // committed units for a full reward
    uint16 verifierShareBps;
    uint16 mergeShareBps;
    // Randomness
    address beacon;
    // Judgement
    address court; // carries disputes out on this run; zero: there are none, and nobody is ever convicted
}

/// @title What the functions of a run speak of
interface IRunTypes {
    enum Role {
        None,
        Miner,
        Verifier
    }

    /// @notice Waiting: too few members to open the round. Ended: only past rounds.
    enum Phase {
        Waiting,
        Seed,
        Train,
        Draw,
        Seal,
        Open,
        Merge,
        Acknowledge,
        Ended
    }

    /// @notice What became of a unit. None: not committed. Opened: by its miner, not judged yet. Unavailable: most of the jury could not
    /// get its data. Disclosed: its evidence was shown before its time. Convicted: proved false. Abandoned: its round was given up.
    enum Status {
        None,
        Committed,
        Rejected,
        Disputed,
        Unverified,
        Attested,
        Opened,
        Unavailable,
        Disclosed,
        Convicted,
        Abandoned
    }

    /// @notice What a verifier says about one segment. `loss` and `gradientNorm` are binary32, their bytes in little-endian order.
    struct Answer {
        bytes32 endRoot;
        bytes4 loss;
        bytes4 gradientNorm;
    }

    /// @notice One checkpoint leaf, opened: leaf `segment + 1` of the unit's commitment.
    struct Opened {
        uint8 segment;
        Answer answer;
        bytes32 salt;
    }

    /// @notice What `commit` said about a unit. The contract keeps a hash of it; the words are in the event.
    struct Commitment {
        bytes32 root;
        bytes32 contribution;
        Cid cid;
    }
}

/// @title Seats and deposits
interface IRunMembers is IRunTypes {
    /// @notice Take or keep a miner's seat, asking for `units` units a round from the next round on, and add the sent wei to the deposit.
    /// @dev The whole deposit must cover `units` unit bonds. Bonds stay locked until the round is mature, so a miner that wants all its
    /// units every round deposits several rounds' bonds; with less it gets fewer units. Calling again changes units and endpoint,
    /// and takes back a `retire`. A miner that commits none of its units three rounds running loses its seat, not its deposit.
    function joinMiner(uint8 units, string calldata endpoint) external payable;

    /// @notice Take or keep a verifier's seat, from the next round on, and add the sent wei to the deposit; deposit / slotStake slots.
    function stake(string calldata endpoint) external payable;

    /// @notice Stop from the next round on. Duties of the current round remain.
    function retire() external;

    /// @notice Send the unlocked deposit to its owner, once out of the seat and past `exitAt`.
    function withdraw() external returns (uint256 amount);
}

/// @title Units of work, and what they earn
interface IRunWork is IRunTypes {
    /// @notice Commit one of the caller's drawn units, 0 <= index < units drawn for it. Locks `unitBond`.
    /// @param seed The current round's seed, which the unit's data followed from. After a re-org that changed it the work is worth
    /// nothing, and a commit to it must not cost a bond.
    /// @param root Root over segments + 2 leaves (docs/design/roots.md).
    /// @param contribution Root of what the merge averages: the unit's end state.
    /// @param cid Where the unit's states can be fetched.
    function commit(bytes32 seed, uint8 index, bytes32 root, bytes32 contribution, Cid calldata cid) external;

    /// @notice Post seals for units the caller was drawn for; seal = keccak256(abi.encode(unitId, verifier, answers, salt)).
    /// @param drawSeed The current round's draw seed, here as in the merge: an answer to another draw is refused.
    function seal(bytes32 drawSeed, bytes32[] calldata unitIds, bytes32[] calldata seals) external;

    /// @notice Open the caller's unit: leaf 0, the contribution leaf, the last segment and every drawn segment.
    /// @param commitment As it was committed.
    /// @param leaves Ascending by segment; must hold `segments - 1` and all drawn ones.
    /// @param proof Whatever else of the tree it takes to reach the root: level by level from the leaves up, ascending, the
    /// sibling of every node that is known when its sibling is not.
    function open(
        uint64 round,
        uint8 index,
        Commitment calldata commitment,
        Opened[] calldata leaves,
        bytes32[] calldata proof
    ) external;

    /// @notice Reveal what was sealed about units, in the order of each one's assigned segments.
    function reveal(uint64 round, bytes32[] calldata unitIds, Answer[][] calldata answers, bytes32[] calldata salts) external;

    /// @notice As a drawn juror, say of units of the current round that their data is not to be had. Once more than half of the jury has said it,
    /// the unit is left out and costs its miner `unavailableFee`. Verifiers drawn for it owe nothing. In Seal and Open.
    /// @dev A vote about what can be fetched, never about what is right: the bond beyond the fee stays the miner's.
    function reportUnavailable(bytes32 drawSeed, bytes32[] calldata unitIds) external;

    /// @notice Prove that the evidence of a unit of the current round is known to others than its miner before it is to be opened: in Train, Draw
    /// and Seal. The unit is left out; of its bond the caller gets half, as a deposit that `withdraw` pays out, and the rest is burned,
    /// never less than `unavailableFee`.
    /// @param leaf One leaf, with the salt that nobody else should know.
    /// @param proof Its siblings, from the leaf up.
    function disclose(
        uint64 round,
        address miner,
        uint8 index,
        Commitment calldata commitment,
        Opened calldata leaf,
        bytes32[] calldata proof
    ) external;

    /// @notice Move the end of the current phase by a quarter of its length, at most four times, while the base fee is above four times what it
    /// usually is (a mean over rounds) and above 1 gwei. Anyone may, in the last quarter of Train, Seal, Open, Merge or Acknowledge.
    function extend() external;

    /// @notice Mint the caller's rewards and unlock its bonds of these rounds, all of which must be settled.
    /// @dev Reverts if one of the rounds has nothing for the caller or is not settled; ask `claimable` first. What a conviction left the
    /// caller owing, because all it had was locked elsewhere, is burned out of the bonds that come free.
    function claim(uint64[] calldata rounds_) external returns (uint256 tokens, uint256 bonds);

    /// @notice Tokens an account earned in a round that has ended and has not claimed; 0 before the end.
    function rewardOf(uint64 round, address account) external view returns (uint256 reward);

    /// @notice The ERC-20 this run alone mints.
    function token() external view returns (address);

    /// @notice The lens this run was deployed with: it answers questions about any run.
    function lens() external view returns (address);

    /// @notice The other half of this run's code, which it runs on its own storage: seats, phases, merges. It was deployed for
    /// these parameters, before the run, and neither can change.
    function rules() external view returns (address);

    /// @notice Account whose code is a zero byte and the ABI encoding of `Parameters`.
    function parametersAt() external view returns (address);
}

/// @title What becomes final, and what is disputed
/// @notice A round is settled, for good, once every earlier one is, it has been over for `maturityBlocks`, and no dispute about its
/// units or candidates is open. Only then is anything of it paid or given back.
/// @dev A unit or candidate that a court finds false voids its round and every later one, if a state that others went on from rests on it:
/// then the run goes on from the state its round began with. Nobody else loses a bond for that.
interface IRunDisputes is IRunTypes {
    /// @notice A unit of a merge set as its miner committed it.
    struct MergedUnit {
        address miner;
        uint8 index;
        Commitment commitment;
    }

    /// @notice Put a unit before the court, as it was committed; `subject` is its unit id. Anyone may, before accusing: the run keeps
    /// a hash of commitments only. Presenting again changes nothing.
    function presentUnit(uint64 round, address miner, uint8 index, Commitment calldata commitment)
        external
        returns (bytes32 subject);

    /// @notice Put a merge candidate before the court, with the whole merge set of its round in unit id order: what it ought to average.
    /// @return subject keccak256(abi.encode(chain id, run, round, "merge", candidate)).
    function presentMerge(uint64 round, uint8 candidate, MergedUnit[] calldata units) external returns (bytes32 subject);

    /// @notice Settle rounds that are due, at most 16 at once. `claim` does so too, where one of its rounds is not.
    /// @return rounds How many are settled: all below that number.
    function settle() external returns (uint64 rounds);
}

/// @title What moves phases, and the merge
interface IRunRounds is IRunTypes {
    /// @notice Move every phase that is due, then send burned wei to 0x...dEaD. Anyone may call; doing nothing is not an error.
    /// @return moved Whether a phase moved.
    function advance() external returns (bool moved);

    /// @notice Propose the merged state of the current round's `mergeSet`. Locks `mergeBond`. One candidate a member.
    /// @dev A root may stand with several CIDs, the same pair only once: a CID nobody serves does not keep the true one out.
    /// @return candidate Its number, from 0.
    function proposeMerge(bytes32 drawSeed, bytes32 stateRoot, Cid calldata cid) external returns (uint8 candidate);

    /// @notice As a drawn juror, say once a round: "I hold this state and it is the merge of that set".
    /// @dev Root and CID must be those of that number: after a re-org it may be another candidate's. Acknowledge only a CID
    /// whose file you hold: the next round's start state is fetched by it.
    function acknowledge(bytes32 drawSeed, uint8 candidate, bytes32 stateRoot, Cid calldata cid) external;

    /// @notice The round that is played, or awaited.
    function currentRound() external view returns (uint64);

    /// @notice Wei burned and not yet sent away by `advance`.
    function burnOwed() external view returns (uint256);
}

/// @title One run: one model lineage, one token, and the rounds that train it
/// @notice Every registered miner and verifier plays rounds: seed, train, draw, seal, open, merge. Nobody is privileged: the only
/// rights are those a deposit or a draw gives. docs/design/round.md is the specification.
/// @dev Warning: every action first moves the phases that are due, so its gas depends on what is due. Estimate with a margin, or
/// call `advance` in a transaction of its own when `current().due` is true.
/// @dev Warning: heights count blocks of the chain the contract is on (`block.number`).
interface IRun is IRunMembers, IRunRounds, IRunWork, IRunDisputes {}
