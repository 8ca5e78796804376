// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunTypes} from "../../interfaces/IRun.sol";

/// @title Hashes of answers, straight from calldata
/// @dev What `abi.encode` would give, without the compiler's word by word copies: an answer is three words in calldata as in any
/// encoding. A `bytes4` with something after its four bytes hashes to what no honest answer does.
library AnswersLib {
    uint256 private constant ANSWER_BYTES = 96;

    /// @return posted keccak256(abi.encode(unitId, verifier, answers, salt)), the seal.
    /// @return answersHash keccak256(abi.encode(answers)).
    function hashes(bytes32 unitId, address verifier, IRunTypes.Answer[] calldata answers, bytes32 salt)
        internal
        pure
        returns (bytes32 posted, bytes32 answersHash)
    {
        uint256 length = answers.length * ANSWER_BYTES;
        assembly ("memory-safe") {
            let free := mload(64)
            mstore(free, unitId)
            mstore(add(free, 32), verifier)
            mstore(add(free, 64), 128)
            mstore(add(free, 96), salt)
            mstore(add(free, 128), answers.length)
            calldatacopy(add(free, 160), answers.offset, length)
            posted := keccak256(free, add(160, length))
            // The end of the one is the other, but for the word before it.
            mstore(add(free, 96), 32)
            answersHash := keccak256(add(free, 96), add(64, length))
        }
    }

    /// @notice keccak256(abi.encode(answers)) of the answers in `leaves` to these segments.
    /// @param places By segment, its place in `leaves` plus 1; 0 where it is not there.
    /// @return answersHash It.
    /// @return missing One of `segments` that is not there, plus 1; 0 where all are, and the hash is one.
    function hashOf(IRunTypes.Opened[] calldata leaves, uint256[] memory places, uint8[] memory segments)
        internal
        pure
        returns (bytes32 answersHash, uint256 missing)
    {
        assembly ("memory-safe") {
            let free := mload(64)
            let count := mload(segments)
            mstore(free, 32)
            mstore(add(free, 32), count)
            let to := add(free, 64)
            for { let i := 0 } lt(i, count) { i := add(i, 1) } {
                let segment := mload(add(add(segments, 32), mul(i, 32)))
                let place := mload(add(add(places, 32), mul(segment, 32)))
                if iszero(place) {
                    missing := add(segment, 1)
                    break
                }
                // A leaf is five words; its answer begins with the second.
                calldatacopy(to, add(add(leaves.offset, mul(sub(place, 1), 160)), 32), 96)
                to := add(to, 96)
            }
            answersHash := keccak256(free, sub(to, free))
        }
    }
}
