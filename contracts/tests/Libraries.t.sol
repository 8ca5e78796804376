// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {DrawLib} from "../contracts/libraries/DrawLib.sol";
import {MerkleLib} from "../contracts/libraries/MerkleLib.sol";
import {RewardLib} from "../contracts/libraries/RewardLib.sol";
import {LeavesLib} from "../contracts/libraries/LeavesLib.sol";
import {Test} from "./Test.sol";
import {Trees} from "./Trees.sol";

contract MerkleTest is Test {
    /// @dev Calldata, as the library wants it.
    function isIn(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof)
        external
        pure
        returns (bool)
    {
        return MerkleLib.isIn(root, leaf, index, count, proof);
    }

    function leavesFrom(bytes32 seed, uint256 count) private pure returns (bytes32[] memory leaves) {
        leaves = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) leaves[i] = keccak256(abi.encode(seed, i));
    }

    function testFuzz_EveryLeafOfATreeOfAnySizeIsProvedAtItsIndexOnly(bytes32 seed, uint256 count, uint256 index, uint256 other)
        external
        view
    {
        count = bound(count, 1, 70);
        index = bound(index, 0, count - 1);
        other = bound(other, 0, count + 3);
        bytes32[] memory leaves = leavesFrom(seed, count);
        bytes32 root = Trees.rootOf(leaves);
        bytes32[] memory proof = Trees.proofOf(leaves, index);
        assertTrue("its own index", this.isIn(root, leaves[index], index, count, proof));
        if (other != index) assertTrue("another index", !this.isIn(root, leaves[index], other, count, proof));
    }

    function testFuzz_ASpoiltProofProvesNothing(bytes32 seed, uint256 count, uint256 index, uint256 place, uint8 bit)
        external
        view
    {
        count = bound(count, 2, 70);
        index = bound(index, 0, count - 1);
        bytes32[] memory leaves = leavesFrom(seed, count);
        bytes32 root = Trees.rootOf(leaves);
        bytes32[] memory proof = Trees.proofOf(leaves, index);
        bytes32 flip = bytes32(uint256(1) << bit);
        assertTrue("leaf", !this.isIn(root, leaves[index] ^ flip, index, count, proof));
        assertTrue("root", !this.isIn(root ^ flip, leaves[index], index, count, proof));
        bytes32[] memory longer = new bytes32[](proof.length + 1);
        for (uint256 i = 0; i < proof.length; ++i) longer[i] = proof[i];
        assertTrue("longer", !this.isIn(root, leaves[index], index, count, longer));
        if (proof.length == 0) return;
        bytes32[] memory shorter = new bytes32[](proof.length - 1);
        for (uint256 i = 0; i < shorter.length; ++i) shorter[i] = proof[i];
        assertTrue("shorter", !this.isIn(root, leaves[index], index, count, shorter));
        place = bound(place, 0, proof.length - 1);
        proof[place] ^= flip;
        assertTrue("sibling", !this.isIn(root, leaves[index], index, count, proof));
    }

    function testFuzz_AnInnerNodeIsNoLeaf(bytes32 seed, uint256 count) external view {
        count = bound(count, 3, 70);
        bytes32[] memory leaves = leavesFrom(seed, count);
        bytes32[] memory level = Trees.parents(leaves);
        bytes32 root = Trees.rootOf(leaves);
        // A proof of the node in the level above, offered as a proof of a leaf.
        assertTrue("node", !this.isIn(root, level[0], 0, count, Trees.proofOf(level, 0)));
    }
}

contract TreeTest is Test {
    struct Some {
        bytes32 root;
        bytes32[] hashes;
        uint256[] places;
        bytes32[] proof;
    }

    function rootOf(bytes32[] memory hashes, uint256[] memory places, uint256 count, bytes32[] calldata proof)
        external
        view
        returns (bytes32)
    {
        return LeavesLib.rootOf(hashes, places, count, proof);
    }

    /// @dev Leaves of a tree, those of them in `mask`, and what their proof has to be.
    function _some(bytes32 seed, uint256 count, uint256 mask) private pure returns (Some memory s) {
        bytes32[] memory level = new bytes32[](count);
        bool[] memory known = new bool[](count);
        uint256 length = 0;
        for (uint256 i = 0; i < count; ++i) {
            level[i] = keccak256(abi.encode(seed, i));
            known[i] = mask >> i & 1 == 1;
            if (known[i]) ++length;
        }
        (s.hashes, s.places) = (new bytes32[](length), new uint256[](length));
        length = 0;
        for (uint256 i = 0; i < count; ++i) {
            if (!known[i]) continue;
            s.hashes[length] = level[i];
            s.places[length++] = i;
        }
        s.proof = new bytes32[](count);
        length = 0;
        while (level.length > 1) {
            for (uint256 i = 0; i < level.length; ++i) {
                if (known[i] && i ^ 1 < level.length && !known[i ^ 1]) s.proof[length++] = level[i ^ 1];
            }
            known = _above(known);
            level = Trees.parents(level);
        }
        s.root = level[0];
        s.proof = _resized(s.proof, length);
    }

    function _above(bool[] memory known) private pure returns (bool[] memory above) {
        above = new bool[]((known.length + 1) / 2);
        for (uint256 i = 0; i < known.length; ++i) if (known[i]) above[i / 2] = true;
    }

    function _resized(bytes32[] memory words, uint256 length) private pure returns (bytes32[] memory copy) {
        copy = new bytes32[](length);
        for (uint256 i = 0; i < length && i < words.length; ++i) copy[i] = words[i];
    }

    function _any(bytes32 seed, uint256 count, uint256 mask) private pure returns (Some memory) {
        return _some(seed, count, mask % (uint256(1) << count) | uint256(1) << (mask >> 128) % count);
    }

    function _root(Some memory s, uint256 count) private view returns (bytes32) {
        return this.rootOf(s.hashes, s.places, count, s.proof);
    }

    function testFuzz_SeveralLeavesReachTheRootTogether(bytes32 seed, uint256 count, uint256 mask) external view {
        count = bound(count, 1, 70);
        Some memory s = _any(seed, count, mask);
        assertTrue("root", _root(s, count) == s.root);
    }

    function testFuzz_ASpoiltLeafReachesAnotherRoot(bytes32 seed, uint256 count, uint256 mask, uint256 place) external view {
        count = bound(count, 1, 70);
        Some memory s = _any(seed, count, mask);
        s.hashes[place % s.hashes.length] ^= bytes32(uint256(1) << (place >> 248));
        assertTrue("leaf", _root(s, count) != s.root);
    }

    function testFuzz_AProofOfAWrongLengthReachesNothing(bytes32 seed, uint256 count, uint256 mask) external view {
        count = bound(count, 2, 70);
        Some memory s = _any(seed, count, mask);
        uint256 length = s.proof.length;
        s.proof = _resized(s.proof, length + 1);
        assertTrue("longer", _root(s, count) == 0);
        if (length == 0) return;
        s.proof = _resized(s.proof, length - 1);
        assertTrue("shorter", _root(s, count) == 0);
    }

    function testFuzz_TheHashesAreThoseOfTheOtherLibrary(bytes32 a, bytes32 b, bytes4 loss, bytes4 norm) external view {
        assertTrue("leaf", LeavesLib.checkpointLeaf(a, b) == MerkleLib.checkpointLeaf(a, b));
        assertTrue("evidence", LeavesLib.evidenceOf(loss, norm, a) == MerkleLib.evidenceOf(loss, norm, a));
        assertTrue("contribution", LeavesLib.contributionLeaf(a) == MerkleLib.contributionLeaf(a));
    }
}

contract DrawTest is Test {
    function testFuzz_AWeightedDrawIsDistinctAndOnlyOfWhatWeighs(bytes32 seed, bytes32 item, uint256 count, uint256 take)
        external
        pure
    {
        count = bound(count, 1, 64);
        take = bound(take, 1, 70);
        uint256[] memory weights = new uint256[](count);
        uint256 positive = 0;
        for (uint256 i = 0; i < count; ++i) {
            uint256 h = uint256(keccak256(abi.encode(seed, item, i, "weight")));
            weights[i] = h % 3 == 0 ? 0 : uint16(h >> 8);
            if (weights[i] != 0) ++positive;
        }
        bytes32 before = keccak256(abi.encode(weights));
        uint256[] memory places = DrawLib.weighted(seed, item, weights, take);
        assertEq("as many as there are", places.length, take < positive ? take : positive);
        assertTrue("weights are restored", keccak256(abi.encode(weights)) == before);
        uint256 seen = 0;
        for (uint256 i = 0; i < places.length; ++i) {
            assertTrue("weighs", weights[places[i]] != 0);
            assertTrue("distinct", seen >> places[i] & 1 == 0);
            seen |= 1 << places[i];
        }
    }

    function testFuzz_ALotDrawsEachMinerAtMostWhatItAsked(bytes32 seed, uint256 count, uint256 take) external pure {
        count = bound(count, 1, 64);
        uint256[] memory asked = new uint256[](count);
        uint256 total = 0;
        for (uint256 i = 0; i < count; ++i) {
            asked[i] = uint256(keccak256(abi.encode(seed, i))) % 33;
            total += asked[i];
        }
        take = bound(take, 0, total < 64 ? total : 64);
        uint256[] memory kept = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) kept[i] = asked[i];
        uint256[] memory drawn = DrawLib.lot(seed, asked, total, take);
        uint256 sum = 0;
        for (uint256 i = 0; i < count; ++i) {
            assertAtMost("asked", drawn[i], kept[i]);
            sum += drawn[i];
        }
        assertEq("all of them", sum, take);
    }

    function testFuzz_SegmentsAscendAndDoNotRepeat(bytes32 seed, bytes32 item, uint256 n, uint256 take) external pure {
        n = bound(n, 1, 254);
        take = bound(take, 1, 20);
        uint8[] memory drawn = DrawLib.distinct(seed, item, n, take);
        assertEq("as many as there are", drawn.length, take < n ? take : n);
        for (uint256 i = 0; i < drawn.length; ++i) {
            assertTrue("within", drawn[i] < n);
            if (i != 0) assertTrue("ascend", drawn[i] > drawn[i - 1]);
        }
    }

    /// @dev A thousand draws of one of three: each within five standard deviations of its weight's share.
    function test_WeightsAreChances() external pure {
        uint256[] memory weights = new uint256[](3);
        (weights[0], weights[1], weights[2]) = (1, 3, 6);
        uint256[3] memory hits;
        for (uint256 i = 0; i < 1000; ++i) ++hits[DrawLib.weighted(bytes32(i), "chances", weights, 1)[0]];
        assertTrue("1 of 10", hits[0] > 52 && hits[0] < 148);
        assertTrue("3 of 10", hits[1] > 227 && hits[1] < 373);
        assertTrue("6 of 10", hits[2] > 522 && hits[2] < 678);
    }
}

contract RewardTest is Test {
    function testFuzz_APoolNeverExceedsItsRoundsSubsidyAndNeverGrowsWithTime(
        uint128 initial,
        uint32 halving,
        uint64 round,
        uint8 committed,
        uint16 target
    ) external pure {
        halving = uint32(bound(halving, 1, type(uint32).max));
        target = uint16(bound(target, 1, type(uint16).max));
        uint256 pool = RewardLib.pool(initial, halving, round, committed, target);
        assertAtMost("subsidy", pool, uint256(initial) >> (round / halving));
        assertAtMost("later", RewardLib.pool(initial, halving, uint256(round) + halving, committed, target), pool);
        assertAtMost("less work", RewardLib.pool(initial, halving, round, committed / 2, target), pool);
    }

    function testFuzz_SharesTogetherAreNoMoreThanThePool(uint128 pool, uint16 verifiers, uint16 merge, uint8 committed, uint8 v)
        external
        pure
    {
        verifiers = uint16(bound(verifiers, 0, 10_000));
        merge = uint16(bound(merge, 0, 10_000 - verifiers));
        committed = uint8(bound(committed, 1, 64));
        v = uint8(bound(v, 1, 8));
        uint256 ofVerifiers = RewardLib.share(pool, verifiers);
        uint256 ofMerge = RewardLib.share(pool, merge);
        uint256 unit = (pool - ofVerifiers - ofMerge) / committed;
        uint256 attestation = ofVerifiers / (uint256(committed) * v);
        assertAtMost("all shares", unit * committed + attestation * committed * v + ofMerge / 2 * 2, pool);
    }
}
