// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunWork} from "../../interfaces/IRun.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {RewardLib} from "../libraries/RewardLib.sol";
import {RunStorage} from "./RunStorage.sol";
import {Entry, Live, Round} from "./Types.sol";

/// @title Which rounds are final, their rewards, and bonds that are free again
abstract contract Claims is IRunWork, RunStorage {
    uint256 private constant SETTLED_AT_ONCE = 16;

    function _claimAll(uint64[] calldata rounds_) internal returns (uint256 tokens, uint256 bonds) {
        for (uint256 i = 0; i < rounds_.length; ++i) {
            (uint256 minted, uint256 freed) = _claim(rounds_[i]);
            tokens += minted;
            bonds += freed;
        }
    }

    function _claim(uint64 round) private returns (uint256 tokens, uint96 freed) {
        Live storage played = _rounds[round].played;
        if (!played.isSettled) {
            _settle();
            if (!played.isSettled) revert ErrorsLib.NotSettled(round, _settled);
        }
        Entry storage entry = _entries[round][msg.sender];
        Entry memory earned = entry;
        tokens = _rewardOf(round, played, earned);
        freed = earned.bonds + earned.held;
        if (tokens == 0 && freed == 0) revert ErrorsLib.NothingToClaim(round, msg.sender);

        entry.claimed = true;
        entry.bonds = 0;
        entry.held = 0;
        entry.dissents = 0;
        uint96 lost = _lostByDissent(earned);
        freed -= lost;
        if (lost != 0) _burnLocked(round, msg.sender, lost);
        if (freed != 0) _members[msg.sender].locked -= freed;

        emit EventsLib.Claimed(round, msg.sender, tokens, freed);
    }

    /// @dev A slot stake for each dissent that nobody turned into a conviction: else accusing honest work would cost nothing. Where
    /// there is no court nobody can convict, and who was right cannot be known.
    function _lostByDissent(Entry memory entry) private view returns (uint96) {
        if (COURT == address(0)) return 0;
        uint256 lost = uint256(entry.dissents) * SLOT_STAKE;
        return lost < entry.held ? uint96(lost) : entry.held;
    }

    /// @dev In order, so that nothing is final that rests on something that is not.
    function _settle() internal returns (uint64 settled) {
        settled = _settled;
        uint256 end = settled + SETTLED_AT_ONCE;
        uint256 begin = settled;
        for (; settled < end; ++settled) {
            Round storage r = _rounds[settled];
            Live storage played = r.played;
            if (played.phase != Phase.Ended || block.number < uint256(played.until) + MATURITY_BLOCKS || r.disputes != 0) break;
            if (played.merged && _isVoid(settled)) played.merged = false;
            // A claim reads this word anyway.
            played.isSettled = true;
        }
        if (settled == begin) return settled;
        // More than once only where a claim of many rounds finds more than these due.
        // slither-disable-next-line costly-loop
        _settled = uint32(settled);
        emit EventsLib.Settled(settled);
    }

    /// @inheritdoc IRunWork
    function rewardOf(uint64 round, address account) external view returns (uint256 reward) {
        return _rewardOf(round, _rounds[round].played, _entries[round][account]);
    }

    function _rewardOf(uint64 round, Live memory played, Entry memory entry) private view returns (uint256 reward) {
        uint256 committed = played.committed;
        if (played.phase != Phase.Ended || entry.claimed || committed == 0) return 0;
        uint256 pool = RewardLib.pool(INITIAL_REWARD, HALVING_ROUNDS, round, committed, WORK_TARGET);
        uint256 verifiersPool = RewardLib.share(pool, VERIFIER_SHARE_BPS);
        // Weighed by segments: an attestation is k of them, and one of a whole unit n.
        uint256 more = uint256(SEGMENTS) - SEGMENTS_PER_VERIFIER;
        uint256 drawn = committed * VERIFIERS_PER_UNIT * SEGMENTS_PER_VERIFIER;
        drawn += DrawLib.wholeUnits(committed, REPLAY_BPS) * more;
        uint256 attested = uint256(entry.attestations) * SEGMENTS_PER_VERIFIER + entry.wholeAttestations * more;
        reward = verifiersPool * attested / drawn;
        if (!played.merged || (!played.isSettled && _isVoid(round))) return reward;

        uint256 mergePool = RewardLib.share(pool, MERGE_SHARE_BPS);
        uint256 accepted = uint256(played.accepted) + 1;
        // Each unit's, likewise.
        // slither-disable-next-line divide-before-multiply
        reward += entry.attestedUnits * ((pool - verifiersPool - mergePool) / committed);
        if (entry.proposed == accepted) reward += mergePool / 2;
        // A candidate is accepted, and acknowledged no more, with the first juror over the half.
        if (entry.acknowledged == accepted) reward += mergePool / 2 / (uint256(played.jurors) / 2 + 1);
    }
}
