// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title SHA-256 trees of docs/design/roots.md
/// @dev Node = H(0x01 || left || right); an odd node is carried up unchanged, so the path depends on index and leaf count.
library MerkleLib {
    /// @notice Whether `leaf` stands at `index` of a tree of `count` leaves with this root. Proofs of a wrong length are false.
    function isIn(bytes32 root, bytes32 leaf, uint256 index, uint256 count, bytes32[] calldata proof)
        internal
        pure
        returns (bool)
    {
        if (index >= count) return false;
        uint256 used = 0;
        while (count > 1) {
            bool carried = index == count - 1 && index & 1 == 0;
            if (!carried) {
                if (used == proof.length) return false;
                bytes32 sibling = proof[used++];
                leaf = index & 1 == 0 ? node(leaf, sibling) : node(sibling, leaf);
            }
            index >>= 1;
            count = (count + 1) >> 1;
        }
        return used == proof.length && leaf == root;
    }

    function node(bytes32 left, bytes32 right) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x01), left, right));
    }

    /// @notice Checkpoint leaf: H(0x05 || state root || evidence).
    function checkpointLeaf(bytes32 stateRoot, bytes32 evidence) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x05), stateRoot, evidence));
    }

    /// @notice H(0x06 || loss || gradient norm || salt), the floats as their four little-endian bytes.
    function evidenceOf(bytes4 loss, bytes4 gradientNorm, bytes32 salt) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x06), loss, gradientNorm, salt));
    }

    /// @notice Contribution leaf: H(0x07 || contribution root).
    function contributionLeaf(bytes32 contribution) internal pure returns (bytes32) {
        return sha256(abi.encodePacked(bytes1(0x07), contribution));
    }
}
