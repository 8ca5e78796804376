// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Everything the contracts announce
library EventsLib {
    event MinerJoined(address indexed miner, uint8 units, uint256 deposit, string endpoint);
    event VerifierStaked(address indexed verifier, uint256 deposit, string endpoint);
    event Leaving(address indexed account);
    event SeatFreed(address indexed account, uint256 exitAt);
    event Withdrawn(address indexed account, uint256 amount);

    event RoundOpened(uint64 indexed round, bytes32 stateRoot, uint256 miners, uint256 verifiers, uint256 seedHeight);
    event BeaconMissed(uint64 indexed round, uint256 missedHeight, uint256 nextHeight);
    event Seeded(uint64 indexed round, bytes32 seed, uint256 units, uint256 trainUntil);
    event Committed(
        uint64 indexed round,
        bytes32 indexed unitId,
        address indexed miner,
        uint8 index,
        bytes32 root,
        bytes32 contribution,
        uint8 codec,
        bytes32 digest
    );
    event Drawn(uint64 indexed round, bytes32 drawSeed, uint256 assignments, uint256 sealUntil);
    event Redrawn(uint64 indexed round, bytes32 seed, uint256 replaced, uint256 sealUntil);
    event Extended(uint64 indexed round, uint8 phase, uint256 until);
    event ReportedUnavailable(uint64 indexed round, bytes32 indexed unitId, address indexed juror);
    event Disclosed(uint64 indexed round, bytes32 indexed unitId, address indexed discloser, uint8 segment, uint256 prize);
    event Sealed(uint64 indexed round, bytes32 indexed unitId, address indexed verifier, bytes32 sealHash);
    event UnitOpened(uint64 indexed round, bytes32 indexed unitId, address indexed miner);
    event Revealed(uint64 indexed round, bytes32 indexed unitId, address indexed verifier, bytes32 answersHash);
    event Dissent(uint64 indexed round, bytes32 indexed unitId, address indexed verifier);
    event Judged(uint64 indexed round, bytes32 indexed unitId, address indexed miner, uint8 status);
    event Burned(uint64 indexed round, address indexed account, uint256 amount);
    event Held(uint64 indexed round, address indexed account, uint256 amount);
    event MergeProposed(
        uint64 indexed round,
        uint8 indexed candidate,
        address indexed proposer,
        bytes32 stateRoot,
        uint8 codec,
        bytes32 digest
    );
    event Acknowledged(uint64 indexed round, uint8 indexed candidate, address indexed juror);
    event RoundEnded(uint64 indexed round, bool merged, bytes32 nextStateRoot, uint256 endedAt);
    event Claimed(uint64 indexed round, address indexed account, uint256 tokens, uint256 bonds);

    event Presented(bytes32 indexed subject, uint64 indexed round, address indexed accused);
    event Convicted(uint64 indexed round, bytes32 indexed subject, address indexed accused, uint256 prize, uint256 burned);
    event Voided(uint64 indexed first, uint64 indexed last, bytes32 stateRoot);
    event Settled(uint64 rounds);

    event Recorded(uint256 indexed height, bytes32 value);
}
