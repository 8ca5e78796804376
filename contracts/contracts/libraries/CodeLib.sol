// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ErrorsLib} from "./ErrorsLib.sol";

/// @title Constant data kept as the code of an account
library CodeLib {
    /// @notice Deploy an account whose code is a zero byte (so that a call to it stops) and `data`, of less than 24 KiB.
    function store(bytes memory data) internal returns (address account) {
        // PUSH2 size, DUP1, PUSH1 10, 0, CODECOPY, 0, RETURN: return whatever follows these ten bytes.
        bytes memory creation = abi.encodePacked(hex"61", uint16(data.length + 1), hex"80600a3d393df300", data);
        assembly ("memory-safe") {
            account := create(0, add(creation, 32), mload(creation))
        }
        if (account == address(0)) revert ErrorsLib.DeploymentFailed();
    }

    /// @notice What `store` was given; nothing of an account without code.
    function load(address account) internal view returns (bytes memory data) {
        uint256 size = account.code.length;
        if (size == 0) return data;
        data = new bytes(size - 1);
        assembly ("memory-safe") {
            extcodecopy(account, add(data, 32), 1, mload(data))
        }
    }
}
