// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Opening a tree from its root down, at most 1,024 nodes at a time
/// @dev Node i of level l covers leaves i 2^l to (i + 1) 2^l; an odd node is carried up unchanged, within a part of a tree as in the
/// whole: the nodes some levels below one have it for their root.
library TreeLib {
    /// @dev A node is opened to those this many levels below it, or to the leaves.
    uint256 internal constant CHILDREN_BITS = 10;

    /// @notice The level of the root of a tree of `count` leaves.
    function height(uint256 count) internal pure returns (uint256 level) {
        while (1 << level < count) ++level;
    }

    /// @notice Level of the nodes that one of `level` is opened to, and how many they are.
    function below(uint256 count, uint256 level, uint256 index) internal pure returns (uint256 lower, uint256 children) {
        lower = level > CHILDREN_BITS ? level - CHILDREN_BITS : 0;
        uint256 first = index << (level - lower);
        uint256 last = (index + 1) << (level - lower);
        uint256 size = (count + (1 << lower) - 1) >> lower;
        children = (last < size ? last : size) - first;
    }

    /// @notice The root over these nodes; no nodes give H(0x00).
    function rootOf(bytes32[] memory nodes) internal view returns (bytes32 root) {
        uint256 n = nodes.length;
        if (n == 0) return sha256(hex"00");
        assembly ("memory-safe") {
            let first := add(nodes, 32)
            // One byte of domain and two hashes, behind everything allocated.
            let buffer := mload(0x40)
            mstore8(buffer, 1)
            for {} gt(n, 1) {} {
                let pairs := shr(1, n)
                for { let i := 0 } lt(i, pairs) { i := add(i, 1) } {
                    let pair := add(first, shl(6, i))
                    mstore(add(buffer, 1), mload(pair))
                    mstore(add(buffer, 33), mload(add(pair, 32)))
                    // Only for want of gas could the precompile fail, and then nothing that follows must count.
                    if iszero(staticcall(gas(), 2, buffer, 65, add(first, shl(5, i)), 32)) { revert(0, 0) }
                }
                if and(n, 1) { mstore(add(first, shl(5, pairs)), mload(add(first, shl(5, sub(n, 1))))) }
                n := shr(1, add(n, 1))
            }
            root := mload(first)
        }
    }
}
