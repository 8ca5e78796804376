// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Cid, IRunRounds} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Rounds} from "./Rounds.sol";
import {Candidate, Entry, Live, Member} from "./Types.sol";

/// @title Agreeing on the state the next round starts from
abstract contract Merging is Rounds {
    /// @inheritdoc IRunRounds
    function proposeMerge(bytes32 drawSeed, bytes32 stateRoot, Cid calldata cid) external returns (uint8 candidate) {
        _advance();
        uint64 round = _answering(drawSeed, Phase.Merge);
        Live storage live = _live;
        Member storage member = _members[msg.sender];
        if (member.role == Role.None) revert ErrorsLib.NotAMember(msg.sender);
        if (stateRoot == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(cid.codec);
        if (live.merged) revert ErrorsLib.AlreadyAccepted(live.accepted);
        Entry storage entry = _entries[round][msg.sender];
        if (entry.proposed != 0) revert ErrorsLib.OneCandidateEach(msg.sender);
        bytes32 identity = _identityOf(stateRoot, cid);
        uint8 standing = _candidateOf[round][identity];
        if (standing != 0) revert ErrorsLib.AlreadyProposed(stateRoot, standing - 1);

        _lock(member, MERGE_BOND);
        candidate = live.candidates++;
        entry.bonds += MERGE_BOND;
        entry.proposed = candidate + 1;
        _candidateOf[round][identity] = candidate + 1;
        _candidates[round][candidate] = Candidate({
            proposer: msg.sender,
            codec: cid.codec,
            acknowledgements: 0,
            isConvicted: false,
            stateRoot: stateRoot,
            digest: cid.digest
        });

        emit EventsLib.MergeProposed(round, candidate, msg.sender, stateRoot, cid.codec, cid.digest);
    }

    /// @inheritdoc IRunRounds
    function acknowledge(bytes32 drawSeed, uint8 candidate, bytes32 stateRoot, Cid calldata cid) external {
        _advance();
        uint64 round = _answering(drawSeed, Phase.Acknowledge, Phase.Merge); // candidates may still come
        Live storage live = _live;
        if (live.merged) revert ErrorsLib.AlreadyAccepted(live.accepted);
        if (!_isJuror(_members[msg.sender], round)) revert ErrorsLib.NotAJuror(msg.sender);
        if (candidate >= live.candidates) revert ErrorsLib.UnknownCandidate(candidate, live.candidates);
        Candidate storage chosen = _candidates[round][candidate];
        if (_candidateOf[round][_identityOf(stateRoot, cid)] != candidate + 1) {
            revert ErrorsLib.CandidateMismatch(candidate, chosen.stateRoot, chosen.codec, chosen.digest);
        }
        if (chosen.isConvicted) revert ErrorsLib.CandidateConvicted(candidate);
        Entry storage entry = _entries[round][msg.sender];
        if (entry.acknowledged != 0) revert ErrorsLib.AlreadyAcknowledged(msg.sender, entry.acknowledged - 1);

        entry.acknowledged = candidate + 1;
        ++live.acknowledged;
        if (uint256(++chosen.acknowledgements) * 2 > live.jurors) {
            live.merged = true;
            live.accepted = candidate;
        }
        // Decided, or nobody is left to decide.
        if (live.merged || live.acknowledged == live.jurors) _endPhaseHere();

        emit EventsLib.Acknowledged(round, candidate, msg.sender);
    }

    /// @dev A root alone would not do: proposed with a CID that nobody serves, it would keep the true one out.
    function _identityOf(bytes32 stateRoot, Cid calldata cid) private pure returns (bytes32) {
        return keccak256(abi.encode(stateRoot, cid));
    }
}
