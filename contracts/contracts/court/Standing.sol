// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind} from "../../interfaces/IDisputable.sol";

/// @notice How many items of each kind a Program has.
struct Counts {
    uint32 inputs;
    uint32 constants;
    uint32 operations;
    uint32 outputs;
}

/// @notice What the moves of a dispute have come to, and the next is checked against. What can be shown again is kept as a hash.
struct Standing {
    address run;
    ClaimKind kind;
    uint8 segment;
    uint32 step; // of the segment; of a merge, the units it averages
    uint32 value; // chosen in the trace
    bytes32 subject;
    bytes32 startRoot; // state before the step; of a merge, keccak256 of the contributions
    bytes32 endRoot; // state after it
    bytes32 program;
    bytes32 trace;
    Counts counts;
    uint48 size; // bytes of the tensor that is being opened
    uint8 level; // of `node`
    uint64 index; // of `node` within its level
    bytes32 node; // what is opened next, or the hash of what a choice is made from
    bytes4 loss; // of the segment's last step
    bytes4 gradientNorm;
}
