// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind} from "../../interfaces/IDisputable.sol";
import {IRunTypes} from "../../interfaces/IRun.sol";

// What a run stores. Every struct is static, so that a public mapping's getter and an interface that returns the struct
// have one encoding: the lens reads whole structs.

/// @dev `joinedRound` is the first round the member plays; `exitAt` the height `withdraw` opens at once out of the seat.
struct Member {
    uint96 deposit;
    uint96 locked;
    IRunTypes.Role role;
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

/// @dev The round that is played, one slot in a place of its own: every action reads it and most write it. What an ended
/// round leaves of it is kept in its `Round`, with `until` as the height it ended at.
struct Live {
    uint32 round;
    IRunTypes.Phase phase;
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
    uint8 attempt; // 1 once missing seals are drawn anew
    uint8 extensions; // of this phase's clock
    uint40 until;
    bool isSettled; // of an ended round
}

struct Round {
    Live played; // empty until the round has ended
    bytes32 seed;
    bytes32 drawSeed;
    uint64 jury; // bit per verifier seat
    uint40 judgedAt;
    uint40 seededAt;
    uint40 drawnAt;
    uint48 baseFee; // wei per gas: what this round takes for usual
    uint16 disputes; // open about its units and candidates
    uint8 stateCodec;
    bytes32 stateRoot;
    bytes32 stateDigest;
    bytes32 mergeLast; // where more units were attested than are merged: the last id of the merge set
}

/// @dev Rounds from `from` to `to` rest on something false.
struct Span {
    uint32 from;
    uint32 to;
}

/// @dev Something put before the court. `isMerged`: a unit that is in the merge set. `root`: as posted. `inputs`, of a candidate: an
/// account whose code is a zero byte and the contributions of the merge set.
struct Subject {
    ClaimKind kind;
    bool isMerged;
    bool isConvicted;
    uint8 number; // index of a unit, or candidate
    uint16 disputes;
    uint32 round;
    address accused;
    bytes32 root;
    address inputs;
}

/// @dev A unit of the round that is played, by its place: the order of the commits.
struct Place {
    address miner;
    uint8 index;
    uint64 reports; // bit per juror's seat: its data is not to be had
}

/// @dev Round, miner and index are in the unit's id, which is its key. `commitment` is keccak256(abi.encode(root,
/// contribution, cid)) without its last five bytes: what was committed is in the event and comes again with `open`.
struct Unit {
    bytes27 commitment;
    uint8 place;
    IRunTypes.Status status;
    uint8 sealedMask;
    uint8 revealedMask;
    uint8 agreedMask;
    // Second slot
    uint256 verifierIds; // 32 bits each, from the lowest; 0 ends
}

struct Candidate {
    address proposer;
    uint8 codec;
    uint8 acknowledgements;
    bool isConvicted;
    bytes32 stateRoot;
    bytes32 digest;
}

/// @dev One account in one round, one slot: what it earned and what it has locked.
struct Entry {
    uint8 committedUnits; // known from the draw on
    uint8 attestedUnits;
    uint8 attestations;
    uint8 wholeAttestations; // of these, of units replayed whole
    uint8 dissents; // about disputed units; a conviction takes them back
    uint8 acknowledged; // candidate number + 1
    uint8 proposed; // candidate number + 1
    bool claimed;
    uint96 bonds; // free once the round is settled
    uint96 held; // likewise, but for a slot stake per dissent
}
