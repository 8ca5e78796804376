// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunState} from "./IRunState.sol";
import {RunStorage} from "./RunStorage.sol";
import {Candidate, Entry, Member, Place, Round, Seat, Span, Subject, Unit} from "./Types.sol";

/// @title What a run remembers, word for word
abstract contract State is IRunState, RunStorage {
    function rounds(uint256 round) external view returns (Round memory r) {
        r = _rounds[round];
        if (round == _live.round) r.played = _live;
    }

    function places(uint256 place) external view returns (Place memory) {
        return _places[place];
    }

    function units(bytes32 unitId) external view returns (Unit memory) {
        return _units[unitId];
    }

    function candidates(uint256 round, uint256 number) external view returns (Candidate memory) {
        return _candidates[round][number];
    }

    function entries(uint256 round, address account) external view returns (Entry memory) {
        return _entries[round][account];
    }

    function settled() external view returns (uint64) {
        return _settled;
    }

    function voids() external view returns (Span[] memory) {
        return _voids;
    }

    function subjects(bytes32 subject) external view returns (Subject memory) {
        return _subjects[subject];
    }

    function members(address account) external view returns (Member memory) {
        return _members[account];
    }

    function endpoints(address account) external view returns (string memory) {
        return _endpoints[account];
    }

    function accountOf(uint256 id) external view returns (address) {
        return _accountOf[id];
    }

    function minerSeats(uint256 seat) external view returns (Seat memory) {
        return _minerSeats[seat];
    }

    function verifierSeats(uint256 seat) external view returns (Seat memory) {
        return _verifierSeats[seat];
    }

    function seatCounts() external view returns (uint256 miners, uint256 verifiers) {
        return (_minerSeats.length, _verifierSeats.length);
    }

    function frozenUnits(uint256 seat) external view returns (uint8) {
        return _frozenUnits[seat];
    }

    function frozenSlots(uint256 seat) external view returns (uint16) {
        return _frozenSlots[seat];
    }
}
