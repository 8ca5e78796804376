// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Every reason a court refuses something, with the numbers that disagree
library CourtErrorsLib {
    // Deployment
    error ParameterOutOfRange(string name, uint256 value, uint256 low, uint256 high);

    // Accusing
    error NotThisCourt(address run, address court);
    error NotAnnounced(bytes32 announcement);
    error AnnouncementNotRipe(uint256 announcedAt, uint256 height);
    error AnnouncementExpired(uint256 announcedAt, uint256 height);
    error NotContestable(address run, bytes32 subject);
    error SegmentOutOfRange(uint256 segment, uint256 segments);
    error BondTooSmall(uint256 sent, uint256 needed);

    // Turns
    error UnknownDispute(uint64 dispute);
    error WrongStage(uint64 dispute, uint8 stage, uint8 expected);
    error NotYourTurn(uint64 dispute, address sender, address expected);
    error TimeIsOut(uint64 dispute, uint256 height, uint256 until);
    error TimeRemains(uint64 dispute, uint256 height, uint256 until);
    error AlreadyConvicted(address run, bytes32 subject);
    error NotConvicted(address run, bytes32 subject);

    // Moves
    error NotInTree(uint256 index, bytes32 leaf, bytes32 root);
    error WrongLength(uint256 got, uint256 expected);
    error HashMismatch(bytes32 got, bytes32 expected);
    error StepOutOfRange(uint256 step, uint256 steps);
    error NodeOutOfRange(uint256 place, uint256 nodes);
    error NotTheLastStep(uint256 step, uint256 steps);
    error WrongItem(uint256 kind, uint256 expected);
    error UnknownVersion(uint256 version);
    error WrongName(bytes got, bytes expected);
    error NotAscending(bytes before, bytes name);
    error NotBetween(bytes name, bytes before, bytes after_);
    error NotTheBatch(uint256 value);
    error NotAnOperation(uint256 value);
    error SumsMiss(uint256 element);
    error NothingSummed(uint256 element);
    error OneBlock(uint256 first, uint256 end);
    error NotOneBlock(uint256 first, uint256 end);
    error WrongTotal(int256 got, int256 expected);
    error ElementOutOfRange(uint256 element, uint256 first, uint256 end);

    // Money
    error NothingToCollect(address account);
    error TransferFailed(address account, uint256 amount);
    error OnlyWhileConvicting(address sender);
}
