// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Row-major places
library Shapes {
    /// @notice Index along each dimension of an element.
    function coordinates(uint256[] memory dims, uint256 element) internal pure returns (uint256[] memory index) {
        index = new uint256[](dims.length);
        for (uint256 d = dims.length; d > 0; --d) {
            index[d - 1] = element % dims[d - 1];
            element /= dims[d - 1];
        }
    }

    /// @notice The element at an index.
    function flat(uint256[] memory dims, uint256[] memory index) internal pure returns (uint256 element) {
        for (uint256 d = 0; d < dims.length; ++d) {
            element = element * dims[d] + index[d];
        }
    }

    /// @notice Where RESHAPE, PERMUTE, EXPAND, SLICE find an element of their result in their operand.
    function source(
        uint256 opcode,
        uint256[] memory from,
        uint256[] memory to,
        int256[] memory attributes,
        uint256 element
    ) internal pure returns (uint256) {
        if (opcode == 1) return element;
        uint256[] memory index = coordinates(to, element);
        uint256[] memory spot = new uint256[](from.length);
        for (uint256 d = 0; d < spot.length; ++d) {
            if (opcode == 2) spot[uint256(attributes[d])] = index[d];
            else if (opcode == 3) spot[d] = from[d] == 1 ? 0 : index[d];
            else spot[d] = int256(d) == attributes[0] ? uint256(attributes[1]) + index[d] * uint256(attributes[2]) : index[d];
        }
        return flat(from, spot);
    }

    /// @notice Where PAD finds an element of its result, or that it is filled.
    function padded(uint256[] memory from, uint256[] memory to, int256[] memory attributes, uint256 element)
        internal
        pure
        returns (bool inside, uint256 place)
    {
        uint256[] memory index = coordinates(to, element);
        for (uint256 d = 0; d < index.length; ++d) {
            uint256 low = uint256(attributes[1 + d]);
            if (index[d] < low || index[d] - low >= from[d]) return (false, 0);
            index[d] -= low;
        }
        return (true, flat(from, index));
    }

    /// @notice The product of the sizes from dimension `first` on.
    function product(uint256[] memory dims, uint256 first) internal pure returns (uint256 size) {
        size = 1;
        for (uint256 d = first; d < dims.length; ++d) {
            size *= dims[d];
        }
    }
}
