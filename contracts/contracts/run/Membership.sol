// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import {IRunMembers} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Rounds} from "./Rounds.sol";
import {Member, Seat} from "./Types.sol";

/// @title Taking a seat, giving it up, and getting the deposit back
abstract contract Membership is IRunMembers, Rounds {
    /// @inheritdoc IRunMembers
    function joinMiner(uint8 units, string calldata endpoint) external payable {
        _advance();
        if (units == 0 || units > UNITS_PER_MINER) revert ErrorsLib.UnitsOutOfRange(units, UNITS_PER_MINER);
        Member storage member = _sit(Role.Miner, _minerSeats, MINER_SEATS, endpoint);
        uint256 needed = uint256(units) * UNIT_BOND;
        if (member.deposit < needed) revert ErrorsLib.DepositTooSmall(member.deposit, needed);
        member.units = units;
        member.silentRounds = 0;
        emit EventsLib.MinerJoined(msg.sender, units, member.deposit, endpoint);
        _advance();
    }

    /// @inheritdoc IRunMembers
    function stake(string calldata endpoint) external payable {
        _advance();
        Member storage member = _sit(Role.Verifier, _verifierSeats, VERIFIER_SEATS, endpoint);
        if (member.deposit < SLOT_STAKE) revert ErrorsLib.DepositTooSmall(member.deposit, SLOT_STAKE);
        emit EventsLib.VerifierStaked(msg.sender, member.deposit, endpoint);
        _advance();
    }

    /// @inheritdoc IRunMembers
    function retire() external {
        _advance();
        Member storage member = _members[msg.sender];
        if (member.role == Role.None) revert ErrorsLib.NotAMember(msg.sender);
        if (member.leaving) revert ErrorsLib.AlreadyLeaving(msg.sender);
        member.leaving = true;
        emit EventsLib.Leaving(msg.sender);
        // Between rounds the seat is free at once.
        _advance();
    }

    /// @inheritdoc IRunMembers
    function withdraw() external returns (uint256 amount) {
        _advance();
        Member storage member = _members[msg.sender];
        if (member.role != Role.None) revert ErrorsLib.StillSeated(msg.sender);
        if (block.number < member.exitAt) revert ErrorsLib.WithdrawalTooEarly(block.number, member.exitAt);
        amount = _free(member);
        if (amount == 0) revert ErrorsLib.NothingToWithdraw(msg.sender, member.locked);
        member.deposit = member.locked;

        emit EventsLib.Withdrawn(msg.sender, amount);

        // Last, because the receiver may call back: by now the deposit is gone from the books.
        (bool sent,) = msg.sender.call{value: amount}("");
        if (!sent) revert ErrorsLib.TransferFailed(msg.sender, amount);
    }

    /// @dev Book the deposit and give the sender a seat, or keep the one it has.
    function _sit(Role role, Seat[] storage seats, uint256 maximum, string calldata endpoint)
        private
        returns (Member storage member)
    {
        if (bytes(endpoint).length > MAX_ENDPOINT_BYTES) {
            revert ErrorsLib.EndpointTooLong(bytes(endpoint).length, MAX_ENDPOINT_BYTES);
        }
        member = _members[msg.sender];
        if (member.role == Role.None) {
            if (seats.length >= maximum) revert ErrorsLib.SeatsTaken(maximum);
            if (member.id == 0) {
                member.id = ++_lastId;
                _accountOf[member.id] = msg.sender;
            }
            member.role = role;
            member.seat = uint8(seats.length);
            // A round that has not frozen its members yet still takes this one.
            member.joinedRound = uint40(_live.phase == Phase.Waiting ? _live.round : _live.round + 1);
            seats.push(Seat({account: msg.sender, id: member.id}));
        } else if (member.role != role) {
            revert ErrorsLib.AlreadyMember(msg.sender, uint8(member.role));
        }
        member.leaving = false;
        member.deposit += SafeCast.toUint96(msg.value);
        _endpoints[msg.sender] = endpoint;
    }
}
