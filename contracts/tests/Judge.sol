// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputable} from "../interfaces/IDisputable.sol";
import {Cid, Parameters} from "../interfaces/IRun.sol";

uint256 constant SEGMENTS = 3;
uint256 constant UNIT_BOND = 1 ether;
uint256 constant SLOT_STAKE = 2 ether;
uint256 constant MERGED = 2;
uint256 constant WINDOW = 30;
uint256 constant LONGEST = 20;
uint256 constant MATURITY = 50;

/// @dev A small run with everything in it: more units than are merged, more verifiers than a unit has, whole replays.
function makeParameters(address beacon, address court) pure returns (Parameters memory p) {
    p.programsRoot = keccak256("programs");
    p.dataRoot = keccak256("data");
    (p.shards, p.shardTokens) = (3, 3000);
    p.genesisRoot = keccak256("genesis");
    p.genesis = Cid(0x70, keccak256("genesis cid"));
    p.manifest = Cid(0x70, keccak256("manifest"));
    p.segments = uint8(SEGMENTS);
    p.segmentSteps = 10;
    p.maxUnitsPerMiner = 3;
    p.maxUnits = 4;
    p.maxMerge = uint8(MERGED);
    (p.minMiners, p.maxMiners, p.minVerifiers, p.maxVerifiers) = (1, 3, 1, 4);
    (p.verifiersPerUnit, p.segmentsPerVerifier, p.quorum, p.juryTarget) = (2, 2, 1, 3);
    p.replayBps = 2000;
    (p.unitBond, p.slotStake) = (uint96(UNIT_BOND), uint96(SLOT_STAKE));
    (p.unavailableFee, p.sealFee, p.mergeBond) = (0.4 ether, 0.1 ether, 0.3 ether);
    (p.beaconDelay, p.trainBlocks, p.sealBlocks, p.openBlocks) = (2, 4, 4, 4);
    (p.mergeBlocks, p.acknowledgeBlocks, p.exitBlocks) = (4, 6, uint32(MATURITY));
    (p.maturityBlocks, p.windowBlocks) = (uint32(MATURITY), uint32(WINDOW));
    (p.initialReward, p.halvingRounds, p.workTarget) = (1e24, 2, 2);
    (p.verifierShareBps, p.mergeShareBps) = (2000, 500);
    p.beacon = beacon;
    p.court = court;
}

/// @dev A court as bad as one could be: it opens, closes and convicts whatever it is told to, true or false. All it keeps to is how long a
/// dispute may take.
contract Judge {
    function longestDispute() external pure returns (uint256) {
        return LONGEST;
    }

    function begin(IDisputable run, bytes32 subject) external {
        run.disputeOpened(subject);
    }

    function end(IDisputable run, bytes32 subject) external {
        run.disputeClosed(subject);
    }

    function convict(IDisputable run, bytes32 subject, uint8 segment) external returns (uint256 prize) {
        uint256 before = address(this).balance;
        run.convict(subject, segment);
        prize = address(this).balance - before;
    }

    receive() external payable {}
}
