// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IBeacon} from "../interfaces/IBeacon.sol";

/// @title A beacon for tests: one value for every height that has been reached
/// @dev Warning: predictable. The value does not depend on the height, so that a run repeats seed for seed on a chain whose blocks
/// fall otherwise; the run itself mixes round and phase into what it reads.
contract ScriptedBeacon is IBeacon {
    bytes32 public immutable value;

    constructor(bytes32 seed) {
        value = keccak256(abi.encode("cupel scripted beacon", seed));
    }

    /// @inheritdoc IBeacon
    function valueAt(uint256 height) external view returns (bytes32, bool) {
        return (value, block.number >= height);
    }

    /// @inheritdoc IBeacon
    function record() external {}
}
