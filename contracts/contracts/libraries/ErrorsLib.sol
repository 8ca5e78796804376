// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Every reason the contracts refuse something, with the numbers that disagree
library ErrorsLib {
    // Deployment
    error ParameterOutOfRange(string name, uint256 value, uint256 low, uint256 high);
    error DeploymentFailed();
    error UnknownCodec(uint8 codec);
    error OtherParameters(bytes32 found, bytes32 expected);
    error NotARun(address code);
    error NoPlainTransfers();

    // Membership
    error NotAMember(address account);
    error AlreadyMember(address account, uint8 role);
    error AlreadyLeaving(address account);
    error SeatsTaken(uint256 seats);
    error UnitsOutOfRange(uint256 units, uint256 maximum);
    error DepositTooSmall(uint256 deposit, uint256 needed);
    error EndpointTooLong(uint256 length, uint256 maximum);
    error StillSeated(address account);
    error WithdrawalTooEarly(uint256 height, uint256 exitAt);
    error NothingToWithdraw(address account, uint256 locked);
    error TransferFailed(address account, uint256 amount);
    error NotEnoughFree(uint256 free, uint256 needed);

    // Rounds
    error WrongRound(uint64 round, uint64 current);
    error WrongSeed(bytes32 given, bytes32 expected);
    error WrongPhase(uint8 phase, uint8 expected);
    error UnknownRound(uint64 round, uint64 current);
    error NoMoreExtensions(uint8 extensions);
    error TooEarlyToExtend(uint256 height, uint256 from);
    error FeesAreUsual(uint256 baseFee, uint256 above);

    // Units
    error IndexNotDrawn(uint8 index, uint8 drawn);
    error AlreadyCommitted(bytes32 unitId);
    error EmptyRoot();
    error UnknownUnit(bytes32 unitId);
    error NotAssigned(bytes32 unitId, address verifier);
    error AlreadySealed(bytes32 unitId, address verifier);
    error EmptySeal(bytes32 unitId);
    error NotSealed(bytes32 unitId, address verifier);
    error AlreadyRevealed(bytes32 unitId, address verifier);
    error SealMismatch(bytes32 unitId, bytes32 posted, bytes32 revealed);
    error AnswersMismatch(bytes32 unitId, uint256 got, uint256 expected);
    error LengthsDiffer(uint256 first, uint256 second);
    error AlreadyOpened(bytes32 unitId);
    error SegmentsNotAscending(uint8 segment, uint8 previous);
    error SegmentOutOfRange(uint8 segment, uint8 segments);
    error SegmentNotOpened(uint8 segment);
    error CommitmentMismatch(bytes32 unitId, bytes27 committed, bytes27 given);
    error LeavesNotInTree(bytes32 found, bytes32 root);
    error AlreadyReported(bytes32 unitId, address juror);
    error ContributionMismatch(bytes32 contribution, bytes32 endRoot);

    // Merge
    error AlreadyProposed(bytes32 stateRoot, uint8 candidate);
    error OneCandidateEach(address proposer);
    error UnknownCandidate(uint8 candidate, uint8 candidates);
    error CandidateMismatch(uint8 candidate, bytes32 stateRoot, uint8 codec, bytes32 digest);
    error NotAJuror(address account);
    error AlreadyAcknowledged(address juror, uint8 candidate);
    error AlreadyAccepted(uint8 candidate);

    // Claims
    error NothingToClaim(uint64 round, address account);
    error NotSettled(uint64 round, uint64 settled);

    // Disputes
    error NotTheCourt(address sender, address court);
    error UnknownSubject(bytes32 subject);
    error NotContestable(bytes32 subject);
    error NotTheMergeSet(uint64 round, uint256 place);
    error CandidateConvicted(uint8 candidate);

    // Token and beacon
    error NotTheRun(address caller, address run);
    error HeaderMismatch(uint256 height, bytes32 expected, bytes32 got);
    error HeightOutOfReach(uint256 height, uint256 current);
}
