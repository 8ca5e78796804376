// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunRounds} from "../../interfaces/IRun.sol";
import {DrawLib} from "../libraries/DrawLib.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {RunStorage} from "./RunStorage.sol";
import {Candidate, Entry, Live, Member, Place, Round, Seat, Span, Unit} from "./Types.sol";

/// @title The phases of a round and what moves them
/// @dev A phase whose actions are over is left in the next transaction, whoever sends it: `until` decides, not the sender.
abstract contract Rounds is IRunRounds, RunStorage {
    /// @dev This code's own address: called there, and not by a run, it has no run to act on.
    address private immutable _SELF = address(this);

    /// @inheritdoc IRunRounds
    function advance() external returns (bool moved) {
        moved = _advance();
        uint256 amount = _burnOwed;
        if (amount == 0) return moved;
        _burnOwed = 0;
        // Last, and to an address nobody has a key of. Should it refuse, the wei stays owed and locked here.
        (bool sent,) = BURN_ADDRESS.call{value: amount}("");
        // Nobody has a key of that address, and no code is there to call back.
        // slither-disable-next-line reentrancy-eth,reentrancy-no-eth
        if (!sent) _burnOwed += amount;
    }

    /// @inheritdoc IRunRounds
    function currentRound() external view returns (uint64) {
        return _live.round;
    }

    /// @inheritdoc IRunRounds
    function burnOwed() external view returns (uint256) {
        return _burnOwed;
    }

    /// @dev Bounded: Seed and Draw restart the clock from this block, so that no more than one round's worth of phases can be due.
    function _advance() internal returns (bool moved) {
        if (address(this) == _SELF) revert ErrorsLib.NotARun(_SELF);
        while (_step()) moved = true;
    }

    function _step() private returns (bool) {
        Live storage live = _live;
        uint64 round = live.round;
        Round storage r = _rounds[round];
        Phase phase = live.phase;
        if (phase == Phase.Waiting) return _tryToOpen(block.number);
        if (phase == Phase.Seed) return _seed(round, r);
        if (phase == Phase.Draw) return _draw(round, r);
        uint40 until = live.until;
        if (block.number <= until) return false;
        live.extensions = 0;
        if (phase == Phase.Train) {
            if (live.committed == 0) return _end(round, r, until);
            live.phase = Phase.Draw;
            live.until = until + BEACON_DELAY;
        } else if (phase == Phase.Seal && _canReplace(live)) {
            _fineMissingSeals(round, live.committed);
            live.attempt = 1;
            live.phase = Phase.Draw;
            live.until = until + BEACON_DELAY;
        } else if (phase == Phase.Seal) {
            live.phase = Phase.Open;
            live.until = until + OPEN_BLOCKS;
        } else if (phase == Phase.Open) {
            _judge(round, r, until);
            if (live.attested == 0) return _end(round, r, until);
            live.phase = Phase.Merge;
            live.until = until + MERGE_BLOCKS;
        } else if (phase == Phase.Merge && !live.merged && live.candidates != 0 && live.acknowledged != live.jurors) {
            live.phase = Phase.Acknowledge;
            live.until = until + ACKNOWLEDGE_BLOCKS;
        } else {
            return _end(round, r, until);
        }
        return true;
    }

    // ---------------------------------------------------------------- Waiting: who plays is frozen

    /// @dev Freeze members, units and slots, if enough are there. `height` is when the last round ended, or now.
    function _tryToOpen(uint256 height) internal returns (bool) {
        uint64 round = _live.round;
        _sweep(round, _minerSeats);
        _sweep(round, _verifierSeats);
        uint256 miners = _minerSeats.length;
        uint256 verifiers = _verifierSeats.length;
        if (miners < LEAST_MINERS || verifiers < LEAST_VERIFIERS) return false;

        uint256 active = 0;
        for (uint256 i = 0; i < miners; ++i) {
            Member storage member = _members[_minerSeats[i].account];
            uint256 covered = _free(member) / UNIT_BOND;
            uint8 units = covered < member.units ? uint8(covered) : member.units;
            _frozenUnits[i] = units;
            if (units != 0) ++active;
        }
        if (active < LEAST_MINERS) return false;
        active = 0;
        for (uint256 i = 0; i < verifiers; ++i) {
            uint256 slots = _free(_members[_verifierSeats[i].account]) / SLOT_STAKE;
            _frozenSlots[i] = slots > type(uint16).max ? type(uint16).max : uint16(slots);
            if (slots != 0) ++active;
        }
        if (active < LEAST_VERIFIERS) return false;

        Live storage live = _live;
        live.phase = Phase.Seed;
        live.miners = uint8(miners);
        live.verifiers = uint8(verifiers);
        live.until = uint40(height + BEACON_DELAY);
        emit EventsLib.RoundOpened(round, _rounds[round].stateRoot, miners, verifiers, height + BEACON_DELAY);
        return true;
    }

    /// @dev Free the seats of members that leave or whose deposit no longer covers one unit or slot.
    function _sweep(uint64 round, Seat[] storage seats) private {
        uint256 i = 0;
        while (i < seats.length) {
            address account = seats[i].account;
            Member storage member = _members[account];
            uint96 needed = member.role == Role.Miner ? UNIT_BOND : SLOT_STAKE;
            if (!member.leaving && member.deposit >= needed) {
                ++i;
                continue;
            }
            // Never earlier than what an earlier seat owes: else sitting down for a moment would cut the delay short.
            uint256 exitAt = member.exitAt;
            // After the block in which the longest dispute about the last round served may end, whoever is first in that block.
            if (member.joinedRound < round) exitAt = uint256(_rounds[round - 1].played.until) + EXIT_BLOCKS + 1;
            member.role = Role.None;
            member.leaving = false;
            member.silentRounds = 0;
            member.exitAt = uint40(exitAt);
            uint256 last = seats.length - 1;
            if (i != last) {
                seats[i] = seats[last];
                _members[seats[i].account].seat = uint8(i);
            }
            seats.pop();
            emit EventsLib.SeatFreed(account, exitAt);
        }
    }

    // ---------------------------------------------------------------- Seed and Draw: the beacon

    /// @dev The awaited value, mixed with round and kind so that one word never serves twice, and with the state the round
    /// starts from so that a fork with another state has other seeds, though its beacon may say the same. A value missed for good moves
    /// the awaited height on by multiples of BEACON_WINDOW, to the only one of them that can still be proved.
    function _beaconValue(uint64 round, Round storage r, uint256 kind) private returns (bytes32 mixed, bool known) {
        uint256 height = _live.until;
        if (block.number < height) return (0, false);
        bytes32 value;
        (value, known) = _recordedValue(height);
        if (!known && block.number > height + BEACON_WINDOW) {
            // Whole windows.
            // slither-disable-next-line divide-before-multiply
            uint256 next = height + (block.number - height - 1) / BEACON_WINDOW * BEACON_WINDOW;
            _live.until = uint40(next);
            emit EventsLib.BeaconMissed(round, height, next);
            (value, known) = _recordedValue(next);
        }
        mixed = keccak256(abi.encode(value, round, kind, r.stateRoot));
    }

    function _recordedValue(uint256 height) private returns (bytes32 value, bool known) {
        // The beacon is named at deployment, for good, and calls nobody; a run is worth what its beacon is worth. At most a round's phases.
        // slither-disable-next-line calls-loop,reentrancy-no-eth,reentrancy-eth,reentrancy-benign,reentrancy-events
        if (block.number == height) BEACON.record();
        // Likewise.
        // slither-disable-next-line calls-loop
        return BEACON.valueAt(height);
    }

    function _seed(uint64 round, Round storage r) private returns (bool) {
        (bytes32 seed, bool known) = _beaconValue(round, r, 0);
        if (!known) return false;
        Live storage live = _live;
        uint256 drawn = _drawUnits(seed, live.miners);
        uint256 until = block.number + TRAIN_BLOCKS;
        r.seed = seed;
        r.seededAt = uint40(block.number);
        r.baseFee = _usualFee(round);
        live.units = uint8(drawn);
        live.phase = Phase.Train;
        live.until = uint40(until);
        emit EventsLib.Seeded(round, seed, drawn, until);
        return true;
    }

    /// @dev What it was, moved an eighth of the way to what it is.
    function _usualFee(uint64 round) private view returns (uint48) {
        uint256 before = round == 0 ? 0 : _rounds[round - 1].baseFee;
        uint256 usual = before == 0 ? block.basefee : (7 * before + block.basefee) / 8;
        return usual > type(uint48).max ? type(uint48).max : uint48(usual);
    }

    /// @dev More units than the round takes: drawn by lot. A miner's drawn units are its first indices.
    function _drawUnits(bytes32 seed, uint256 miners) private returns (uint256 total) {
        uint256[] memory asked = new uint256[](miners);
        for (uint256 i = 0; i < miners; ++i) {
            asked[i] = _frozenUnits[i];
            total += asked[i];
        }
        if (total <= UNITS) return total;
        uint256[] memory drawn = DrawLib.lot(seed, asked, total, UNITS);
        for (uint256 i = 0; i < miners; ++i) _frozenUnits[i] = uint8(drawn[i]);
        return UNITS;
    }

    function _draw(uint64 round, Round storage r) private returns (bool) {
        if (_live.attempt != 0) return _drawAgain(round, r);
        (bytes32 seed, bool known) = _beaconValue(round, r, 1);
        if (!known) return false;
        Live storage live = _live;
        uint256[] memory slots = _slots();
        uint256 assignments = _drawVerifiers(round, seed, slots, live.committed);
        uint256[] memory jurors = DrawLib.weighted(seed, DrawLib.JURY, slots, JURY_TARGET);
        uint256 jury = 0;
        for (uint256 j = 0; j < jurors.length; ++j) jury |= 1 << jurors[j];
        uint256 until = block.number + SEAL_BLOCKS;

        r.drawSeed = seed;
        r.jury = uint64(jury);
        r.drawnAt = uint40(block.number);
        live.assignments = uint16(assignments);
        live.jurors = uint8(jurors.length);
        live.phase = Phase.Seal;
        live.until = uint40(until);
        emit EventsLib.Drawn(round, seed, assignments, until);
        return true;
    }

    /// @dev Each unit's verifiers; and, of each miner, the bonds its commits have locked, once and not with every commit.
    function _drawVerifiers(uint64 round, bytes32 seed, uint256[] memory slots, uint256 committed)
        private
        returns (uint256 assignments)
    {
        for (uint256 place = 0; place < committed; ++place) {
            (bytes32 unitId, address miner) = _unitAt(round, place);
            Entry storage entry = _entries[round][miner];
            ++entry.committedUnits;
            // What was disclosed has no bond left, and needs nobody to look at it.
            if (_units[unitId].status != Status.Committed) continue;
            entry.bonds += UNIT_BOND;
            uint256[] memory seats = DrawLib.weighted(seed, unitId, slots, VERIFIERS_PER_UNIT);
            uint256 ids = 0;
            for (uint256 v = 0; v < seats.length; ++v) ids |= uint256(_verifierSeats[seats[v]].id) << (32 * v);
            _units[unitId].verifierIds = ids;
            assignments += seats.length;
        }
    }

    function _slots() private view returns (uint256[] memory slots) {
        slots = new uint256[](_live.verifiers);
        for (uint256 i = 0; i < slots.length; ++i) slots[i] = _frozenSlots[i];
    }

    // ---------------------------------------------------------------- Seal: missing ones are drawn anew, once

    function _canReplace(Live storage live) private view returns (bool) {
        if (live.attempt != 0 || live.seals == live.assignments) return false;
        uint256[] memory slots = _slots();
        uint256 drawable = 0;
        for (uint256 i = 0; i < slots.length; ++i) if (slots[i] != 0) ++drawable;
        return drawable > VERIFIERS_PER_UNIT;
    }

    function _fineMissingSeals(uint64 round, uint256 committed) private {
        for (uint256 place = 0; place < committed; ++place) {
            (bytes32 unitId,) = _unitAt(round, place);
            Unit storage unit = _units[unitId];
            if (unit.status != Status.Committed) continue;
            uint256 sealedMask = unit.sealedMask;
            uint256 ids = unit.verifierIds;
            for (uint256 v = 0; ids >> (32 * v) != 0; ++v) {
                if (sealedMask >> v & 1 == 0) _burnFree(round, _accountOf[uint32(ids >> (32 * v))], SEAL_FEE);
            }
        }
    }

    /// @dev Whom nobody can replace keeps its place, and may seal yet.
    function _drawAgain(uint64 round, Round storage r) private returns (bool) {
        (bytes32 seed, bool known) = _beaconValue(round, r, 2);
        if (!known) return false;
        Live storage live = _live;
        uint256[] memory slots = _slots();
        uint256 replaced = 0;
        for (uint256 place = 0; place < live.committed; ++place) {
            (bytes32 unitId,) = _unitAt(round, place);
            replaced += _replaceVerifiers(seed, unitId, slots);
        }
        uint256 until = block.number + SEAL_BLOCKS;
        live.phase = Phase.Seal;
        live.until = uint40(until);
        emit EventsLib.Redrawn(round, seed, replaced, until);
        return true;
    }

    /// @param slots As they were on return.
    function _replaceVerifiers(bytes32 seed, bytes32 unitId, uint256[] memory slots) private returns (uint256 replaced) {
        Unit storage unit = _units[unitId];
        uint256 ids = unit.verifierIds;
        uint256 sealedMask = unit.sealedMask;
        uint256 missing = 0;
        for (uint256 v = 0; ids >> (32 * v) != 0; ++v) missing += ~sealedMask >> v & 1;
        if (missing == 0 || unit.status != Status.Committed) return 0;
        // Whom the unit has already is not drawn; seats keep their places while a round lasts.
        for (uint256 v = 0; ids >> (32 * v) != 0; ++v) slots[_seatOf(ids, v)] = 0;
        uint256[] memory seats = DrawLib.weighted(seed, unitId, slots, missing);
        for (uint256 v = 0; ids >> (32 * v) != 0; ++v) slots[_seatOf(ids, v)] = _frozenSlots[_seatOf(ids, v)];
        for (uint256 v = 0; replaced < seats.length; ++v) {
            if (sealedMask >> v & 1 == 1) continue;
            uint256 id = _verifierSeats[seats[replaced++]].id;
            ids = ids & ~(uint256(type(uint32).max) << (32 * v)) | id << (32 * v);
        }
        unit.verifierIds = ids;
    }

    function _seatOf(uint256 ids, uint256 v) private view returns (uint256) {
        return _members[_accountOf[uint32(ids >> (32 * v))]].seat;
    }

    function _unitAt(uint64 round, uint256 number) private view returns (bytes32 unitId, address miner) {
        Place storage place = _places[number];
        miner = place.miner;
        unitId = _unitIdOf(round, miner, place.index);
    }

    // ---------------------------------------------------------------- Open: judgement

    function _judge(uint64 round, Round storage r, uint40 height) private {
        uint256 committed = _live.committed;
        uint8 attested = 0;
        bytes32[] memory ids = new bytes32[](committed);
        r.judgedAt = height;
        for (uint256 place = 0; place < committed; ++place) {
            (bytes32 unitId, address miner) = _unitAt(round, place);
            bool isWhole = DrawLib.isWhole(r.drawSeed, place, committed, REPLAY_BPS);
            Status status = _judgeUnit(round, unitId, miner, isWhole);
            if (status == Status.Attested) ids[attested++] = unitId;
        }
        _live.attested = attested;
        if (attested > MERGED) r.mergeLast = _lastMerged(ids, attested);
    }

    /// @dev The id at place MERGED - 1 of the first `count`, in their order.
    function _lastMerged(bytes32[] memory ids, uint256 count) private view returns (bytes32) {
        for (uint256 i = 0; i < MERGED; ++i) {
            uint256 least = i;
            for (uint256 j = i + 1; j < count; ++j) if (ids[j] < ids[least]) least = j;
            (ids[i], ids[least]) = (ids[least], ids[i]);
        }
        return ids[MERGED - 1];
    }

    function _judgeUnit(uint64 round, bytes32 unitId, address miner, bool isWhole)
        private
        returns (Status status)
    {
        Unit storage unit = _units[unitId];
        status = unit.status;
        if (status != Status.Committed && status != Status.Opened) {
            // Left out before, and paid for then.
            emit EventsLib.Judged(round, unitId, miner, uint8(status));
            return status;
        }
        uint256 revealed = unit.revealedMask;
        uint256 agreed = unit.agreedMask;
        uint256 verifiers = unit.verifierIds;
        uint256 backed = revealed == agreed ? revealed : _heard(verifiers, revealed, agreed);
        status = _verdict(status == Status.Opened, verifiers, backed, agreed);
        unit.status = status;

        Entry storage mined = _entries[round][miner];
        if (status == Status.Rejected) {
            // Out of the unit's own bond, which covers it: a miner cannot have withdrawn the fee.
            mined.bonds -= UNAVAILABLE_FEE;
            _burnLocked(round, miner, UNAVAILABLE_FEE);
        } else if (status == Status.Disputed) {
            mined.bonds -= UNIT_BOND;
            mined.held += UNIT_BOND;
            emit EventsLib.Held(round, miner, UNIT_BOND);
        } else if (status == Status.Attested) {
            ++mined.attestedUnits;
        }
        emit EventsLib.Judged(round, unitId, miner, uint8(status));

        uint256 sealedMask = unit.sealedMask;
        for (uint256 v = 0; verifiers >> (32 * v) != 0; ++v) {
            address verifier = _accountOf[uint32(verifiers >> (32 * v))];
            if (sealedMask >> v & 1 == 0) _burnFree(round, verifier, SEAL_FEE);
            else if (revealed >> v & 1 == 0) _burnFree(round, verifier, SLOT_STAKE);
            else if (status == Status.Disputed && (backed & ~agreed) >> v & 1 == 1) _hold(round, verifier);
            else if (status == Status.Attested && agreed >> v & 1 == 1) _attest(_entries[round][verifier], isWhole && v == 0);
        }
    }

    function _attest(Entry storage entry, bool whole) private {
        ++entry.attestations;
        if (whole) ++entry.wholeAttestations;
    }

    function _verdict(bool opened, uint256 verifiers, uint256 revealed, uint256 agreed) private view returns (Status) {
        if (!opened) return Status.Rejected;
        if (revealed != agreed) return Status.Disputed;
        uint256 assigned = 0;
        uint256 attestations = 0;
        for (; verifiers >> (32 * assigned) != 0; ++assigned) attestations += agreed >> assigned & 1;
        uint256 needed = assigned < QUORUM ? assigned : QUORUM;
        return attestations != 0 && attestations >= needed ? Status.Attested : Status.Unverified;
    }

    /// @dev Who revealed, without the dissenters that have no slot stake free to lose: a dissent costs one unless somebody is convicted,
    /// or one stake could stop every unit that its owner is drawn for.
    function _heard(uint256 verifiers, uint256 revealed, uint256 agreed) private view returns (uint256 heard) {
        heard = revealed;
        for (uint256 v = 0; verifiers >> (32 * v) != 0; ++v) {
            if ((revealed & ~agreed) >> v & 1 == 0) continue;
            if (_free(_members[_accountOf[uint32(verifiers >> (32 * v))]]) < SLOT_STAKE) heard &= ~(1 << v);
        }
    }

    /// @dev Hold a dissenter's slot stake, which is there.
    function _hold(uint64 round, address account) private {
        _members[account].locked += SLOT_STAKE;
        Entry storage entry = _entries[round][account];
        entry.held += SLOT_STAKE;
        ++entry.dissents;
        emit EventsLib.Held(round, account, SLOT_STAKE);
    }

    // ---------------------------------------------------------------- Void

    /// @dev Every round from `from` on rests on something false: give the current one up, and go on from the state `from` began with.
    function _void(uint64 from) internal {
        Live storage live = _live;
        uint64 round = live.round;
        Round storage r = _rounds[round];
        bool isPlayed = live.phase != Phase.Waiting;
        uint64 to = isPlayed ? round : round - 1;
        while (_voids.length != 0 && _voids[_voids.length - 1].from >= from) _voids.pop();
        _voids.push(Span({from: uint32(from), to: uint32(to)}));
        Round storage sound = _rounds[from];
        emit EventsLib.Voided(from, to, sound.stateRoot);
        if (isPlayed) {
            live.merged = false;
            _abandon(round, live);
            _close(round, r, uint40(block.number), sound);
        } else {
            _begin(r, sound);
        }
        _tryToOpen(block.number);
    }

    /// @dev Units that are not judged are neither right nor wrong, and nobody is late with them any more.
    function _abandon(uint64 round, Live storage live) private {
        Phase phase = live.phase;
        if (phase == Phase.Seed || phase == Phase.Merge || phase == Phase.Acknowledge) return;
        uint256 committed = live.committed;
        for (uint256 place = 0; place < committed; ++place) {
            (bytes32 unitId, address miner) = _unitAt(round, place);
            Unit storage unit = _units[unitId];
            if (unit.status != Status.Committed && unit.status != Status.Opened) continue;
            unit.status = Status.Abandoned;
            // Before the draw, bonds that commits have locked are not in the entries yet.
            if (_rounds[round].drawnAt == 0) _entries[round][miner].bonds += UNIT_BOND;
        }
    }

    // ---------------------------------------------------------------- End

    /// @dev The next state, and the next round opened at once if enough members are there. `height` is the last block of the round.
    function _end(uint64 round, Round storage r, uint40 height) private returns (bool) {
        _countSilence(round, _live.miners);
        _close(round, r, height, r);
        _tryToOpen(height);
        return true;
    }

    /// @dev The round is over. The next one starts from what was merged, or else from where `sound` did.
    function _close(uint64 round, Round storage r, uint40 height, Round storage sound) private {
        Live storage live = _live;
        Round storage next = _rounds[round + 1];
        bool merged = live.merged;
        if (merged) {
            Candidate storage chosen = _candidates[round][live.accepted];
            next.stateRoot = chosen.stateRoot;
            next.stateCodec = chosen.codec;
            next.stateDigest = chosen.digest;
        } else {
            _begin(next, sound);
        }
        Live memory ended = live;
        ended.phase = Phase.Ended;
        ended.until = height;
        r.played = ended;
        // All zeros.
        // slither-disable-next-line uninitialized-local
        Live memory fresh;
        fresh.round = uint32(round + 1);
        _live = fresh;
        emit EventsLib.RoundEnded(round, merged, next.stateRoot, height);
    }

    function _begin(Round storage r, Round storage sound) private {
        r.stateRoot = sound.stateRoot;
        r.stateCodec = sound.stateCodec;
        r.stateDigest = sound.stateDigest;
    }

    function _countSilence(uint64 round, uint256 miners) private {
        for (uint256 i = 0; i < miners; ++i) {
            if (_frozenUnits[i] == 0) continue;
            address account = _minerSeats[i].account;
            Member storage member = _members[account];
            if (_entries[round][account].committedUnits != 0) {
                if (member.silentRounds != 0) member.silentRounds = 0;
            } else if (++member.silentRounds == SILENT_ROUNDS) {
                member.leaving = true;
            }
        }
    }
}
