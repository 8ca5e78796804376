// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Parameters} from "../interfaces/IRun.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {Membership} from "./run/Membership.sol";
import {Merging} from "./run/Merging.sol";
import {RunStorage} from "./run/RunStorage.sol";
import {State} from "./run/State.sol";

/// @title The half of a run's code that has no room in `Run`: seats, phases, merges
/// @dev It keeps nothing and owns nothing: a run calls it by DELEGATECALL, on the run's own storage, at an address that is in
/// the run's code for good. There is no selfdestruct and no delegatecall in it. Called by itself it refuses.
contract RunRules is Membership, Merging, State {
    /// @notice keccak256 of the ABI encoding of the parameters it was deployed for: a run with others does not take it.
    bytes32 public immutable parametersHash;

    constructor(Parameters memory p) RunStorage(p) {
        parametersHash = keccak256(abi.encode(p));
    }

    /// @notice Give up every round from `from` on, while a conviction is carried out.
    /// @dev The sender is the court's address in no other call: a court asks a run for nothing but `IDisputable`, of which this is no part.
    function abandon(uint64 from) external {
        if (msg.sender != COURT) revert ErrorsLib.NotTheCourt(msg.sender, COURT);
        _void(from);
    }
}
