// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRun} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {RewardLib} from "../libraries/RewardLib.sol";
import {Rounds} from "./Rounds.sol";
import {Candidate, Entry, Round} from "./Types.sol";

/// @title Rewards of final rounds and bonds that are free again
abstract contract Claims is Rounds {
    /// @inheritdoc IRun
    function claim(uint64[] calldata rounds_) external returns (uint256 tokens, uint256 bonds) {
        _advance();
        for (uint256 i = 0; i < rounds_.length; ++i) {
            (uint256 minted, uint256 freed) = _claim(rounds_[i]);
            tokens += minted;
            bonds += freed;
        }
        // Bonds that came free may be what a waiting round lacked.
        _advance();

        if (tokens != 0) TOKEN.mint(msg.sender, tokens);
    }

    function _claim(uint64 round) private returns (uint256 tokens, uint96 freed) {
        Round storage r = rounds[round];
        Entry storage entry = entries[round][msg.sender];
        tokens = rewardOf(round, msg.sender);
        bool isOwed = tokens != 0 || entry.bonds != 0;
        if (!isOwed && entry.held == 0) revert ErrorsLib.NothingToClaim(round, msg.sender);
        uint256 matureAt = uint256(r.endedAt) + MATURITY_BLOCKS;
        uint256 heldUntil = uint256(r.judgedAt) + HOLD_BLOCKS;
        bool isMature = isOwed && r.endedAt != 0 && block.number >= matureAt;
        bool isReleased = entry.held != 0 && block.number >= heldUntil;
        if (!isMature && !isReleased) {
            revert ErrorsLib.ClaimTooEarly(round, block.number, isOwed ? matureAt : heldUntil);
        }

        if (isMature) {
            freed = entry.bonds;
            entry.bonds = 0;
            entry.claimed = true;
        } else {
            tokens = 0;
        }
        if (isReleased) {
            freed += entry.held;
            entry.held = 0;
        }
        members[msg.sender].locked -= freed;

        emit EventsLib.Claimed(round, msg.sender, tokens, freed);
    }

    /// @inheritdoc IRun
    function rewardOf(uint64 round, address account) public view returns (uint256 reward) {
        Round storage r = rounds[round];
        Entry storage entry = entries[round][account];
        if (r.endedAt == 0 || entry.claimed) return 0;
        uint256 committed = r.committed;
        if (committed == 0) return 0;
        uint256 pool = RewardLib.pool(INITIAL_REWARD, HALVING_ROUNDS, round, committed, WORK_TARGET);
        uint256 verifiersPool = RewardLib.share(pool, VERIFIER_SHARE_BPS);
        reward = entry.attestations * (verifiersPool / (committed * VERIFIERS_PER_UNIT));
        if (!r.merged) return reward;

        uint256 mergePool = RewardLib.share(pool, MERGE_SHARE_BPS);
        reward += entry.attestedUnits * ((pool - verifiersPool - mergePool) / committed);
        Candidate storage chosen = candidates[round][r.accepted];
        if (chosen.proposer == account) reward += mergePool / 2;
        if (entry.acknowledged == r.accepted + 1) reward += mergePool / 2 / chosen.acknowledgements;
    }
}
