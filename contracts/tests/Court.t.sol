// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clerk} from "../contracts/Clerk.sol";
import {Court} from "../contracts/Court.sol";
import {Evaluator} from "../contracts/Evaluator.sol";
import {FunctionEvaluator} from "../contracts/FunctionEvaluator.sol";
import {TermsEvaluator} from "../contracts/TermsEvaluator.sol";
import {ItemLib} from "../contracts/libraries/ItemLib.sol";
import {MerkleLib} from "../contracts/libraries/MerkleLib.sol";
import {TreeLib} from "../contracts/libraries/TreeLib.sol";
import {Opening, Proof, Value} from "../contracts/referee/Types.sol";
import {Checkpoint, Item, OutputProof, Stage, StateLeaf} from "../interfaces/ICourt.sol";
import {Rules} from "../interfaces/IDisputable.sol";
import {IFunctions} from "../interfaces/IFunctions.sol";
import {Docket} from "./Docket.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

contract TreeTest is Test {
    function isIn(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return MerkleLib.isIn(root, leaf, index, count, proof);
    }

    /// @dev From the root down to a random leaf: what a node is opened to hashes to it, and the chosen one is found among them.
    function testFuzz_a_tree_is_opened_from_its_root_to_any_leaf(uint16 size, uint16 pick) external view {
        uint256 count = bound(size, 1, 1500);
        uint256 wanted = bound(pick, 0, count - 1);
        bytes32[][] memory levels = new bytes32[][](12);
        levels[0] = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) levels[0][i] = keccak256(abi.encode(i));
        uint256 level = 0;
        while (levels[level].length > 1) {
            levels[level + 1] = Trees.parents(levels[level]);
            ++level;
        }
        assertEq("height", TreeLib.height(count), level);
        uint256 index = 0;
        do {
            (uint256 lower, uint256 children) = TreeLib.below(count, level, index);
            uint256 first = index << (level - lower);
            assertTrue("whole", first + children <= levels[lower].length);
            bytes32[] memory nodes = new bytes32[](children);
            for (uint256 i = 0; i < children; ++i) nodes[i] = levels[lower][first + i];
            uint256 place = (wanted >> lower) - first;
            bytes32 chosen = nodes[place];
            bytes32[] memory proof = Trees.proofOf(nodes, place);
            assertTrue("children", TreeLib.rootOf(nodes) == levels[level][index]);
            assertTrue("among", this.isIn(levels[level][index], chosen, place, children, proof));
            (level, index) = (lower, first + place);
        } while (level != 0);
        assertEq("leaf", index, wanted);
    }
}

/// @dev Has a bond to get back, and takes nothing.
contract Unpayable {
    receive() external payable {
        revert();
    }
}

/// @dev A run of one Program, x -> -x, whose units are one step of it: disputed in whatever order, honestly answered.
contract Litigants is Test {
    uint256 public constant UNITS = 3;
    uint256 public constant LIAR = 2;
    address public constant MINER = address(0x5000);
    address public constant UNPAYABLE = address(0x1002);
    bytes4 private constant X = 0x0000803f; // 1
    bytes4 private constant MINUS_X = 0x000080bf;
    bytes4 private constant LIE = 0x000000bf;
    bytes private constant HEADER = hex"0001000100000000000000010000000300000000000000";
    bytes private constant INPUT = hex"0101000300302e78";
    bytes private constant OPERATION = hex"031500010000000000010000";

    Court public immutable court;
    Docket public immutable docket;
    address[4] public challengers = [address(0x1000), address(0x1001), UNPAYABLE, MINER];
    bytes32[] private _items;
    bytes32 private _program;
    uint256 public height = 1;
    uint256 public posted;
    uint256 public sent;
    uint256 public collected;
    uint256 public forced;
    uint256 public honestConvicted;
    uint256 public overdue;
    mapping(uint64 dispute => uint256) public unitOf;
    mapping(uint64 dispute => uint256) public openedAt;
    mapping(uint64 dispute => address) public challengerOf;
    mapping(uint64 dispute => uint256) public bondOf;
    mapping(uint64 dispute => bytes32) private _node;
    mapping(uint64 dispute => uint256) private _value;

    constructor() {
        Evaluator evaluator = new Evaluator(IFunctions(address(new FunctionEvaluator())));
        court = new Court(address(evaluator), address(new Clerk(address(new TermsEvaluator()))), 20, 4, 1 ether, 1000);
        _items.push(_hash(HEADER));
        _items.push(_hash(INPUT));
        _items.push(_hash(OPERATION));
        for (uint256 i = 0; i < 3; ++i) _items.push(_hash(_output(i)));
        _program = Trees.rootOf(_items);
        docket = new Docket(address(court), Rules(_hash(abi.encodePacked(_program)), 1, bytes32("data"), 1, 1, 1, 1));
        vm.deal(MINER, 1e6 ether);
        for (uint256 i = 0; i < UNITS; ++i) {
            // Before the prank, which the next call of any kind uses up, a hash too.
            bytes32 root = Trees.rootOf(_leaves(i));
            vm.prank(MINER);
            docket.postUnit{value: 10 ether}(bytes32(i + 1), root, 0, 1e6);
        }
        for (uint256 i = 0; i < 3; ++i) vm.deal(challengers[i], 1e6 ether);
        Unpayable unpayable = new Unpayable();
        vm.etch(UNPAYABLE, address(unpayable).code);
    }

    // ---------------------------------------------------------------- what anybody may do

    function accuse(uint256 who, uint256 unit) external {
        address challenger = challengers[who % 4];
        unit %= UNITS;
        bytes32 salt = bytes32(posted);
        vm.prank(challenger);
        court.announce(
            keccak256(
                abi.encode(block.chainid, address(court), address(docket), bytes32(unit + 1), uint8(0), challenger, salt)
            )
        );
        _roll(1);
        uint256 bond = court.bondFor(address(docket), MINER);
        vm.prank(challenger);
        try court.accuse{value: bond + 3}(address(docket), bytes32(unit + 1), 0, salt) returns (uint64 dispute) {
            ++posted;
            sent += bond + 3;
            unitOf[dispute] = unit;
            openedAt[dispute] = height;
            challengerOf[dispute] = challenger;
            bondOf[dispute] = bond;
        } catch {}
    }

    /// @dev The next few moves of whoever's turn it is; `what` decides where there is a choice.
    function move(uint256 which, uint256 what, uint256 moves) external {
        uint64 dispute = _pick(which);
        if (dispute == 0) return;
        for (uint256 i = bound(moves, 1, 9); i > 0; --i) {
            (Stage stage, address mover, uint256 until) = court.turnOf(dispute);
            if (stage == Stage.Closed || block.number > until) return;
            if (court.isConvicted(address(docket), bytes32(unitOf[dispute] + 1))) return;
            _play(dispute, stage, mover, what);
        }
    }

    function sleep(uint256 blocks) external {
        _answerAll();
        _roll(bound(blocks, 1, 6));
    }

    function end(uint256 which) external {
        uint64 dispute = _pick(which);
        if (dispute == 0) return;
        bool wasConvicted = court.isConvicted(address(docket), bytes32(unitOf[dispute] + 1));
        if (wasConvicted) {
            try court.close(dispute) {} catch {}
            return;
        }
        try court.timeout(dispute) {} catch {}
        _note(dispute);
    }

    function collect(uint256 who) external {
        address account = challengers[who % 4];
        uint256 credit = court.credit(account);
        vm.prank(account);
        try court.collect() returns (uint256 amount) {
            assertEq("collected", amount, credit);
            collected += amount;
        } catch {
            assertTrue("collect", credit == 0 || account == UNPAYABLE);
        }
    }

    function burn() external {
        collected += court.burnOwed();
        court.burn();
    }

    function force(uint256 amount) external {
        amount = bound(amount, 1, 1e9);
        // What a contract destroyed in its own creation, or a block's reward, leaves there: nobody can refuse it.
        vm.deal(address(court), address(court).balance + amount);
        forced += amount;
    }

    // ---------------------------------------------------------------- the moves

    /// @dev The miner answers whatever waits for it, as an honest one does before its time is out.
    function _answerAll() private {
        for (uint64 dispute = 1; dispute <= court.disputesCount(); ++dispute) {
            (Stage stage, address mover, uint256 until) = court.turnOf(dispute);
            if (stage == Stage.Closed || block.number > until) continue;
            if (court.isConvicted(address(docket), bytes32(unitOf[dispute] + 1))) continue;
            if (_isAccuseds(stage) && mover == MINER) _play(dispute, stage, mover, 0);
        }
    }

    function _isAccuseds(Stage stage) private pure returns (bool) {
        return stage == Stage.Segment || stage == Stage.Trace || stage == Stage.Value || stage == Stage.Leaf
            || stage == Stage.StateNodes || stage == Stage.StateLeaf || stage == Stage.Evidence;
    }

    function _play(uint64 d, Stage stage, address mover, uint256 what) private {
        uint256 unit = unitOf[d];
        if (stage == Stage.Segment) {
            bytes32[] memory leaves = _leaves(unit);
            Checkpoint memory start = Checkpoint(_state(X), 0, Trees.proofOf(leaves, 0));
            bytes4 y = _end(unit);
            bytes32[] memory proof = Trees.proofOf(leaves, 1);
            bytes32 state = _state(y);
            vm.prank(mover);
            court.openSegment(d, start, state, y, y, 0, proof, new bytes32[](0));
        } else if (stage == Stage.Step) {
            vm.prank(mover);
            court.chooseStep(d, 0, new bytes32[](0));
        } else if (stage == Stage.Trace) {
            Item memory header = _item(0, HEADER);
            bytes32[] memory values = _values(unit);
            vm.prank(mover);
            court.postTrace(d, _program, new bytes32[](0), header, values);
        } else if (stage == Stage.Contest) {
            _contest(d, mover, unit, what % 4);
        } else if (stage == Stage.Value) {
            StateLeaf memory place = StateLeaf(0, 1, new bytes32[](0));
            bool isInput = _value[d] == 0;
            Item memory item = _item(1 + _value[d], isInput ? INPUT : OPERATION);
            bytes32[] memory nodes = new bytes32[](isInput ? 0 : 1);
            if (!isInput) nodes[0] = _hash(abi.encodePacked(_end(unit)));
            bytes32 root = ItemLib.scalarRoot(isInput ? X : _end(unit));
            vm.prank(mover);
            court.openValue(d, item, root, place, nodes);
        } else if (stage == Stage.TensorChoice || stage == Stage.StateChoice) {
            bytes32 node = stage == Stage.StateChoice ? _state(_end(unit)) : _hash(abi.encodePacked(_end(unit)));
            vm.prank(mover);
            court.chooseNode(d, 0, node, new bytes32[](0));
        } else if (stage == Stage.Leaf) {
            vm.prank(mover);
            court.openLeaf(d, abi.encodePacked(_end(unit)));
        } else if (stage == Stage.Element) {
            bytes memory proof = abi.encode(_proof(unit));
            vm.prank(mover);
            court.judge(d, 0, proof);
        } else if (stage == Stage.StateNodes) {
            bytes32[] memory nodes = new bytes32[](1);
            nodes[0] = _state(_end(unit));
            vm.prank(mover);
            court.openNodes(d, nodes);
        } else if (stage == Stage.StateLeaf) {
            OutputProof memory output = _outputProof(unit, 0);
            bytes32 tree = Trees.rootOf(_values(unit));
            vm.prank(mover);
            court.openStateLeaf(d, tree, output, "", 0, new bytes32[](0));
        } else if (stage == Stage.Evidence) {
            OutputProof memory loss = _outputProof(unit, 1);
            OutputProof memory norm = _outputProof(unit, 2);
            bytes32 tree = Trees.rootOf(_values(unit));
            vm.prank(mover);
            court.openEvidence(d, tree, loss, norm);
        } else if (stage == Stage.Omission) {
            Item memory item = _item(3, _output(0));
            vm.prank(mover);
            try court.proveOmission(d, 0, item, "", "x") {} catch {}
        }
        _note(d);
    }

    function _contest(uint64 d, address mover, uint256 unit, uint256 what) private {
        if (what == 2) {
            vm.prank(mover);
            court.contestState(d);
        } else if (what == 3) {
            vm.prank(mover);
            court.contestEvidence(d);
        } else {
            bytes32[] memory values = _values(unit);
            bytes32[] memory proof = Trees.proofOf(values, what);
            _value[d] = what;
            vm.prank(mover);
            court.chooseNode(d, what, values[what], proof);
        }
    }

    function _note(uint64 dispute) private {
        if (unitOf[dispute] != LIAR && court.isConvicted(address(docket), bytes32(unitOf[dispute] + 1))) ++honestConvicted;
        (Stage stage,,) = court.turnOf(dispute);
        if (stage == Stage.Closed && height > openedAt[dispute] + court.longestDispute()) ++overdue;
    }

    function _pick(uint256 which) private view returns (uint64) {
        uint64 count = court.disputesCount();
        return count == 0 ? 0 : uint64(1 + which % count);
    }

    /// @dev Whoever's time is out loses at once: somebody always says so. An honest miner is never the one.
    function _roll(uint256 blocks) private {
        for (uint256 i = 0; i < blocks; ++i) {
            vm.roll(++height);
            for (uint64 dispute = 1; dispute <= court.disputesCount(); ++dispute) {
                (Stage stage, address mover, uint256 until) = court.turnOf(dispute);
                if (stage == Stage.Closed) continue;
                if (_isAccuseds(stage) && mover == MINER && block.number >= until) {
                    if (!court.isConvicted(address(docket), bytes32(unitOf[dispute] + 1))) _play(dispute, stage, mover, 0);
                } else if (block.number > until) {
                    try court.timeout(dispute) {} catch {}
                    _note(dispute);
                }
            }
        }
    }

    // ---------------------------------------------------------------- what was posted

    function _end(uint256 unit) private pure returns (bytes4) {
        return unit == LIAR ? LIE : MINUS_X;
    }

    function _state(bytes4 x) private pure returns (bytes32) {
        return sha256(abi.encodePacked(hex"030100", "x", ItemLib.scalarRoot(x)));
    }

    function _leaves(uint256 unit) private pure returns (bytes32[] memory leaves) {
        bytes4 y = _end(unit);
        leaves = new bytes32[](3);
        leaves[0] = MerkleLib.checkpointLeaf(_state(X), 0);
        leaves[1] = MerkleLib.checkpointLeaf(_state(y), MerkleLib.evidenceOf(y, y, 0));
        leaves[2] = MerkleLib.contributionLeaf(_state(y));
    }

    function _values(uint256 unit) private pure returns (bytes32[] memory values) {
        values = new bytes32[](2);
        values[0] = sha256(abi.encodePacked(hex"04", INPUT, ItemLib.scalarRoot(X)));
        values[1] = sha256(abi.encodePacked(hex"04", OPERATION, ItemLib.scalarRoot(_end(unit))));
    }

    function _output(uint256 index) private pure returns (bytes memory) {
        if (index == 0) return abi.encodePacked(hex"04010000000300", "0.x");
        if (index == 1) return abi.encodePacked(hex"04010000000600", "1.loss");
        return abi.encodePacked(hex"04010000000b00", "1.grad_norm");
    }

    function _item(uint256 number, bytes memory data) private view returns (Item memory) {
        return Item(data, Trees.proofOf(_items, number));
    }

    function _outputProof(uint256 unit, uint256 index) private view returns (OutputProof memory) {
        return OutputProof(
            uint32(index),
            _item(3 + index, _output(index)),
            OPERATION,
            ItemLib.scalarRoot(_end(unit)),
            Trees.proofOf(_values(unit), 1)
        );
    }

    function _proof(uint256 unit) private pure returns (Proof memory proof) {
        bytes32[] memory values = _values(unit);
        proof.tree = Trees.rootOf(values);
        proof.operation = Value(OPERATION, _hash(abi.encodePacked(_end(unit))), Trees.proofOf(values, 1));
        proof.operands = new Value[](1);
        proof.operands[0] = Value(INPUT, _hash(abi.encodePacked(X)), Trees.proofOf(values, 0));
        proof.claimed = Opening(abi.encodePacked(_end(unit)), new bytes32[](0));
        proof.openings = new Opening[](1);
        proof.openings[0] = Opening(abi.encodePacked(X), new bytes32[](0));
    }

    function _hash(bytes memory data) private pure returns (bytes32) {
        return sha256(abi.encodePacked(hex"00", data));
    }
}

/// @dev That the invariants speak of whole games: each one that they are made of, played to its end.
contract CourtGames is Test {
    function test_every_game_is_played_to_its_end() external {
        for (uint256 unit = 0; unit < 3; ++unit) {
            for (uint256 what = 0; what < 4; ++what) {
                Litigants litigants = new Litigants();
                litigants.accuse(2, unit); // who takes no ether
                litigants.move(0, what, 8);
                // A state that holds every output leaves the challenger nothing to say.
                for (uint256 i = 0; i < 6; ++i) litigants.sleep(5);
                (Stage stage,,) = litigants.court().turnOf(1);
                assertTrue("closed", stage == Stage.Closed);
                bool convicted = litigants.court().isConvicted(address(litigants.docket()), bytes32(unit + 1));
                assertTrue("convicted", convicted == (unit == litigants.LIAR() && what == 1));
                litigants.collect(2);
                litigants.collect(3);
                litigants.burn();
            }
        }
    }
}

contract CourtInvariants is Test {
    Litigants private _litigants;

    function setUp() external {
        _litigants = new Litigants();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_litigants);
    }

    /// @dev One function for all: Forge plays the whole campaign anew for each.
    function invariant_whatever_anybody_does() external view {
        Court court = _litigants.court();
        Docket docket = _litigants.docket();
        // Whatever challengers do, in whatever order, alone or several at once.
        assertEq("honest convicted", _litigants.honestConvicted(), 0);
        assertEq("overdue", _litigants.overdue(), 0);

        uint256 held = court.burnOwed();
        for (uint256 i = 0; i < 4; ++i) held += court.credit(_litigants.challengers(i));
        uint256[3] memory open;
        for (uint64 dispute = 1; dispute <= court.disputesCount(); ++dispute) {
            (Stage stage,,) = court.turnOf(dispute);
            if (stage == Stage.Closed) continue;
            held += _litigants.bondOf(dispute);
            ++open[_litigants.unitOf(dispute)];
            if (court.isConvicted(address(docket), bytes32(_litigants.unitOf(dispute) + 1))) continue;
            assertAtMost("open for", _litigants.height() - _litigants.openedAt(dispute), court.longestDispute());
        }
        // Bonds, credits, what burns, and what was forced on it, which is nobody's and changes nothing.
        assertEq("balance", address(court).balance, held + _litigants.forced());
        // In = out + held: bonds and a conviction's prize came in, what was collected and burned went out. At least as much as
        // the prize was burned: whoever convicts itself has lost.
        uint256 prizes = court.isConvicted(address(docket), bytes32(_litigants.LIAR() + 1)) ? 5 ether : 0;
        assertEq("in = out + held", _litigants.sent() + prizes, _litigants.collected() + held);
        assertAtMost("prize", prizes, docket.burned());
        for (uint256 i = 0; i < 3; ++i) assertEq("counted as open", docket.openOf(bytes32(i + 1)), open[i]);
    }
}
