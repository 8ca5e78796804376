// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ClaimKind, IDisputable, PostedClaim, Rules} from "../interfaces/IDisputable.sol";

/// @title The least that a court can judge: claims posted with a bond, withdrawn once nobody disputes them any more
/// @dev For tests of the court alone. It does what a run promises (`IDisputable`), without rounds.
contract Docket is IDisputable {
    struct Entry {
        PostedClaim claim;
        uint256 bond;
        uint256 until; // last block in which it may be disputed
        uint256 open;
        bool convicted;
        bytes32[] inputs;
    }

    address public immutable court;
    Rules private _rules;
    mapping(bytes32 subject => Entry) private _entries;
    uint256 public burned;

    error NotTheCourt(address sender);
    error NotContestable(bytes32 subject);
    error NotYours(bytes32 subject);
    error NotYet(bytes32 subject);

    constructor(address court_, Rules memory rules_) {
        court = court_;
        _rules = rules_;
    }

    modifier onlyCourt() {
        if (msg.sender != court) revert NotTheCourt(msg.sender);
        _;
    }

    function postUnit(bytes32 subject, bytes32 root, bytes32 seed, uint256 blocks) external payable {
        _post(subject, PostedClaim(ClaimKind.Unit, true, msg.sender, 0, root, seed), blocks);
    }

    function postMerge(bytes32 subject, bytes32 root, bytes32[] calldata inputs, uint256 blocks) external payable {
        _post(subject, PostedClaim(ClaimKind.Merge, true, msg.sender, 0, root, 0), blocks);
        _entries[subject].inputs = inputs;
    }

    function withdraw(bytes32 subject) external {
        Entry storage entry = _entries[subject];
        if (entry.claim.accused != msg.sender) revert NotYours(subject);
        if (block.number <= entry.until || entry.open != 0 || entry.convicted) revert NotYet(subject);
        uint256 amount = entry.bond;
        entry.bond = 0;
        (bool sent,) = msg.sender.call{value: amount}("");
        require(sent);
    }

    function openOf(bytes32 subject) external view returns (uint256) {
        return _entries[subject].open;
    }

    function bondOf(bytes32 subject) external view returns (uint256) {
        return _entries[subject].bond;
    }

    function claimRules() external view returns (Rules memory) {
        return _rules;
    }

    function claimOf(bytes32 subject) external view returns (PostedClaim memory claim) {
        Entry storage entry = _entries[subject];
        claim = entry.claim;
        claim.contestable = block.number <= entry.until && !entry.convicted;
    }

    function mergeInputs(bytes32 subject) external view returns (bytes32[] memory) {
        return _entries[subject].inputs;
    }

    function disputeOpened(bytes32 subject) external onlyCourt {
        Entry storage entry = _entries[subject];
        if (block.number > entry.until || entry.convicted) revert NotContestable(subject);
        ++entry.open;
    }

    function disputeClosed(bytes32 subject) external onlyCourt {
        --_entries[subject].open;
    }

    function convict(bytes32 subject, uint8) external onlyCourt returns (uint256 prizeWei) {
        Entry storage entry = _entries[subject];
        --entry.open;
        entry.convicted = true;
        prizeWei = entry.bond / 2;
        burned += entry.bond - prizeWei;
        entry.bond = 0;
        (bool sent,) = court.call{value: prizeWei}("");
        require(sent);
    }

    function _post(bytes32 subject, PostedClaim memory claim, uint256 blocks) private {
        Entry storage entry = _entries[subject];
        require(entry.claim.kind == ClaimKind.None && msg.value != 0);
        entry.claim = claim;
        entry.bond = msg.value;
        entry.until = block.number + blocks;
    }
}
