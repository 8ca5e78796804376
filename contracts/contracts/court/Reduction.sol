// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What stands about an element of many terms, besides `Standing`. Its `node` is the root over the sums posted last, or
/// the one of them that was chosen.
struct Reduction {
    uint64 element; // the one asked about
    uint64 first; // of the terms that those sums cover, or that one
    uint64 end; // one past the last
    uint64 named; // the term that the accused names, where one decides
    int32 exponent; // of a float sum
    uint16 block; // terms that a judgement adds up; 0 where no sum counts
}
