// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Sums} from "../contracts/referee/Types.sol";

/// @notice Who has to do what next. Behind each stage of nodes to be opened stands that of the choice among them.
enum Stage {
    None,
    Segment, // accused: openSegment
    Step, // challenger: chooseStep
    Trace, // accused: postTrace
    Contest, // challenger: chooseNode, contestState or contestEvidence
    TraceNodes, // accused: openNodes
    TraceChoice, // challenger: chooseNode
    Value, // accused: openValue
    TensorNodes, // accused: openNodes
    TensorChoice, // challenger: chooseNode
    Leaf, // accused: openLeaf
    Element, // challenger: judge, judgeBatch, judgeOrder or askSums
    StateNodes, // accused: openNodes
    StateChoice, // challenger: chooseNode
    StateLeaf, // accused: openStateLeaf
    Omission, // challenger: proveOmission
    Evidence, // accused: openEvidence
    Closed,
    Sums, // accused: postSums
    SumChoice, // challenger: chooseSum, judgeBlock or judgeWitness
    Parts // accused: postParts
}

/// @notice What ended a dispute.
enum Reason {
    None,
    Element, // an element was recomputed
    Silence, // a side's time ran out
    Bound, // the chosen value is bound: a constant, or an input as the state before has it
    Empty, // the chosen value has no elements
    State, // the end state holds every output in its place
    Omission, // the end state lacks an output
    Evidence // loss and gradient norm are the trace's
}

/// @notice A checkpoint leaf of a unit's commitment with its path.
struct Checkpoint {
    bytes32 stateRoot;
    bytes32 evidence;
    bytes32[] proof;
}

/// @notice An item of a Program with its path in the Program's tree.
struct Item {
    bytes data;
    bytes32[] proof;
}

/// @notice A tensor of a state: its place among the state's leaves, and the path.
struct StateLeaf {
    uint32 index;
    uint32 count;
    bytes32[] proof;
}

/// @notice An output of the Program, and its value in the trace.
/// @param index Of the output, from 0.
/// @param output Its item.
/// @param value The item of the value it names.
/// @param tensorRoot What the trace has for that value.
/// @param path Of the value in the tree over values.
struct OutputProof {
    uint32 index;
    Item output;
    bytes value;
    bytes32 tensorRoot;
    bytes32[] path;
}

/// @title One court for all runs: disputes about posted results, decided by recomputing one element
/// @notice A challenger accuses whoever posted a claim (docs/design/court.md). The accused opens what it posted, part by part; the
/// challenger says each time which part is wrong; at last one element of one operation is recomputed here, and one side loses.
/// Who is silent on its turn loses too. Nobody is privileged: no owner, no setter, no pause.
/// @dev Warning: every dispute ends within `longestDispute()` blocks if somebody calls `timeout` when time is out; a run must keep what is
/// disputed unfinished for as long as disputes are open, and accept accusations in a window of its own.
/// @dev Warning: only accuse in a run whose code is the shipped one: a run decides what a conviction pays, and could keep a dispute from
/// ever closing.
interface ICourt {
    // ---------------------------------------------------------------- accusing

    /// @notice Say that an accusation will come, without saying which: it cannot be copied from the waiting transactions.
    /// @param announcement keccak256(abi.encode(chain id, court, run, subject, segment, challenger, salt)).
    function announce(bytes32 announcement) external;

    /// @notice Accuse whoever posted `subject`, at least one block and at most 256 blocks after announcing it.
    /// @param segment Of a unit: the first one whose end, loss or gradient norm is not what it should be. 0 for a merge.
    /// @dev Send at least `bondFor`; what is above it is credited back at once. The bond comes back with a prize if the accused loses.
    function accuse(address run, bytes32 subject, uint8 segment, bytes32 salt) external payable returns (uint64 dispute);

    /// @notice The bond that an accusation needs in this block: ten times what the defence may cost at the present base fee, and at least a
    /// minimum; times one more than the disputes open against the accused in that run, so that many at once cost their square.
    function bondFor(address run, address accused) external view returns (uint256);

    // ---------------------------------------------------------------- moves of the accused

    /// @notice Open the segment: its two checkpoints, the evidence of the latter, and the state root after every step but the last.
    function openSegment(
        uint64 dispute,
        Checkpoint calldata start,
        bytes32 endRoot,
        bytes4 loss,
        bytes4 gradientNorm,
        bytes32 salt,
        bytes32[] calldata endProof,
        bytes32[] calldata innerRoots
    ) external;

    /// @notice Post the trace of the chosen step: the nodes below the root of the tree over its values.
    /// @param program Root of the Program, a leaf of the run's `programsRoot` at the place that the subject asks for.
    /// @param header The Program's first item.
    function postTrace(
        uint64 dispute,
        bytes32 program,
        bytes32[] calldata programProof,
        Item calldata header,
        bytes32[] calldata nodes
    ) external;

    /// @notice Open the chosen node of whichever tree is being opened.
    function openNodes(uint64 dispute, bytes32[] calldata nodes) external;

    /// @notice Open the chosen leaf of the trace: its item and tensor root. An input of the state is shown to stand in the state before, and
    /// a constant in its item: then the challenger chose wrongly and loses. Of anything else the nodes below the root of its bytes follow.
    /// @param stateProof For an input of the state; else empty.
    /// @param nodes For an operation or the batch; else empty.
    function openValue(
        uint64 dispute,
        Item calldata item,
        bytes32 tensorRoot,
        StateLeaf calldata stateProof,
        bytes32[] calldata nodes
    ) external;

    /// @notice Show the bytes of the chosen leaf of a tensor.
    function openLeaf(uint64 dispute, bytes calldata data) external;

    /// @notice Show the chosen leaf of the state after, which must be the trace's value for an output of the Program, and the leaf before it,
    /// whose name must sort before.
    /// @param tree Root of the tree over the trace's values.
    /// @param before Name and tensor root of the leaf before; empty and 0 for the first.
    function openStateLeaf(
        uint64 dispute,
        bytes32 tree,
        OutputProof calldata output,
        bytes calldata before,
        bytes32 beforeRoot,
        bytes32[] calldata beforeProof
    ) external;

    /// @notice Show that loss and gradient norm of the segment's last step are the trace's.
    function openEvidence(uint64 dispute, bytes32 tree, OutputProof calldata loss, OutputProof calldata gradientNorm) external;

    /// @notice Post partial sums of the element asked about, or name the term that decides it; with the proof that this gives the element
    /// as it stands in the trace.
    /// @param sums As many as the number of terms asks for (docs/design/disputes.md, "Long elements"); none where a term decides.
    /// @param proof ABI encoding of the evaluator's `Proof`.
    function postSums(uint64 dispute, Sums calldata sums, bytes calldata proof) external;

    /// @notice Post the chosen sum in parts, which add up to it.
    function postParts(uint64 dispute, int256[] calldata parts) external;

    // ---------------------------------------------------------------- moves of the challenger

    /// @notice Choose the first step whose end state is not what it should be; the last one where only the evidence is wrong.
    /// @param innerRoots As the accused posted them.
    function chooseStep(uint64 dispute, uint32 step, bytes32[] calldata innerRoots) external;

    /// @notice Choose the first of the nodes just opened that is not what it should be.
    /// @param place Among those nodes, from 0.
    /// @param proof From the node up to the one that was opened.
    function chooseNode(uint64 dispute, uint256 place, bytes32 node, bytes32[] calldata proof) external;

    /// @notice Every value of the trace is right, and yet the state after is not: have it opened.
    function contestState(uint64 dispute) external;

    /// @notice Every value of the trace is right, and yet loss or gradient norm is not. Only at the segment's last step.
    function contestEvidence(uint64 dispute) external;

    /// @notice Have one element of the chosen operation recomputed. Ends the dispute, one way or the other.
    /// @param element Row-major; any of the operation.
    /// @param proof ABI encoding of the evaluator's `Proof` (contracts/referee/Types.sol).
    function judge(uint64 dispute, uint64 element, bytes calldata proof) external;

    /// @notice Have an element that is a position (ARGMAX, ARGMIN, TOPK, SORT) compared with terms or places that contradict it. Ends the
    /// dispute, one way or the other.
    /// @param positions As `ITermsEvaluator.judgeOrder` takes them.
    function judgeOrder(uint64 dispute, uint64 element, uint64[2] calldata positions, bytes calldata proof) external;

    /// @notice The element has too many terms to be recomputed at once: have its partial sums posted, or the term that decides it named.
    /// @param proof Of the operation and its operands, opening no leaf.
    function askSums(uint64 dispute, uint64 element, bytes calldata proof) external;

    /// @notice One of the sums posted last is wrong, and covers more terms than are judged at once: have it posted in parts.
    /// @param place Among them, from 0. `proof`: from it up to the root over them.
    function chooseSum(uint64 dispute, uint64 place, int256 sum, bytes32[] calldata proof) external;

    /// @notice Have the terms under one of the sums posted last, at most a block, added up. Ends the dispute, one way or the other.
    function judgeBlock(uint64 dispute, uint64 place, int256 sum, bytes32[] calldata sumProof, bytes calldata proof) external;

    /// @notice Point at a term larger than the posted exponent, or before the one that was named. Ends the dispute, one way or the other.
    /// @param positions Of a float sum two terms, or one twice; else (the term, 0).
    function judgeWitness(uint64 dispute, uint64[2] calldata positions, bytes calldata proof) external;

    /// @notice Have one token of the step's batch compared with the run's data. Ends the dispute, one way or the other.
    /// @param element Row-major, within the opened leaf.
    /// @param item The batch's item.
    /// @param leaf The opened leaf's bytes, as the accused showed them.
    /// @param shardTree Root of the tree over the shard's bytes.
    /// @param shardProof From the shard's tensor root to the data root.
    /// @param data Bytes of the shard's leaf that holds the token, and their path in the shard's tree.
    function judgeBatch(
        uint64 dispute,
        uint64 element,
        Item calldata item,
        bytes calldata leaf,
        bytes32 shardTree,
        bytes32[] calldata shardProof,
        bytes calldata data,
        bytes32[] calldata dataProof
    ) external;

    /// @notice Show an output of the Program whose name belongs between the two leaves just shown.
    /// @param before The name before, and `name` the chosen leaf's, as the accused showed them.
    function proveOmission(
        uint64 dispute,
        uint32 index,
        Item calldata output,
        bytes calldata before,
        bytes calldata name
    ) external;

    // ---------------------------------------------------------------- endings

    /// @notice End a dispute whose side to move has let its time run out. Anyone may call.
    function timeout(uint64 dispute) external;

    /// @notice End a dispute about a claim that another dispute convicted; the bond is credited back. Anyone may call.
    function close(uint64 dispute) external;

    /// @notice Send the caller what it is credited with.
    function collect() external returns (uint256 amount);

    /// @notice Send what was burned to 0x...dEaD. Anyone may call.
    function burn() external;

    // ---------------------------------------------------------------- views

    /// @notice Blocks after which every dispute has ended, whatever both sides do, if `timeout` is called where it may be.
    function longestDispute() external view returns (uint256 blocks_);

    /// @notice Stage, side to move and the last height at which it may.
    function turnOf(uint64 dispute) external view returns (Stage stage, address mover, uint256 until);

    function isConvicted(address run, bytes32 subject) external view returns (bool);

    /// @notice What an account can collect.
    function credit(address account) external view returns (uint256);

    /// @notice Wei that `burn` will send away.
    function burnOwed() external view returns (uint256);

    /// @notice Disputes so far; they are numbered from 1.
    function disputesCount() external view returns (uint64);
}
