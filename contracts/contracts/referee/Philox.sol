// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Philox4x32-10
/// @dev Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
library Philox {
    /// @notice Words w0 | w1 << 32 of element `index`, unsigned: what the operation PHILOX yields.
    /// @param key 64 bits, low word first.
    /// @param step Its low 32 bits count.
    function word64(uint256 key, uint256 index, uint256 stream, uint256 step) internal pure returns (uint256) {
        (uint256 w0, uint256 w1,,) = block4(
            key & 0xffffffff,
            key >> 32 & 0xffffffff,
            index & 0xffffffff,
            index >> 32 & 0xffffffff,
            stream & 0xffffffff,
            step & 0xffffffff
        );
        return w0 | w1 << 32;
    }

    /// @notice Four words from two of key and four of counter, each below 2^32.
    function block4(uint256 k0, uint256 k1, uint256 c0, uint256 c1, uint256 c2, uint256 c3)
        internal
        pure
        returns (uint256, uint256, uint256, uint256)
    {
        unchecked {
            for (uint256 round = 0; round < 10; ++round) {
                uint256 p0 = 0xd2511f53 * c0;
                uint256 p1 = 0xcd9e8d57 * c2;
                c0 = p1 >> 32 ^ c1 ^ k0;
                c1 = p1 & 0xffffffff;
                c2 = p0 >> 32 ^ c3 ^ k1;
                c3 = p0 & 0xffffffff;
                k0 = k0 + 0x9e3779b9 & 0xffffffff;
                k1 = k1 + 0xbb67ae85 & 0xffffffff;
            }
        }
        return (c0, c1, c2, c3);
    }
}
