// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Binary32} from "./Binary32.sol";
import {Lanes} from "./Lanes.sol";
import {Products} from "./Products.sol";

/// @title The order-free sum of floats: RN( (sum of round-half-even(x 2^(30 - e))) 2^(e - 30) ), e the exponent of max |x|
/// @dev A long row may come in blocks: its exponent is the largest of theirs, its integer sum the sum of theirs.
library Sums {
    int256 internal constant BITS = 30;

    uint256 private constant BYTES = 0x00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff;
    uint256 private constant PAIRS = 0x0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff;

    /// @notice SUM of a row of `count` floats.
    function sum(bytes calldata row, uint256 count) internal pure returns (uint256) {
        uint256 start = Lanes.begin(row, count, 4);
        int256 e = Products.exponentOfMagnitude(Lanes.maxMagnitude(start, count));
        return e == Products.NOT_FINITE ? _sumOfSpecial(start, count) : round(_total(start, count, e), e);
    }

    /// @notice The integer sum of a block of a row whose exponent is e, and whether e is at least the block's own:
    /// if it is not, the sum is meaningless, and e was not the row's exponent. A NaN or an infinity makes it false.
    function partialSum(bytes calldata block_, uint256 count, int256 e) internal pure returns (int256 total, bool within) {
        uint256 start = Lanes.begin(block_, count, 4);
        int256 own = Products.exponentOfMagnitude(Lanes.maxMagnitude(start, count));
        within = own != Products.NOT_FINITE && own <= e;
        if (within) total = _total(start, count, e);
    }

    /// @notice The float of an integer sum of terms with the exponent e.
    function round(int256 total, int256 e) internal pure returns (uint256) {
        unchecked {
            return Binary32.roundScaled(total, e - BITS);
        }
    }

    /// @notice round-half-even(x 2^(30 - e)) of a finite x with |x| < 2^e: one term of an integer sum.
    function term(uint256 bits, int256 e) internal pure returns (int256) {
        unchecked {
            (uint256 m, int256 q) = Binary32.decode(bits);
            int256 left = q + BITS - e;
            m = left < 0 ? Binary32.roundHalfEven(m, uint256(-left)) : m << uint256(left);
            return bits & Binary32.SIGN == 0 ? int256(m) : -int256(m);
        }
    }

    /// @notice The sum of these floats: a cell of INDEX_ADD from its old value and what lands there.
    function sumOf(uint256[] memory terms) internal pure returns (uint256) {
        unchecked {
            uint256 largest = 0;
            for (uint256 i = 0; i < terms.length; ++i) {
                uint256 magnitude = terms[i] & Binary32.MAGNITUDE;
                if (magnitude > largest) largest = magnitude;
            }
            int256 e = Products.exponentOfMagnitude(largest);
            int256 total = 0;
            uint256 special = 0;
            for (uint256 i = 0; i < terms.length; ++i) {
                if (e == Products.NOT_FINITE) special = joinSpecial(special, terms[i]);
                else total += term(terms[i], e);
            }
            return special == 0 ? round(total, e) : special;
        }
    }

    /// @notice Folds one term into what NaNs and infinities make of a sum: 0 while none was met, else the sum so far.
    /// @dev From special values of blocks, too.
    function joinSpecial(uint256 special, uint256 bits) internal pure returns (uint256) {
        if (Binary32.isFinite(bits)) return special;
        if (Binary32.isNaN(bits)) return Binary32.NAN;
        return special == 0 || special == bits ? bits : Binary32.NAN;
    }

    function _sumOfSpecial(uint256 start, uint256 count) private pure returns (uint256 special) {
        unchecked {
            for (uint256 i = 0; i < count; ++i) {
                special = joinSpecial(special, Lanes.loadFloat(start, i));
            }
        }
    }

    /// @dev `term` of every float, summed; all magnitudes are below 2^e.
    function _total(uint256 start, uint256 count, int256 e) private pure returns (int256 total) {
        assembly ("memory-safe") {
            // m 2^32 is shifted right by `base` less the exponent's field, subnormals counting as field 1: at least by 3.
            let base := add(e, 152)
            for { let end := add(start, shl(2, count)) } lt(start, end) { start := add(start, 32) } {
                let word := calldataload(start)
                // What follows the row counts as zeros.
                if lt(sub(end, start), 32) { word := and(word, not(shr(shl(3, sub(end, start)), not(0)))) }
                word := or(and(shr(8, word), BYTES), shl(8, and(word, BYTES)))
                word := or(and(shr(16, word), PAIRS), shl(16, and(word, PAIRS)))
                for {} word { word := shl(32, word) } {
                    let field := and(shr(247, word), 0xff)
                    let m := and(shr(192, word), 0x7fffff00000000)
                    switch field
                    case 0 { field := 1 }
                    default { m := or(m, 0x80000000000000) }
                    let right := sub(base, field)
                    // Half to even: one less than half is added, and one more where the last place is odd. From 57 on, m
                    // is below half; from 256 on everything is shifted out, whatever was added.
                    // The amounts of these shifts come first, as the instruction has them: a one is shifted.
                    // slither-disable-next-line incorrect-shift
                    m := shr(right, add(add(m, sub(shl(sub(right, 1), 1), 1)), and(shr(right, m), 1)))
                    let minus := sar(255, word)
                    total := add(total, sub(xor(m, minus), minus))
                }
            }
        }
    }
}
