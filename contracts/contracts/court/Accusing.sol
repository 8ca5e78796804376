// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind, IDisputable, PostedClaim} from "../../interfaces/IDisputable.sol";
import {ICourt, Stage} from "../../interfaces/ICourt.sol";
import {CourtErrorsLib} from "../libraries/CourtErrorsLib.sol";
import {CourtEventsLib} from "../libraries/CourtEventsLib.sol";
import {Dispute, Disputes} from "./Disputes.sol";
import {Standing} from "./Standing.sol";

/// @title How a dispute begins
abstract contract Accusing is Disputes {
    uint256 private constant ANNOUNCEMENT_BLOCKS = 256;

    /// @inheritdoc ICourt
    function announce(bytes32 announcement) external {
        // Announcing again what still stands changes nothing: whoever repeats another's announcement neither harms nor helps it.
        uint256 height = announcedAt[announcement];
        if (height == 0 || block.number > height + ANNOUNCEMENT_BLOCKS) announcedAt[announcement] = height = block.number;
        emit CourtEventsLib.Announced(announcement, height + ANNOUNCEMENT_BLOCKS);
    }

    /// @inheritdoc ICourt
    function accuse(address run, bytes32 subject, uint8 segment, bytes32 salt)
        external
        payable
        nonReentrant
        returns (uint64 dispute)
    {
        uint256 gasBefore = gasleft();
        _takeAnnouncement(keccak256(abi.encode(block.chainid, address(this), run, subject, segment, msg.sender, salt)));
        address court = IDisputable(run).court();
        if (court != address(this)) revert CourtErrorsLib.NotThisCourt(run, court);
        PostedClaim memory claim = IDisputable(run).claimOf(subject);
        if (claim.kind == ClaimKind.None || !claim.contestable || isConvicted[run][subject]) {
            revert CourtErrorsLib.NotContestable(run, subject);
        }
        uint256 segments = claim.kind == ClaimKind.Unit ? IDisputable(run).claimRules().segments : 1;
        if (segment >= segments) revert CourtErrorsLib.SegmentOutOfRange(segment, segments);
        uint256 bond = bondFor(run, claim.accused);
        if (msg.value < bond) revert CourtErrorsLib.BondTooSmall(msg.value, bond);
        if (msg.value > bond) credit[msg.sender] += msg.value - bond;

        dispute = ++disputesCount;
        Dispute storage d = disputes[dispute];
        d.accused = claim.accused;
        d.since = uint40(block.number);
        d.challengerLeft = CLOCK_BLOCKS;
        d.challenger = msg.sender;
        d.bond = uint96(bond);
        Standing storage s = d.standing;
        s.run = run;
        s.kind = claim.kind;
        s.segment = segment;
        s.subject = subject;
        if (claim.kind == ClaimKind.Unit) {
            d.stage = Stage.Segment;
        } else {
            bytes32[] memory contributions = IDisputable(run).mergeInputs(subject);
            d.stage = Stage.Trace;
            s.step = uint32(contributions.length);
            s.startRoot = keccak256(abi.encodePacked(contributions));
            s.endRoot = claim.root;
        }
        _enter(dispute, d);
        emit CourtEventsLib.Accused(dispute, run, claim.accused, subject, segment, msg.sender, bond);
        _announceTurn(dispute, d);
        _noteCost(d, false, gasBefore);
        IDisputable(run).disputeOpened(subject);
    }

    /// @inheritdoc ICourt
    function bondFor(address run, address accused) public view returns (uint256 bond) {
        bond = BOND_FACTOR * DEFENCE_GAS * block.basefee;
        if (bond < MINIMUM_BOND) bond = MINIMUM_BOND;
        bond *= 1 + openAgainst[_accusedKey(run, accused)];
    }

    function _takeAnnouncement(bytes32 announcement) private {
        uint256 height = announcedAt[announcement];
        if (height == 0) revert CourtErrorsLib.NotAnnounced(announcement);
        if (block.number == height) revert CourtErrorsLib.AnnouncementNotRipe(height, block.number);
        if (block.number > height + ANNOUNCEMENT_BLOCKS) revert CourtErrorsLib.AnnouncementExpired(height, block.number);
        delete announcedAt[announcement];
    }

    /// @dev Last in the line of its segment, and one more against the accused, whose clock is longer the more there are.
    function _enter(uint64 dispute, Dispute storage d) private {
        bytes32 key = _accusedKey(d.standing.run, d.accused);
        uint256 open = openAgainst[key]++;
        if (open > MAX_PARALLEL) open = MAX_PARALLEL;
        d.accusedLeft = uint24(CLOCK_BLOCKS + open * GRACE_BLOCKS);
        key = _segmentKey(d.standing.run, d.standing.subject, d.standing.segment);
        uint64 last = _last[key];
        if (last == 0) _first[key] = dispute;
        else disputes[last].next = dispute;
        d.previous = last;
        _last[key] = dispute;
    }
}
