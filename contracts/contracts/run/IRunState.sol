// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Candidate, Entry, Member, Place, Round, Seat, Span, Subject, Unit} from "./Types.sol";

/// @title A run's storage, for the lens
interface IRunState {
    /// @notice With `played` filled in for the round that is played, too.
    function rounds(uint256 round) external view returns (Round memory);
    /// @notice Of the round that is played; places from `committed` on are what is left of earlier ones.
    function places(uint256 place) external view returns (Place memory);
    function units(bytes32 unitId) external view returns (Unit memory);
    function candidates(uint256 round, uint256 number) external view returns (Candidate memory);
    function entries(uint256 round, address account) external view returns (Entry memory);
    /// @notice Rounds that are final: all below this number.
    function settled() external view returns (uint64);
    /// @notice Void rounds, ascending and apart.
    function voids() external view returns (Span[] memory);
    function subjects(bytes32 subject) external view returns (Subject memory);
    function members(address account) external view returns (Member memory);
    function endpoints(address account) external view returns (string memory);
    function accountOf(uint256 id) external view returns (address);
    function minerSeats(uint256 seat) external view returns (Seat memory);
    function verifierSeats(uint256 seat) external view returns (Seat memory);
    function seatCounts() external view returns (uint256 miners, uint256 verifiers);
    function frozenUnits(uint256 seat) external view returns (uint8);
    function frozenSlots(uint256 seat) external view returns (uint16);
}
