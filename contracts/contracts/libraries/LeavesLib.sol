// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Several leaves of a unit's tree at once
/// @dev The hashes of `MerkleLib`, with the precompile called by hand: an opening is little else, and the compiler's own way costs
/// twice as much. A call of a precompile makes them `view`, though their answers depend on nothing but their arguments.
library LeavesLib {
    /// @notice The root above `hashes`, at least one, which stand at the ascending `places` of a tree of `count` leaves. Both are consumed.
    /// A node is H(0x01 || left || right).
    /// @param proof The siblings that are not known from below: level by level from the leaves up, ascending.
    /// @return root Zero if the proof is of a wrong length.
    function rootOf(bytes32[] memory hashes, uint256[] memory places, uint256 count, bytes32[] calldata proof)
        internal
        view
        returns (bytes32 root)
    {
        // By hand: within its loops the compiler checks an index three times a node. `above` never overtakes `i`, which stays below
        // `known`; a proof that is too short is read past its end, which changes nothing but what is thrown away then.
        assembly ("memory-safe") {
            let known := mload(hashes)
            hashes := add(hashes, 32)
            places := add(places, 32)
            let used := 0
            let free := mload(64)
            for {} gt(count, 1) {} {
                let above := 0
                for { let i := 0 } lt(i, known) { i := add(i, 1) } {
                    let place := mload(add(places, shl(5, i)))
                    let left := mload(add(hashes, shl(5, i)))
                    let right := 0
                    // The last of an odd number goes up as it is.
                    let isPair := 1
                    switch and(place, 1)
                    case 1 {
                        right := left
                        left := calldataload(add(proof.offset, shl(5, used)))
                        used := add(used, 1)
                    }
                    default {
                        let next := add(i, 1)
                        let isKnown := 0
                        if lt(next, known) { isKnown := eq(mload(add(places, shl(5, next))), add(place, 1)) }
                        switch isKnown
                        case 1 {
                            right := mload(add(hashes, shl(5, next)))
                            i := next
                        }
                        default {
                            isPair := iszero(eq(add(place, 1), count))
                            if isPair {
                                right := calldataload(add(proof.offset, shl(5, used)))
                                used := add(used, 1)
                            }
                        }
                    }
                    if isPair {
                        mstore8(free, 1)
                        mstore(add(free, 1), left)
                        mstore(add(free, 33), right)
                        if iszero(and(eq(returndatasize(), 32), staticcall(gas(), 2, free, 65, 0, 32))) { invalid() }
                        left := mload(0)
                    }
                    mstore(add(hashes, shl(5, above)), left)
                    mstore(add(places, shl(5, above)), shr(1, place))
                    above := add(above, 1)
                }
                known := above
                count := shr(1, add(count, 1))
            }
            if eq(used, proof.length) { root := mload(hashes) }
        }
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
