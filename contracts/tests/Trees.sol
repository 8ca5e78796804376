// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunTypes} from "../interfaces/IRun.sol";
import {MerkleLib} from "../contracts/libraries/MerkleLib.sol";

/// @title Building trees and units, which the contracts only check
library Trees {
    function rootOf(bytes32[] memory leaves) internal pure returns (bytes32) {
        bytes32[] memory level = leaves;
        while (level.length > 1) level = parents(level);
        return level[0];
    }

    function parents(bytes32[] memory level) internal pure returns (bytes32[] memory above) {
        above = new bytes32[]((level.length + 1) / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            above[i] = 2 * i + 1 < level.length ? MerkleLib.node(level[2 * i], level[2 * i + 1]) : level[2 * i];
        }
    }

    function proofOf(bytes32[] memory leaves, uint256 index) internal pure returns (bytes32[] memory proof) {
        bytes32[] memory longest = new bytes32[](16);
        uint256 length = 0;
        bytes32[] memory level = leaves;
        while (level.length > 1) {
            if (index ^ 1 < level.length) longest[length++] = level[index ^ 1];
            level = parents(level);
            index >>= 1;
        }
        proof = new bytes32[](length);
        for (uint256 i = 0; i < length; ++i) proof[i] = longest[i];
    }

    /// @dev What an honest miner gets for a segment of a unit; a liar gets something else from its first segment on.
    function answerOf(bytes32 unitId, uint256 segment, bool lie) internal pure returns (IRunTypes.Answer memory) {
        bytes32 h = keccak256(abi.encode("answer", unitId, segment, lie));
        return IRunTypes.Answer(h, bytes4(h), bytes4(h << 32));
    }

    function saltOf(bytes32 unitId, uint256 segment) internal pure returns (bytes32) {
        return keccak256(abi.encode("salt", unitId, segment));
    }

    function leavesOf(bytes32 unitId, bytes32 start, uint256 segments, bool lie)
        internal
        pure
        returns (bytes32[] memory leaves)
    {
        leaves = new bytes32[](segments + 2);
        leaves[0] = MerkleLib.checkpointLeaf(start, 0);
        for (uint256 j = 0; j < segments; ++j) {
            IRunTypes.Answer memory answer = answerOf(unitId, j, lie);
            bytes32 evidence = MerkleLib.evidenceOf(answer.loss, answer.gradientNorm, saltOf(unitId, j));
            leaves[j + 1] = MerkleLib.checkpointLeaf(answer.endRoot, evidence);
        }
        leaves[segments + 1] = MerkleLib.contributionLeaf(answerOf(unitId, segments - 1, lie).endRoot);
    }
}
