// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRun} from "../../interfaces/IRun.sol";

// What a run stores. Every struct is static, so that a public mapping's getter and an interface that returns the struct
// have one encoding: the lens reads whole structs.

/// @dev `joinedRound` is the first round the member plays; `exitAt` the height `withdraw` opens at once out of the seat.
struct Member {
    uint96 deposit;
    uint96 locked;
    IRun.Role role;
    bool leaving;
    uint8 units;
    uint8 seat;
    uint8 silentRounds;
    // Second slot
    uint32 id;
    uint40 joinedRound;
    uint40 exitAt;
}

struct Seat {
    address account;
    uint32 id;
}

struct Round {
    IRun.Phase phase;
    bool merged;
    uint8 miners;
    uint8 verifiers;
    uint8 units;
    uint8 committed;
    uint8 opened;
    uint8 attested;
    uint8 jurors;
    uint8 candidates;
    uint8 accepted;
    uint8 acknowledged;
    uint16 assignments;
    uint16 seals;
    uint16 reveals;
    uint40 until;
    uint40 endedAt;
    // Further slots
    bytes32 seed;
    bytes32 drawSeed;
    uint64 jury; // bit per verifier seat
    uint40 judgedAt;
    uint8 stateCodec;
    bytes32 stateRoot;
    bytes32 stateDigest;
}

struct Unit {
    address miner;
    uint40 round;
    uint8 index;
    IRun.Status status;
    uint8 codec;
    bool opened;
    uint8 sealedMask;
    uint8 revealedMask;
    uint8 agreedMask;
    // Further slots
    bytes32 root;
    bytes32 contribution;
    bytes32 digest;
    uint256 verifierIds; // 32 bits each, from the lowest; 0 ends
}

struct Candidate {
    address proposer;
    uint8 codec;
    uint8 acknowledgements;
    bytes32 stateRoot;
    bytes32 digest;
}

/// @dev One account in one round, one slot: what it earned and what it has locked.
struct Entry {
    uint32 committedMask;
    uint8 attestedUnits;
    uint8 attestations;
    uint8 acknowledged; // candidate number + 1
    bool claimed;
    uint96 bonds; // free at maturity
    uint96 held; // free when the hold ends
}
