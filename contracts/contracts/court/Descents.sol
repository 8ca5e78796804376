// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind, IDisputable, Rules} from "../../interfaces/IDisputable.sol";
import {Checkpoint, ICourt, Stage} from "../../interfaces/ICourt.sol";
import {CourtErrorsLib} from "../libraries/CourtErrorsLib.sol";
import {CourtEventsLib} from "../libraries/CourtEventsLib.sol";
import {ItemLib} from "../libraries/ItemLib.sol";
import {MerkleLib} from "../libraries/MerkleLib.sol";
import {TreeLib} from "../libraries/TreeLib.sol";
import {Dispute, Disputes} from "./Disputes.sol";
import {Standing} from "./Standing.sol";

/// @title From a segment to a step, and from a tree's root down to a leaf
abstract contract Descents is Disputes {
    // ---------------------------------------------------------------- segment and step

    /// @inheritdoc ICourt
    function openSegment(
        uint64 dispute,
        Checkpoint calldata start,
        bytes32 endRoot,
        bytes4 loss,
        bytes4 gradientNorm,
        bytes32 salt,
        bytes32[] calldata endProof,
        bytes32[] calldata innerRoots
    ) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Segment);
        Standing storage s = d.standing;
        Rules memory rules = IDisputable(s.run).claimRules();
        _checkLength(innerRoots.length, rules.segmentSteps - 1);
        bytes32 root = IDisputable(s.run).claimOf(s.subject).root;
        uint256 leaves = uint256(rules.segments) + 2;
        _checkLeaf(root, MerkleLib.checkpointLeaf(start.stateRoot, start.evidence), s.segment, leaves, start.proof);
        bytes32 evidence = MerkleLib.evidenceOf(loss, gradientNorm, salt);
        _checkLeaf(root, MerkleLib.checkpointLeaf(endRoot, evidence), uint256(s.segment) + 1, leaves, endProof);

        s.startRoot = start.stateRoot;
        s.endRoot = endRoot;
        s.loss = loss;
        s.gradientNorm = gradientNorm;
        s.node = keccak256(abi.encodePacked(innerRoots));
        emit CourtEventsLib.SegmentOpened(dispute, start.stateRoot, endRoot, loss, gradientNorm, innerRoots);
        _moved(dispute, d, Stage.Step, gasBefore);
    }

    /// @inheritdoc ICourt
    function chooseStep(uint64 dispute, uint32 step, bytes32[] calldata innerRoots) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Step);
        Standing storage s = d.standing;
        _checkHash(keccak256(abi.encodePacked(innerRoots)), s.node);
        if (step > innerRoots.length) revert CourtErrorsLib.StepOutOfRange(step, innerRoots.length + 1);

        s.step = step;
        if (step != 0) s.startRoot = innerRoots[step - 1];
        if (step != innerRoots.length) s.endRoot = innerRoots[step];
        emit CourtEventsLib.StepChosen(dispute, step, s.startRoot, s.endRoot);
        _moved(dispute, d, Stage.Trace, gasBefore);
    }

    // ---------------------------------------------------------------- down a tree

    /// @inheritdoc ICourt
    function openNodes(uint64 dispute, bytes32[] calldata nodes) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _find(dispute);
        Stage stage = d.stage;
        if (stage != Stage.TraceNodes && stage != Stage.TensorNodes && stage != Stage.StateNodes) {
            revert CourtErrorsLib.WrongStage(dispute, uint8(stage), uint8(Stage.TensorNodes));
        }
        _checkTurn(dispute, d);
        Standing storage s = d.standing;
        // The level matters when one of them is chosen.
        // slither-disable-next-line unused-return
        (, uint256 children) = TreeLib.below(_leavesOf(s, stage), s.level, s.index);
        _checkLength(nodes.length, children);
        _checkHash(TreeLib.rootOf(nodes), s.node);

        emit CourtEventsLib.NodesOpened(dispute, nodes);
        // The choice among what was opened is the stage behind.
        _moved(dispute, d, Stage(uint8(stage) + 1), gasBefore);
    }

    /// @inheritdoc ICourt
    function chooseNode(uint64 dispute, uint256 place, bytes32 node, bytes32[] calldata proof) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _find(dispute);
        Stage stage = d.stage;
        if (
            stage != Stage.Contest && stage != Stage.TraceChoice && stage != Stage.TensorChoice && stage != Stage.StateChoice
        ) revert CourtErrorsLib.WrongStage(dispute, uint8(stage), uint8(Stage.TensorChoice));
        _checkTurn(dispute, d);
        Standing storage s = d.standing;
        uint256 level = s.level;
        (uint256 lower, uint256 children) = TreeLib.below(_leavesOf(s, stage), level, s.index);
        if (place >= children) revert CourtErrorsLib.NodeOutOfRange(place, children);
        _checkLeaf(s.node, node, place, children, proof);

        uint64 index = uint64((uint256(s.index) << (level - lower)) + place);
        s.level = uint8(lower);
        s.index = index;
        s.node = node;
        emit CourtEventsLib.NodeChosen(dispute, uint8(lower), index, node);
        Stage next;
        if (stage == Stage.TensorChoice) {
            next = lower == 0 ? Stage.Leaf : Stage.TensorNodes;
        } else if (stage == Stage.StateChoice) {
            next = lower == 0 ? Stage.StateLeaf : Stage.StateNodes;
        } else if (lower == 0) {
            next = Stage.Value;
            s.value = uint32(index);
        } else {
            next = Stage.TraceNodes;
        }
        _moved(dispute, d, next, gasBefore);
    }

    /// @inheritdoc ICourt
    function openLeaf(uint64 dispute, bytes calldata data) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Leaf);
        Standing storage s = d.standing;
        uint256 rest = s.size - uint256(s.index) * ItemLib.LEAF_BYTES;
        _checkLength(data.length, rest < ItemLib.LEAF_BYTES ? rest : ItemLib.LEAF_BYTES);
        _checkHash(ItemLib.leafHash(data), s.node);
        emit CourtEventsLib.LeafOpened(dispute, s.index, data);
        _moved(dispute, d, Stage.Element, gasBefore);
    }

    /// @inheritdoc ICourt
    function contestState(uint64 dispute) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Contest);
        Standing storage s = d.standing;
        s.level = uint8(TreeLib.height(ItemLib.stateLeaves(s.counts, s.kind == ClaimKind.Unit)));
        s.index = 0;
        s.node = s.endRoot;
        emit CourtEventsLib.StateContested(dispute);
        _moved(dispute, d, Stage.StateNodes, gasBefore);
    }

    /// @dev Leaves of the tree that is being opened.
    function _leavesOf(Standing storage s, Stage stage) private view returns (uint256) {
        if (stage == Stage.TensorNodes || stage == Stage.TensorChoice) return ItemLib.leavesOf(s.size);
        if (stage == Stage.StateNodes || stage == Stage.StateChoice) {
            return ItemLib.stateLeaves(s.counts, s.kind == ClaimKind.Unit);
        }
        return ItemLib.valuesOf(s.counts);
    }

    function _checkLeaf(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof) private pure {
        if (!MerkleLib.isIn(root, leaf, index, count, proof)) revert CourtErrorsLib.NotInTree(index, leaf, root);
    }

    function _checkLength(uint256 got, uint256 expected) private pure {
        if (got != expected) revert CourtErrorsLib.WrongLength(got, expected);
    }

    function _checkHash(bytes32 got, bytes32 expected) private pure {
        if (got != expected) revert CourtErrorsLib.HashMismatch(got, expected);
    }
}
