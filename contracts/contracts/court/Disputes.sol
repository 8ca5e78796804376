// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IDisputable} from "../../interfaces/IDisputable.sol";
import {ICourt, Reason, Stage} from "../../interfaces/ICourt.sol";
import {CourtErrorsLib} from "../libraries/CourtErrorsLib.sol";
import {CourtEventsLib} from "../libraries/CourtEventsLib.sol";
import {Reduction} from "./Reduction.sol";
import {Standing} from "./Standing.sol";

/// @dev Who disputes with whom, about what, and how much time and money each has left; `standing` is the game itself.
struct Dispute {
    address accused;
    uint40 since; // height of the last move
    uint24 accusedLeft; // blocks
    uint24 challengerLeft;
    Stage stage;
    // Second slot
    address challenger;
    uint96 bond;
    // Third: neighbours among the open disputes about the same segment, in order of accusation
    uint64 previous;
    uint64 next;
    uint96 defenceWei; // what the accused's moves cost it
    // Fourth
    uint96 attackWei; // what the challenger's moves cost it
    Standing standing;
    Reduction reduction;
}

/// @title Disputes: clocks, turns, endings and money
/// @dev Solvency: the balance is at least the bonds of open disputes, all credits and `burnOwed`. Ether that arrives otherwise (by a
/// destroyed contract) is nobody's and changes nothing.
abstract contract Disputes is ICourt, ReentrancyGuardTransient {
    /// @dev Moves that a dispute may take: half of them each side's. Trees of 2^32 leaves are opened in four, sums of
    /// 2^40 terms, as many as a value has elements, posted in four at most.
    uint256 internal constant MAX_MOVES = 28;
    /// @dev Disputes at once for which the accused's clock is made longer.
    uint256 internal constant MAX_PARALLEL = 64;
    uint256 internal constant BOND_FACTOR = 10;
    /// @dev What a transaction costs besides the gas measured within: 21,000, and writing the measurement.
    uint256 private constant MOVE_OVERHEAD = 32_000;
    uint256 private constant CALLDATA_BYTE_GAS = 16;
    address internal constant BURN_ADDRESS = 0x000000000000000000000000000000000000dEaD;

    uint24 public immutable CLOCK_BLOCKS;
    uint24 public immutable GRACE_BLOCKS;
    uint96 public immutable MINIMUM_BOND;
    /// @dev Gas that a whole defence may take.
    uint64 public immutable DEFENCE_GAS;

    /// @inheritdoc ICourt
    uint64 public disputesCount;
    mapping(uint64 id => Dispute) internal disputes;
    mapping(bytes32 announcement => uint256 height) internal announcedAt;
    /// @dev Open disputes against an account in a run, by keccak256(run, account).
    mapping(bytes32 key => uint256) internal openAgainst;
    /// @dev First and last open dispute about a segment, by keccak256(run, subject, segment).
    mapping(bytes32 key => uint64) internal _first;
    mapping(bytes32 key => uint64) internal _last;
    mapping(address run => mapping(bytes32 subject => bool)) public isConvicted;
    /// @inheritdoc ICourt
    mapping(address account => uint256) public credit;
    /// @inheritdoc ICourt
    uint256 public burnOwed;

    constructor(uint24 clockBlocks, uint24 graceBlocks, uint96 minimumBond, uint64 defenceGas) {
        _range("clockBlocks", clockBlocks, 1, 1 << 20);
        _range("graceBlocks", graceBlocks, 1, 1 << 16);
        _range("minimumBond", minimumBond, 1, 1 << 80);
        _range("defenceGas", defenceGas, 1, 1 << 32);
        CLOCK_BLOCKS = clockBlocks;
        GRACE_BLOCKS = graceBlocks;
        MINIMUM_BOND = minimumBond;
        DEFENCE_GAS = defenceGas;
    }

    /// @dev Ether comes from a run only, and only while it carries out a conviction.
    receive() external payable {
        if (!_reentrancyGuardEntered()) revert CourtErrorsLib.OnlyWhileConvicting(msg.sender);
    }

    /// @inheritdoc ICourt
    function longestDispute() public view returns (uint256) {
        return 2 * uint256(CLOCK_BLOCKS) + (MAX_MOVES + MAX_PARALLEL) * GRACE_BLOCKS;
    }

    /// @inheritdoc ICourt
    function turnOf(uint64 dispute) external view returns (Stage stage, address mover, uint256 until) {
        Dispute storage d = _find(dispute);
        stage = d.stage;
        if (stage != Stage.Closed) (mover, until) = _turn(d);
    }

    /// @inheritdoc ICourt
    function timeout(uint64 dispute) external nonReentrant {
        Dispute storage d = _find(dispute);
        _checkOpen(dispute, d);
        (, uint256 until) = _turn(d);
        if (block.number <= until) revert CourtErrorsLib.TimeRemains(dispute, block.number, until);
        if (_isAccusedsTurn(d.stage)) _convict(dispute, d, Reason.Silence, 0);
        else _dismiss(dispute, d, Reason.Silence);
    }

    /// @inheritdoc ICourt
    function close(uint64 dispute) external nonReentrant {
        Dispute storage d = _find(dispute);
        Stage stage = d.stage;
        if (stage == Stage.Closed) revert CourtErrorsLib.WrongStage(dispute, uint8(stage), uint8(Stage.None));
        if (!isConvicted[d.standing.run][d.standing.subject]) revert CourtErrorsLib.NotConvicted(d.standing.run, d.standing.subject);
        uint256 bond = d.bond;
        credit[d.challenger] += bond;
        _end(d);
        emit CourtEventsLib.Closed(dispute, bond);
        IDisputable(d.standing.run).disputeClosed(d.standing.subject);
    }

    /// @inheritdoc ICourt
    function collect() external nonReentrant returns (uint256 amount) {
        amount = credit[msg.sender];
        if (amount == 0) revert CourtErrorsLib.NothingToCollect(msg.sender);
        credit[msg.sender] = 0;
        emit CourtEventsLib.Collected(msg.sender, amount);
        (bool sent,) = msg.sender.call{value: amount}("");
        if (!sent) revert CourtErrorsLib.TransferFailed(msg.sender, amount);
    }

    /// @inheritdoc ICourt
    function burn() external nonReentrant {
        uint256 amount = burnOwed;
        burnOwed = 0;
        emit CourtEventsLib.Burned(amount);
        (bool sent,) = BURN_ADDRESS.call{value: amount}("");
        if (!sent) revert CourtErrorsLib.TransferFailed(BURN_ADDRESS, amount);
    }

    // ---------------------------------------------------------------- turns

    /// @dev The dispute, at this stage, with the sender to move and in time. `_moved` ends the move.
    function _toMove(uint64 dispute, Stage stage) internal view returns (Dispute storage d) {
        d = _find(dispute);
        if (d.stage != stage) revert CourtErrorsLib.WrongStage(dispute, uint8(d.stage), uint8(stage));
        _checkTurn(dispute, d);
    }

    function _checkTurn(uint64 dispute, Dispute storage d) internal view {
        _checkOpen(dispute, d);
        (address mover, uint256 until) = _turn(d);
        if (msg.sender != mover) revert CourtErrorsLib.NotYourTurn(dispute, msg.sender, mover);
        if (block.number > until) revert CourtErrorsLib.TimeIsOut(dispute, block.number, until);
    }

    /// @dev Stop the mover's clock, note what the move cost it, and start the other side's.
    /// @param gasBefore Gas left when the move began.
    function _moved(uint64 dispute, Dispute storage d, Stage next, uint256 gasBefore) internal {
        bool byAccused = _isAccusedsTurn(d.stage);
        _stopClock(d, byAccused);
        d.stage = next;
        _announceTurn(dispute, d);
        _noteCost(d, byAccused, gasBefore);
    }

    function _announceTurn(uint64 dispute, Dispute storage d) internal {
        (address mover, uint256 until) = _turn(d);
        emit CourtEventsLib.Turn(dispute, uint8(d.stage), mover, until);
    }

    function _stopClock(Dispute storage d, bool byAccused) private {
        uint256 used = block.number - d.since;
        uint256 left = byAccused ? d.accusedLeft : d.challengerLeft;
        uint24 remaining = uint24(left > used ? left - used : 0);
        if (byAccused) d.accusedLeft = remaining;
        else d.challengerLeft = remaining;
        d.since = uint40(block.number);
    }

    /// @dev At the base fee, not at what the sender chose to pay: a tip is no reason to take from the other's bond.
    function _noteCost(Dispute storage d, bool byAccused, uint256 gasBefore) internal {
        uint256 used = gasBefore - gasleft() + MOVE_OVERHEAD + CALLDATA_BYTE_GAS * msg.data.length;
        uint256 spent = used * block.basefee;
        if (byAccused) d.defenceWei = _atMost96(d.defenceWei + spent);
        else d.attackWei = _atMost96(d.attackWei + spent);
    }

    function _turn(Dispute storage d) private view returns (address mover, uint256 until) {
        bool accused = _isAccusedsTurn(d.stage);
        mover = accused ? d.accused : d.challenger;
        uint256 left = accused ? d.accusedLeft : d.challengerLeft;
        until = d.since + (left > GRACE_BLOCKS ? left : GRACE_BLOCKS);
    }

    function _isAccusedsTurn(Stage stage) internal pure returns (bool) {
        return stage == Stage.Segment || stage == Stage.Trace || stage == Stage.TraceNodes || stage == Stage.Value
            || stage == Stage.TensorNodes || stage == Stage.Leaf || stage == Stage.StateNodes || stage == Stage.StateLeaf
            || stage == Stage.Evidence || stage == Stage.Sums || stage == Stage.Parts;
    }

    function _find(uint64 dispute) internal view returns (Dispute storage d) {
        d = disputes[dispute];
        if (d.stage == Stage.None) revert CourtErrorsLib.UnknownDispute(dispute);
    }

    function _checkOpen(uint64 dispute, Dispute storage d) private view {
        Stage stage = d.stage;
        if (stage == Stage.Closed) revert CourtErrorsLib.WrongStage(dispute, uint8(stage), uint8(Stage.None));
        if (isConvicted[d.standing.run][d.standing.subject]) revert CourtErrorsLib.AlreadyConvicted(d.standing.run, d.standing.subject);
    }

    // ---------------------------------------------------------------- endings

    /// @dev The accused lost. The prize goes to the earliest accusation of this segment that is still open: who copies a challenger's moves
    /// in a dispute of its own, and plays them faster, wins nothing. Whoever did the work is repaid its gas out of it.
    function _convict(uint64 dispute, Dispute storage d, Reason reason, uint64 element) internal {
        address run = d.standing.run;
        bytes32 subject = d.standing.subject;
        address challenger = d.challenger;
        address finder = disputes[_first[_segmentKey(run, subject, d.standing.segment)]].challenger;
        uint256 repaid = d.attackWei;
        credit[challenger] += d.bond;
        isConvicted[run][subject] = true;
        _end(d);

        // The guard is held: until this returns nothing else can bring ether here or take it away.
        uint256 before = address(this).balance;
        // What arrives counts, not what is said; and what follows is credited under the guard, which every function that moves ether takes.
        // slither-disable-next-line unused-return,reentrancy-no-eth
        IDisputable(run).convict(subject, d.standing.segment);
        uint256 prize = address(this).balance - before;
        // At most half, whatever the work cost: else padding moves would take the prize from whoever found the lie.
        if (repaid > prize / 2) repaid = prize / 2;
        credit[challenger] += repaid;
        credit[finder] += prize - repaid;
        emit CourtEventsLib.Convicted(dispute, run, subject, d.standing.value, element, uint8(reason), prize, finder);
    }

    /// @dev The challenger lost: the accused is repaid its gas from the bond, the rest is burned.
    function _dismiss(uint64 dispute, Dispute storage d, Reason reason) internal {
        uint256 bond = d.bond;
        uint256 repaid = d.defenceWei;
        // At most half, whatever the defence cost: else a liar who accuses itself and pads its moves would lose next to nothing.
        if (repaid > bond / 2) repaid = bond / 2;
        credit[d.accused] += repaid;
        burnOwed += bond - repaid;
        _end(d);
        emit CourtEventsLib.Dismissed(dispute, uint8(reason), repaid, bond - repaid);
        IDisputable(d.standing.run).disputeClosed(d.standing.subject);
    }

    function _end(Dispute storage d) private {
        d.stage = Stage.Closed;
        --openAgainst[_accusedKey(d.standing.run, d.accused)];
        bytes32 key = _segmentKey(d.standing.run, d.standing.subject, d.standing.segment);
        uint64 previous = d.previous;
        uint64 next = d.next;
        if (previous == 0) _first[key] = next;
        else disputes[previous].next = next;
        if (next == 0) _last[key] = previous;
        else disputes[next].previous = previous;
    }

    function _accusedKey(address run, address accused) internal pure returns (bytes32) {
        return keccak256(abi.encode(run, accused));
    }

    function _segmentKey(address run, bytes32 subject, uint8 segment) internal pure returns (bytes32) {
        return keccak256(abi.encode(run, subject, segment));
    }

    function _atMost96(uint256 amount) private pure returns (uint96) {
        return amount > type(uint96).max ? type(uint96).max : uint96(amount);
    }

    function _range(string memory name, uint256 value, uint256 low, uint256 high) internal pure {
        if (value < low || value > high) revert CourtErrorsLib.ParameterOutOfRange(name, value, low, high);
    }
}
