// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Several leaves of a unit's tree at once
/// @dev The hashes of `MerkleLib`, with the precompile called by hand: an opening is little else, and the compiler's own way costs
/// twice as much. A call of a precompile makes them `view`, though their answers depend on nothing but their arguments.
library LeavesLib {
    /// @notice The root above `hashes`, which stand at the ascending `places` of a tree of `count` leaves. Both are consumed.
    /// @param proof The siblings that are not known from below: level by level from the leaves up, ascending.
    /// @return root Zero if the proof is of a wrong length.
    function rootOf(bytes32[] memory hashes, uint256[] memory places, uint256 count, bytes32[] calldata proof)
        internal
        view
        returns (bytes32 root)
    {
        uint256 known = hashes.length;
        uint256 used = 0;
        unchecked {
            while (count > 1) {
                uint256 above = 0;
                for (uint256 i = 0; i < known; ++i) {
                    uint256 place = places[i];
                    bytes32 hash = hashes[i];
                    bool isLeft = place & 1 == 0;
                    if (isLeft && i + 1 < known && places[i + 1] == place + 1) {
                        hash = _node(hash, hashes[++i]);
                    } else if (!isLeft || place != count - 1) {
                        if (used == proof.length) return 0;
                        bytes32 sibling = proof[used++];
                        hash = isLeft ? _node(hash, sibling) : _node(sibling, hash);
                    }
                    hashes[above] = hash;
                    places[above++] = place >> 1;
                }
                known = above;
                count = (count + 1) >> 1;
            }
        }
        return used == proof.length ? hashes[0] : bytes32(0);
    }

    /// @notice Checkpoint leaf: H(0x05 || state root || evidence).
    function checkpointLeaf(bytes32 stateRoot, bytes32 evidence) internal view returns (bytes32) {
        return _sha256(0x05, stateRoot, evidence, 65);
    }

    /// @notice H(0x06 || loss || gradient norm || salt), the floats as their four little-endian bytes.
    function evidenceOf(bytes4 loss, bytes4 gradientNorm, bytes32 salt) internal view returns (bytes32) {
        return _sha256(0x06, bytes32(loss) | bytes32(gradientNorm) >> 32 | salt >> 64, salt << 192, 41);
    }

    /// @notice Contribution leaf: H(0x07 || contribution root).
    function contributionLeaf(bytes32 contribution) internal view returns (bytes32) {
        return _sha256(0x07, contribution, 0, 33);
    }

    function _node(bytes32 left, bytes32 right) private view returns (bytes32) {
        return _sha256(0x01, left, right, 65);
    }

    /// @dev SHA-256 of the first `length` bytes of a domain byte and two words.
    function _sha256(uint256 domain, bytes32 first, bytes32 second, uint256 length) private view returns (bytes32 digest) {
        assembly ("memory-safe") {
            let free := mload(64)
            mstore8(free, domain)
            mstore(add(free, 1), first)
            mstore(add(free, 33), second)
            // The precompile fails only for want of gas; then there is no answer, and nothing goes on with none.
            if iszero(and(eq(returndatasize(), 32), staticcall(gas(), 2, free, length, 0, 32))) { invalid() }
            digest := mload(0)
        }
    }
}
