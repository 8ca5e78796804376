// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputable, Rules} from "../../interfaces/IDisputable.sol";
import {ICourt, Item, OutputProof, Reason, Stage, StateLeaf} from "../../interfaces/ICourt.sol";
import {IEvaluator} from "../../interfaces/IEvaluator.sol";
import {CourtErrorsLib} from "../libraries/CourtErrorsLib.sol";
import {CourtEventsLib} from "../libraries/CourtEventsLib.sol";
import {ItemLib} from "../libraries/ItemLib.sol";
import {Claim} from "../referee/Types.sol";
import {Descents} from "./Descents.sol";
import {Dispute, Disputes} from "./Disputes.sol";
import {Counts, Standing} from "./Standing.sol";

/// @title Moves that show parts of a Program, and those that end a dispute
/// @dev What is shown is read by the clerk, a contract without state: it is asked with the move's own calldata, behind which what stands is
/// appended. It reverts for what does not fit, and its answer is what the move is worth.
abstract contract Verdicts is Descents {
    /// @notice Recomputes an element; it has no state, and nobody can change it.
    IEvaluator public immutable EVALUATOR;
    /// @notice Reads what is shown; likewise.
    address public immutable CLERK;

    constructor(address evaluator, address clerk) {
        _range("code size of evaluator", evaluator.code.length, 1, type(uint256).max);
        _range("code size of clerk", clerk.code.length, 1, type(uint256).max);
        EVALUATOR = IEvaluator(evaluator);
        CLERK = clerk;
    }

    // ---------------------------------------------------------------- the accused shows

    /// @inheritdoc ICourt
    function postTrace(uint64 dispute, bytes32 program, bytes32[] calldata, Item calldata, bytes32[] calldata nodes) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Trace);
        Standing storage s = d.standing;
        bytes32 trace;
        Counts memory counts;
        (counts, trace, s.level, s.node) = abi.decode(_consult(s), (Counts, bytes32, uint8, bytes32));
        s.counts = counts;
        s.program = program;
        s.trace = trace;
        s.index = 0;
        emit CourtEventsLib.TracePosted(dispute, program, trace, nodes);
        _moved(dispute, d, Stage.Contest, gasBefore);
    }

    /// @inheritdoc ICourt
    function openValue(uint64 dispute, Item calldata, bytes32 tensorRoot, StateLeaf calldata, bytes32[] calldata nodes)
        external
        nonReentrant
    {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Value);
        Standing storage s = d.standing;
        (Reason refuted, uint48 size, uint8 level, bytes32 node) =
            abi.decode(_consult(s), (Reason, uint48, uint8, bytes32));
        emit CourtEventsLib.ValueOpened(dispute, s.value, tensorRoot, nodes);
        if (refuted != Reason.None) return _refute(dispute, d, refuted, gasBefore);
        s.size = size;
        s.level = level;
        s.index = 0;
        s.node = node;
        _moved(dispute, d, Stage.TensorChoice, gasBefore);
    }

    /// @inheritdoc ICourt
    function openStateLeaf(
        uint64 dispute,
        bytes32,
        OutputProof calldata,
        bytes calldata before,
        bytes32,
        bytes32[] calldata
    ) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.StateLeaf);
        Standing storage s = d.standing;
        bytes memory name = abi.decode(_consult(s), (bytes));
        s.node = keccak256(abi.encode(before, name));
        emit CourtEventsLib.StateLeafOpened(dispute, s.index, before, name);
        _moved(dispute, d, Stage.Omission, gasBefore);
    }

    /// @inheritdoc ICourt
    function openEvidence(uint64 dispute, bytes32, OutputProof calldata, OutputProof calldata) external nonReentrant {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Evidence);
        _consult(d.standing);
        _refute(dispute, d, Reason.Evidence, gasBefore);
    }

    // ---------------------------------------------------------------- the challenger asks

    /// @inheritdoc ICourt
    function contestEvidence(uint64 dispute) external {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Contest);
        // Refused unless loss and gradient norm of this step are in a checkpoint.
        _consult(d.standing);
        emit CourtEventsLib.EvidenceContested(dispute);
        _moved(dispute, d, Stage.Evidence, gasBefore);
    }

    /// @inheritdoc ICourt
    function proveOmission(uint64 dispute, uint32, Item calldata, bytes calldata, bytes calldata) external nonReentrant {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Omission);
        _consult(d.standing);
        _noteCost(d, false, gasBefore);
        _convict(dispute, d, Reason.Omission, 0);
    }

    /// @inheritdoc ICourt
    function judge(uint64 dispute, uint64 element, bytes calldata proof) external nonReentrant {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Element);
        Standing storage s = d.standing;
        if (s.value < s.counts.inputs) revert CourtErrorsLib.NotAnOperation(s.value);
        Claim memory claim = Claim(s.program, s.trace, uint32(ItemLib.valuesOf(s.counts)), s.value, element);
        // The proof is the encoding of one argument: the word 32, then its body, which here follows six words.
        bytes memory question =
            abi.encodePacked(IEvaluator.judge.selector, abi.encode(claim), uint256(6 * 32), proof[32:]);
        _rule(dispute, d, _ask(address(EVALUATOR), question), element, gasBefore);
    }

    /// @inheritdoc ICourt
    function judgeBatch(
        uint64 dispute,
        uint64 element,
        Item calldata,
        bytes calldata,
        bytes32,
        bytes32[] calldata,
        bytes calldata,
        bytes32[] calldata
    ) external nonReentrant {
        uint256 gasBefore = gasleft();
        Dispute storage d = _toMove(dispute, Stage.Element);
        _rule(dispute, d, _consult(d.standing), element, gasBefore);
    }

    // ---------------------------------------------------------------- asking

    function _consult(Standing memory standing) internal view returns (bytes memory) {
        // What stands has a fixed length, and nothing is hashed: the clerk cuts it off the end again.
        // slither-disable-next-line encode-packed-collision
        return _ask(CLERK, abi.encodePacked(msg.data, abi.encode(standing)));
    }

    /// @dev What the contract asked reverts with is passed on, and says nothing about the claim.
    function _ask(address whom, bytes memory question) internal view returns (bytes memory answer) {
        bool answered;
        (answered, answer) = whom.staticcall(question);
        if (!answered) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    function _rule(uint64 dispute, Dispute storage d, bytes memory answer, uint64 element, uint256 gasBefore) internal {
        _noteCost(d, false, gasBefore);
        if (abi.decode(answer, (bool))) _dismiss(dispute, d, Reason.Element);
        else _convict(dispute, d, Reason.Element, element);
    }

    /// @dev The accused has answered for good: the challenger loses.
    function _refute(uint64 dispute, Dispute storage d, Reason reason, uint256 gasBefore) private {
        _noteCost(d, true, gasBefore);
        _dismiss(dispute, d, reason);
    }
}
