// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Cid, IRun} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Rounds} from "./Rounds.sol";
import {Candidate, Entry, Member, Round} from "./Types.sol";

/// @title Agreeing on the state the next round starts from
abstract contract Merging is Rounds {
    /// @inheritdoc IRun
    function proposeMerge(bytes32 drawSeed, bytes32 stateRoot, Cid calldata cid) external returns (uint8 candidate) {
        _advance();
        (uint64 round, Round storage r) = _answering(drawSeed, Phase.Merge);
        Member storage member = members[msg.sender];
        if (member.role == Role.None) revert ErrorsLib.NotAMember(msg.sender);
        if (stateRoot == 0) revert ErrorsLib.EmptyRoot();
        _checkCodec(cid.codec);
        if (r.merged) revert ErrorsLib.AlreadyAccepted(r.accepted);
        if (_hasProposed[round][msg.sender]) revert ErrorsLib.OneCandidateEach(msg.sender);
        bytes32 identity = _identityOf(stateRoot, cid);
        uint8 standing = _candidateOf[round][identity];
        if (standing != 0) revert ErrorsLib.AlreadyProposed(stateRoot, standing - 1);

        _lock(member, MERGE_BOND);
        entries[round][msg.sender].bonds += MERGE_BOND;
        _hasProposed[round][msg.sender] = true;
        candidate = r.candidates++;
        _candidateOf[round][identity] = candidate + 1;
        candidates[round][candidate] = Candidate({
            proposer: msg.sender,
            codec: cid.codec,
            acknowledgements: 0,
            stateRoot: stateRoot,
            digest: cid.digest
        });

        emit EventsLib.MergeProposed(round, candidate, msg.sender, stateRoot, cid.codec, cid.digest);
    }

    /// @inheritdoc IRun
    function acknowledge(bytes32 drawSeed, uint8 candidate, bytes32 stateRoot, Cid calldata cid) external {
        _advance();
        (uint64 round, Round storage r) = _answering(drawSeed, Phase.Acknowledge);
        if (r.merged) revert ErrorsLib.AlreadyAccepted(r.accepted);
        Member storage member = members[msg.sender];
        bool isJuror = member.role == Role.Verifier && member.joinedRound <= round && r.jury >> member.seat & 1 == 1;
        if (!isJuror) revert ErrorsLib.NotAJuror(msg.sender);
        if (candidate >= r.candidates) revert ErrorsLib.UnknownCandidate(candidate, r.candidates);
        Candidate storage chosen = candidates[round][candidate];
        if (_candidateOf[round][_identityOf(stateRoot, cid)] != candidate + 1) {
            revert ErrorsLib.CandidateMismatch(candidate, chosen.stateRoot, chosen.codec, chosen.digest);
        }
        Entry storage entry = entries[round][msg.sender];
        if (entry.acknowledged != 0) revert ErrorsLib.AlreadyAcknowledged(msg.sender, entry.acknowledged - 1);

        entry.acknowledged = candidate + 1;
        ++r.acknowledged;
        if (uint256(++chosen.acknowledgements) * 2 > r.jurors) {
            r.merged = true;
            r.accepted = candidate;
        }
        // Decided, or nobody is left to decide.
        if (r.merged || r.acknowledged == r.jurors) _endPhaseHere(r);

        emit EventsLib.Acknowledged(round, candidate, msg.sender);
    }

    /// @dev A root alone would not do: proposed with a CID that nobody serves, it would keep the true one out.
    function _identityOf(bytes32 stateRoot, Cid calldata cid) private pure returns (bytes32) {
        return keccak256(abi.encode(stateRoot, cid));
    }
}
