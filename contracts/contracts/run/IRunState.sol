// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidate, Entry, Member, Round, Seat, Unit} from "./Types.sol";

/// @title The getters of a run's public storage, with whole structs for answers
/// @dev A getter returns a static struct's fields in order, which is the encoding of the struct itself.
interface IRunState {
    function parametersAt() external view returns (address);
    function currentRound() external view returns (uint64);
    function rewardOf(uint64 round, address account) external view returns (uint256);
    function rounds(uint256 round) external view returns (Round memory);
    function unitIds(uint256 round, uint256 place) external view returns (bytes32);
    function units(bytes32 unitId) external view returns (Unit memory);
    function candidates(uint256 round, uint256 number) external view returns (Candidate memory);
    function entries(uint256 round, address account) external view returns (Entry memory);
    function members(address account) external view returns (Member memory);
    function endpoints(address account) external view returns (string memory);
    function accountOf(uint256 id) external view returns (address);
    function minerSeats(uint256 seat) external view returns (Seat memory);
    function verifierSeats(uint256 seat) external view returns (Seat memory);
    function seatCounts() external view returns (uint256 miners, uint256 verifiers);
    function frozenUnits(uint256 seat) external view returns (uint8);
    function frozenSlots(uint256 seat) external view returns (uint16);
}
