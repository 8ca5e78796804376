// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Draws: pure functions of a seed
/// @dev word(seed, item, i) = keccak256(abi.encode(seed, item, i)); reduced modulo small numbers, a bias below 2^-200.
library DrawLib {
    uint256 internal constant NOT_THERE = type(uint256).max;
    bytes32 internal constant LOT = keccak256("cupel lot");
    bytes32 internal constant JURY = keccak256("cupel jury");

    function word(bytes32 seed, bytes32 item, uint256 i) internal pure returns (uint256 drawn) {
        // keccak256(abi.encode(seed, item, i)), without taking memory for it: the largest draw asks for some hundreds.
        assembly ("memory-safe") {
            let free := mload(64)
            mstore(free, seed)
            mstore(add(free, 32), item)
            mstore(add(free, 64), i)
            drawn := keccak256(free, 96)
        }
    }

    /// @notice Draw `take` of the units of all miners, uniformly without replacement.
    /// @param asked Units per miner; `total` is their sum, at least `take`. Consumed.
    /// @return drawn Units drawn per miner.
    function lot(bytes32 seed, uint256[] memory asked, uint256 total, uint256 take)
        internal
        pure
        returns (uint256[] memory drawn)
    {
        drawn = new uint256[](asked.length);
        for (uint256 i = 0; i < take; ++i) {
            uint256 place = _place(asked, word(seed, LOT, i) % (total - i));
            --asked[place];
            ++drawn[place];
        }
    }

    /// @notice Draw `take` distinct places, each draw weighted by the weights that are left; all of them when fewer weigh anything.
    /// @return places Positions in `weights`, in the order drawn. `weights` is the same afterwards.
    function weighted(bytes32 seed, bytes32 item, uint256[] memory weights, uint256 take)
        internal
        pure
        returns (uint256[] memory places)
    {
        uint256 total = 0;
        uint256 positive = 0;
        unchecked {
            // Weights are slots or units, sixteen bits at most.
            for (uint256 i = 0; i < weights.length; ++i) {
                uint256 weight = weights[i];
                total += weight;
                if (weight != 0) ++positive;
            }
        }
        if (take > positive) take = positive;
        places = new uint256[](take);
        uint256[] memory taken = new uint256[](take);
        for (uint256 i = 0; i < take; ++i) {
            uint256 place = _place(weights, word(seed, item, i) % total);
            places[i] = place;
            taken[i] = weights[place];
            total -= taken[i];
            weights[place] = 0;
        }
        for (uint256 i = 0; i < take; ++i) weights[places[i]] = taken[i];
    }

    /// @notice Draw `take` distinct numbers below `n`, ascending; all when n is no more than that.
    function distinct(bytes32 seed, bytes32 item, uint256 n, uint256 take) internal pure returns (uint8[] memory drawn) {
        if (take > n) take = n;
        drawn = new uint8[](take);
        unchecked {
            for (uint256 i = 0; i < take; ++i) {
                // The i-th draw picks among the n - i numbers not drawn yet, counted from below: pass those that are.
                uint256 number = word(seed, item, i) % (n - i);
                uint256 slot = 0;
                while (slot < i && drawn[slot] <= number) {
                    ++number;
                    ++slot;
                }
                for (uint256 j = i; j > slot; --j) drawn[j] = drawn[j - 1];
                drawn[slot] = uint8(number);
            }
        }
    }

    /// @notice Segments of a unit drawn for a verifier, ascending.
    /// @param id The verifier's member id: on chain it costs less to come by than the address.
    function segments(bytes32 seed, bytes32 unitId, uint256 id, uint256 n, uint256 take)
        internal
        pure
        returns (uint8[] memory)
    {
        return distinct(seed, keccak256(abi.encode(unitId, id)), n, take);
    }

    /// @notice How many of `committed` units are replayed whole: their share, rounded up.
    function wholeUnits(uint256 committed, uint256 bps) internal pure returns (uint256) {
        return (committed * bps + 9_999) / 10_000;
    }

    /// @notice Whether the unit at `place`, below `committed`, is one of them: as many as there are, next to each other, from a drawn place on.
    function isWhole(bytes32 seed, uint256 place, uint256 committed, uint256 bps) internal pure returns (bool) {
        return (place + uint256(seed) % committed) % committed < wholeUnits(committed, bps);
    }

    /// @notice All numbers below `n`.
    function all(uint256 n) internal pure returns (uint8[] memory numbers) {
        numbers = new uint8[](n);
        for (uint256 i = 0; i < n; ++i) numbers[i] = uint8(i);
    }

    /// @notice Place of a member's id among a unit's verifiers, packed 32 bits each; NOT_THERE if absent.
    function placeOf(uint256 ids, uint256 id) internal pure returns (uint256) {
        if (id == 0) return NOT_THERE;
        unchecked {
            for (uint256 v = 0; ids != 0; ++v) {
                if (uint32(ids) == id) return v;
                ids >>= 32;
            }
        }
        return NOT_THERE;
    }

    /// @dev The place whose weight covers `x`, which is below the sum of the weights. The loop of the largest transaction there is.
    function _place(uint256[] memory weights, uint256 x) private pure returns (uint256 place) {
        unchecked {
            while (true) {
                uint256 weight = weights[place];
                if (x < weight) return place;
                x -= weight;
                ++place;
            }
        }
    }
}
