// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What a claim is about. Unit: a miner's committed work. Merge: a candidate for a round's next state.
enum ClaimKind {
    None,
    Unit,
    Merge
}

/// @notice A posted result as a court needs it.
/// @param kind None: there is no such claim.
/// @param contestable Whether it may be disputed now: its salts may be shown (a unit's opening is over), nothing of it is final, and
/// it was not convicted. An open dispute never makes it false; a conviction does.
/// @param accused Who posted it and answers for it.
/// @param round The round it belongs to.
/// @param root Unit: root over its segments + 2 leaves (docs/design/roots.md). Merge: the state root proposed.
/// @param seed The round's seed, from which a unit's data order follows.
struct PostedClaim {
    ClaimKind kind;
    bool contestable;
    address accused;
    uint64 round;
    bytes32 root;
    bytes32 seed;
}

/// @notice What every claim of a run is measured by; nothing of it can change.
/// @param programsRoot Tree over the hashed program roots: step 0, evaluate 1, sample 2, genesis 3, merge of n units at 3 + n.
/// @param programs Leaves of that tree: 4 + the most units a round merges.
/// @param dataRoot Tree over the shards' tensor roots, which stand in it as they are.
/// @param shards Leaves of that tree.
/// @param shardTokens Length of every shard, an int32 tensor.
/// @param segments Segments a unit.
/// @param segmentSteps Steps a segment, at most 1,024.
struct Rules {
    bytes32 programsRoot;
    uint32 programs;
    bytes32 dataRoot;
    uint32 shards;
    uint64 shardTokens;
    uint8 segments;
    uint32 segmentSteps;
}

/// @title What a run offers its court
/// @notice A subject names one claim within a run: a unit by its unit id, a merge candidate by
/// keccak256(abi.encode(chain id, run, round uint64, "merge", candidate uint8)).
/// @dev Warning: the three functions that change something are the court's alone; a run names its court at deployment and for good.
/// @dev Warning: a court believes a run about that run's own claims, and nothing else. Whoever accuses in a run that is not the shipped
/// code may lose the bond to it.
interface IDisputable {
    /// @notice The court whose judgements this run carries out.
    function court() external view returns (address);

    /// @notice What every claim of this run is measured by.
    function claimRules() external view returns (Rules memory);

    function claimOf(bytes32 subject) external view returns (PostedClaim memory);

    /// @notice The state roots that a merge candidate averages: contributions of its round's merge set, in unit id order. At most
    /// `claimRules().programs` - 4.
    function mergeInputs(bytes32 subject) external view returns (bytes32[] memory contributions);

    /// @notice A dispute about `subject` begins. Until as many were closed, nothing that rests on it becomes final: no reward is
    /// claimable, no bond of its poster is unlocked. Reverts unless the claim is contestable.
    function disputeOpened(bytes32 subject) external;

    /// @notice A dispute about `subject` ended, without a conviction or after one that another dispute brought.
    /// @dev Must never refuse: a refusal would keep a challenger's bond.
    function disputeClosed(bytes32 subject) external;

    /// @notice The claim is false: slash who posted it, void what rests on it, and send the court the prover's part. Counts as the closing of
    /// the dispute that brought it.
    /// @dev At most half of what is slashed is sent, the rest is burned: else convicting oneself would cost nothing. Sent with a plain call;
    /// the court takes ether from a run only inside this call, and believes what arrives, not what is returned.
    /// @param segment Of a unit, the one that was judged: who attested that very segment is not paid for it. 0 for a merge.
    /// @return prizeWei What was sent.
    function convict(bytes32 subject, uint8 segment) external returns (uint256 prizeWei);
}
