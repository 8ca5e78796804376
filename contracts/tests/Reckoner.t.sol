// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Clerk} from "../contracts/Clerk.sol";
import {TermsEvaluator} from "../contracts/TermsEvaluator.sol";
import {Reduction} from "../contracts/court/Reduction.sol";
import {Standing} from "../contracts/court/Standing.sol";
import {CourtErrorsLib} from "../contracts/libraries/CourtErrorsLib.sol";
import {Terms} from "../contracts/referee/Terms.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

/// @dev Sums of any number of terms, followed down to any one of them: a term counts as its position + 1.
contract ReckonerTest is Test {
    Clerk private immutable _clerk = new Clerk(address(new TermsEvaluator()));
    uint256 private constant MOST_TERMS = 1 << 40;
    uint256 private constant MOST_LISTS = 4;

    function testFuzz_every_term_is_reached_in_four_lists_and_in_its_own_block(uint40 size, uint40 pick, bool ofPositions)
        external
        view
    {
        uint256 terms = bound(size, 1, MOST_TERMS);
        uint256 wanted = bound(pick, 0, terms - 1);
        Reduction memory r;
        r.end = uint64(terms);
        r.block = ofPositions ? 16 : 1024;
        for (uint256 lists = 1; ; ++lists) {
            assertTrue("lists", lists <= MOST_LISTS);
            uint256 each = Terms.childTerms(r.block, r.end - r.first);
            int256[] memory sums = _sums(r, each);
            assertTrue("a move's", sums.length <= 1024);
            bytes32[] memory nodes = _nodes(sums);
            // The parts of a sum are what adds up to it, and one less is not.
            Standing memory s;
            s.node = bytes32(uint256(_sumBetween(r.first, r.end)));
            (bool posted, bytes memory answer) = _move(abi.encodeCall(_clerk.postParts, (0, sums)), r, s);
            assertTrue("parts", posted);
            (, bytes32 root) = abi.decode(answer, (Reduction, bytes32));
            assertTrue("root", root == Trees.rootOf(nodes));
            ++sums[sums.length - 1];
            (posted,) = _move(abi.encodeCall(_clerk.postParts, (0, sums)), r, s);
            assertTrue("wrong total", !posted);
            --sums[sums.length - 1];

            s.node = root;
            uint64 place = uint64((wanted - r.first) / each);
            bytes32[] memory proof = Trees.proofOf(nodes, place);
            uint256 first = r.first + place * each;
            uint256 end = first + each < r.end ? first + each : r.end;
            assertEq("block", first % r.block, 0);
            (bool chosen, bytes memory said) =
                _move(abi.encodeCall(_clerk.chooseSum, (0, place, sums[place], proof)), r, s);
            assertTrue("more than a block is chosen", chosen == (end - first > r.block));
            if (!chosen) {
                assertTrue("one block", bytes4(said) == CourtErrorsLib.OneBlock.selector);
                assertTrue("the block holds the term", first <= wanted && wanted < end);
                return;
            }
            bytes32 node;
            (r, node) = abi.decode(said, (Reduction, bytes32));
            assertEq("first", r.first, first);
            assertEq("end", r.end, end);
            assertTrue("sum", node == nodes[place]);
        }
    }

    /// @dev As a court asks: what stands is appended.
    function _move(bytes memory call, Reduction memory r, Standing memory s)
        private
        view
        returns (bool answered, bytes memory answer)
    {
        return address(_clerk).staticcall(abi.encodePacked(call, abi.encode(r, s)));
    }

    function _sums(Reduction memory r, uint256 each) private pure returns (int256[] memory sums) {
        uint256 count = (r.end - r.first + each - 1) / each;
        sums = new int256[](count);
        for (uint256 i = 0; i < count; ++i) {
            uint256 first = r.first + i * each;
            sums[i] = _sumBetween(first, first + each < r.end ? first + each : r.end);
        }
    }

    function _sumBetween(uint256 first, uint256 end) private pure returns (int256) {
        return int256((end - first) * (first + end + 1) / 2);
    }

    function _nodes(int256[] memory sums) private pure returns (bytes32[] memory nodes) {
        nodes = new bytes32[](sums.length);
        for (uint256 i = 0; i < sums.length; ++i) nodes[i] = bytes32(uint256(sums[i]));
    }
}
