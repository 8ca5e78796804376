// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind, IDisputable, Rules} from "../interfaces/IDisputable.sol";
import {Item, OutputProof, Reason, StateLeaf} from "../interfaces/ICourt.sol";
import {Reckoner} from "./court/Reckoner.sol";
import {Counts, Standing} from "./court/Standing.sol";
import {CourtErrorsLib} from "./libraries/CourtErrorsLib.sol";
import {ItemLib} from "./libraries/ItemLib.sol";
import {MerkleLib} from "./libraries/MerkleLib.sol";
import {TreeLib} from "./libraries/TreeLib.sol";
import {Philox} from "./referee/Philox.sol";

/// @title Reads what is shown to a court
/// @notice Every function is a move of `ICourt` and takes its calldata, with what stands in the dispute (`Standing`) appended; it reverts
/// unless what is shown fits. A contract of its own because a court with it would be larger than a contract may be.
/// @dev It has no state and trusts nobody: who calls it with a standing of its own making learns what would follow from that. Parts of
/// the appended words taken for arguments prove nothing, since everything shown is checked by its hash.
contract Clerk is Reckoner {
    /// @dev Inputs and outputs of a step that are the state; its other input is the batch.
    bytes private constant STATE = "0.";
    bytes private constant LOSS = "1.loss";
    bytes private constant GRADIENT_NORM = "1.grad_norm";
    /// @dev Place of the step, and of the merge of none, among a run's Programs.
    uint256 private constant STEP_PROGRAM = 0;
    uint256 private constant FIRST_MERGE = 3;
    uint256 private constant TOKEN_BYTES = 4;
    uint256 private constant SHARD_STREAM = 0;
    uint256 private constant OFFSET_STREAM = 1;

    /// @param terms Judges elements of many terms.
    constructor(address terms) Reckoner(terms) {}

    // ---------------------------------------------------------------- a trace

    /// @return counts Of the Program's items.
    /// @return trace Root of the trace.
    /// @return level Of the root of the tree over values.
    /// @return tree That root.
    function postTrace(
        uint64,
        bytes32 program,
        bytes32[] calldata programProof,
        Item calldata header,
        bytes32[] calldata nodes
    ) external view returns (Counts memory counts, bytes32 trace, uint8 level, bytes32 tree) {
        Standing memory s = _standing();
        Rules memory rules = IDisputable(s.run).claimRules();
        uint256 place = s.kind == ClaimKind.Unit ? STEP_PROGRAM : FIRST_MERGE + s.step;
        bytes32 leaf = sha256(abi.encodePacked(bytes1(0x00), program));
        _checkLeaf(rules.programsRoot, leaf, place, rules.programs, programProof);
        counts = ItemLib.readHeader(header.data);
        _checkLeaf(program, ItemLib.leafHash(header.data), 0, ItemLib.itemsOf(counts), header.proof);
        uint256 values = ItemLib.valuesOf(counts);
        (level, tree) = _root(values, nodes);
        trace = ItemLib.traceRoot(program, values, tree);
    }

    /// @return refuted None where the value has bytes to open; else why the challenger's choice was wrong.
    /// @return size Bytes of the value.
    /// @return level Of the root of the tree over them.
    /// @return tree That root.
    function openValue(
        uint64,
        Item calldata item,
        bytes32 tensorRoot,
        StateLeaf calldata place,
        bytes32[] calldata nodes
    ) external view returns (Reason refuted, uint48 size, uint8 level, bytes32 tree) {
        Standing memory s = _standing();
        _checkItem(s, 1 + uint256(s.value), item);
        _checkHash(ItemLib.valueLeaf(item.data, tensorRoot), s.node);
        if (s.value < s.counts.inputs) {
            if (_isBound(s, item.data, tensorRoot, place)) return (Reason.Bound, 0, 0, 0);
        } else if (s.value < uint256(s.counts.inputs) + s.counts.constants) {
            _checkHash(tensorRoot, ItemLib.readConstantRoot(item.data));
            return (Reason.Bound, 0, 0, 0);
        }
        bytes calldata tensorType = ItemLib.readType(item.data);
        size = uint48(ItemLib.sizeOf(tensorType));
        uint256 leaves = ItemLib.leavesOf(size);
        (level, tree) = _root(leaves, nodes);
        _checkHash(ItemLib.tensorRoot(tensorType, leaves, tree), tensorRoot);
        // Nothing in it could be wrong.
        if (leaves == 0) refuted = Reason.Empty;
    }

    /// @dev Whether the input is a state's, and then shown to stand there; false for the batch.
    function _isBound(Standing memory s, bytes calldata item, bytes32 tensorRoot, StateLeaf calldata place)
        private
        view
        returns (bool)
    {
        bytes calldata name = ItemLib.readInputName(item);
        if (!_startsWith(name, STATE)) return false;
        name = name[STATE.length:];
        bytes32 state = s.startRoot;
        if (s.kind == ClaimKind.Merge) {
            bytes32[] memory contributions = IDisputable(s.run).mergeInputs(s.subject);
            _checkHash(keccak256(abi.encodePacked(contributions)), state);
            uint256 number = 0;
            uint256 digits = 0;
            for (; name[digits] != "."; ++digits) number = 10 * number + uint8(name[digits]) - 48;
            name = name[digits + 1:];
            state = contributions[number];
        }
        _checkLeaf(state, ItemLib.stateLeaf(name, tensorRoot), place.index, place.count, place.proof);
        return true;
    }

    // ---------------------------------------------------------------- the state after

    /// @dev The challenger chose the first leaf that differs from hers. A leaf that is no output's, or not with the trace's root, cannot be
    /// shown here; one that repeats or comes too early does not sort behind the one before; one that comes too late leaves a name out
    /// between the two, which `proveOmission` then shows.
    /// @return name Of the tensor in the state.
    function openStateLeaf(
        uint64,
        bytes32 tree,
        OutputProof calldata output,
        bytes calldata before,
        bytes32 beforeRoot,
        bytes32[] calldata beforeProof
    ) external pure returns (bytes memory name) {
        Standing memory s = _standing();
        bytes calldata shown = _stateName(s, _checkOutput(s, tree, output));
        _checkHash(ItemLib.stateLeaf(shown, output.tensorRoot), s.node);
        if (s.index == 0) {
            if (before.length != 0) revert CourtErrorsLib.WrongLength(before.length, 0);
        } else {
            uint256 leaves = ItemLib.stateLeaves(s.counts, s.kind == ClaimKind.Unit);
            _checkLeaf(s.endRoot, ItemLib.stateLeaf(before, beforeRoot), s.index - 1, leaves, beforeProof);
            if (!ItemLib.isBefore(before, shown)) revert CourtErrorsLib.NotAscending(before, shown);
        }
        name = shown;
    }

    function proveOmission(uint64, uint32 index, Item calldata output, bytes calldata before, bytes calldata name)
        external
        pure
    {
        Standing memory s = _standing();
        _checkHash(keccak256(abi.encode(before, name)), s.node);
        _checkItem(s, 1 + ItemLib.valuesOf(s.counts) + index, output);
        // Which value it names makes no difference: it is the name that is left out.
        // slither-disable-next-line unused-return
        (, bytes calldata omitted) = ItemLib.readOutput(output.data);
        omitted = _stateName(s, omitted);
        // Before the first leaf there is no name; every name sorts behind that.
        bool isBehind = s.index == 0 || ItemLib.isBefore(before, omitted);
        if (!isBehind || !ItemLib.isBefore(omitted, name)) revert CourtErrorsLib.NotBetween(omitted, before, name);
    }

    // ---------------------------------------------------------------- evidence

    function contestEvidence(uint64) external view {
        Standing memory s = _standing();
        Rules memory rules = IDisputable(s.run).claimRules();
        if (s.kind != ClaimKind.Unit || s.step + 1 != rules.segmentSteps) {
            revert CourtErrorsLib.NotTheLastStep(s.step, rules.segmentSteps);
        }
    }

    function openEvidence(uint64, bytes32 tree, OutputProof calldata loss, OutputProof calldata gradientNorm) external pure {
        Standing memory s = _standing();
        _checkMetric(s, tree, loss, LOSS, s.loss);
        _checkMetric(s, tree, gradientNorm, GRADIENT_NORM, s.gradientNorm);
    }

    function _checkMetric(Standing memory s, bytes32 tree, OutputProof calldata output, bytes memory expected, bytes4 bits)
        private
        pure
    {
        bytes calldata name = _checkOutput(s, tree, output);
        if (keccak256(name) != keccak256(expected)) revert CourtErrorsLib.WrongName(name, expected);
        _checkHash(output.tensorRoot, ItemLib.scalarRoot(bits));
    }

    // ---------------------------------------------------------------- the batch

    /// @return right Whether the token is the run's data's.
    function judgeBatch(
        uint64,
        uint64 element,
        Item calldata item,
        bytes calldata leaf,
        bytes32 shardTree,
        bytes32[] calldata shardProof,
        bytes calldata data,
        bytes32[] calldata dataProof
    ) external view returns (bool right) {
        Standing memory s = _standing();
        if (s.value >= s.counts.inputs) revert CourtErrorsLib.NotTheBatch(s.value);
        _checkItem(s, 1 + uint256(s.value), item);
        _checkHash(ItemLib.leafHash(leaf), s.node);
        // Tokens a leaf are a whole number; and the word is used again, for want of room on the stack.
        // slither-disable-next-line divide-before-multiply,write-after-write
        uint256 place = uint256(s.index) * (ItemLib.LEAF_BYTES / TOKEN_BYTES);
        uint256 end = place + leaf.length / TOKEN_BYTES;
        if (element < place || element >= end) revert CourtErrorsLib.ElementOutOfRange(element, place, end);
        place = (element - place) * TOKEN_BYTES;
        bytes4 claimed = bytes4(leaf[place:]);

        Rules memory rules = IDisputable(s.run).claimRules();
        (uint256 shard, uint256 token) = _placeOf(s, rules, element, item.data);
        uint256 leaves = ItemLib.leavesOf(rules.shardTokens * TOKEN_BYTES);
        bytes32 root = sha256(
            abi.encodePacked(
                // int32 of one dimension
                bytes3(0x020401),
                ItemLib.littleEndian64(rules.shardTokens),
                ItemLib.littleEndian64(leaves),
                shardTree
            )
        );
        _checkLeaf(rules.dataRoot, root, shard, rules.shards, shardProof);
        place = token * TOKEN_BYTES;
        _checkLeaf(shardTree, ItemLib.leafHash(data), place / ItemLib.LEAF_BYTES, leaves, dataProof);
        right = claimed == bytes4(data[place % ItemLib.LEAF_BYTES:]);
    }

    /// @dev Where an element of the batch comes from (protocol/sampling.py): shard, and token within it.
    function _placeOf(Standing memory s, Rules memory rules, uint256 element, bytes calldata item)
        private
        view
        returns (uint256 shard, uint256 token)
    {
        bytes32 seed = IDisputable(s.run).claimOf(s.subject).seed;
        bytes8 first = bytes8(sha256(abi.encodePacked(seed, "batch", s.subject)));
        uint256 key = uint64(ItemLib.littleEndian64(uint64(first)));
        uint256 step = uint256(s.segment) * rules.segmentSteps + s.step;
        uint256 length = ItemLib.dimensionOf(ItemLib.readType(item), 1);
        uint256 sequence = element / length;
        shard = Philox.word64(key, sequence, SHARD_STREAM, step) * rules.shards >> 64;
        uint256 offsets = rules.shardTokens - length + 1;
        token = (Philox.word64(key, sequence, OFFSET_STREAM, step) * offsets >> 64) + element % length;
    }

    // ---------------------------------------------------------------- parts

    /// @dev An output of the Program and what the trace has for its value. Returns the output's name.
    function _checkOutput(Standing memory s, bytes32 tree, OutputProof calldata output)
        private
        pure
        returns (bytes calldata name)
    {
        uint256 values = ItemLib.valuesOf(s.counts);
        _checkHash(ItemLib.traceRoot(s.program, values, tree), s.trace);
        _checkItem(s, 1 + values + output.index, output.output);
        uint256 value;
        (value, name) = ItemLib.readOutput(output.output.data);
        _checkLeaf(tree, ItemLib.valueLeaf(output.value, output.tensorRoot), value, values, output.path);
    }

    /// @dev What an output is called in the state.
    function _stateName(Standing memory s, bytes calldata name) private pure returns (bytes calldata) {
        if (s.kind == ClaimKind.Merge) return name;
        if (!_startsWith(name, STATE)) revert CourtErrorsLib.WrongName(name, STATE);
        return name[STATE.length:];
    }

    function _checkItem(Standing memory s, uint256 index, Item calldata item) private pure {
        _checkLeaf(s.program, ItemLib.leafHash(item.data), index, ItemLib.itemsOf(s.counts), item.proof);
    }

    /// @dev Level and hash of the root that these nodes are below, of a tree of so many leaves.
    function _root(uint256 leaves, bytes32[] calldata nodes) private view returns (uint8 level, bytes32 root) {
        level = uint8(TreeLib.height(leaves));
        // The root's level is known.
        // slither-disable-next-line unused-return
        (, uint256 children) = TreeLib.below(leaves, level, 0);
        if (nodes.length != children) revert CourtErrorsLib.WrongLength(nodes.length, children);
        root = TreeLib.rootOf(nodes);
    }

    function _startsWith(bytes calldata name, bytes memory prefix) private pure returns (bool) {
        return name.length >= prefix.length && keccak256(name[:prefix.length]) == keccak256(prefix);
    }

    function _checkLeaf(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof) private pure {
        if (!MerkleLib.isIn(root, leaf, index, count, proof)) revert CourtErrorsLib.NotInTree(index, leaf, root);
    }

    function _checkHash(bytes32 got, bytes32 expected) private pure {
        if (got != expected) revert CourtErrorsLib.HashMismatch(got, expected);
    }
}
