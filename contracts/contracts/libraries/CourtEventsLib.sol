// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title Everything a court announces: who follows these needs to read no storage in order to answer
library CourtEventsLib {
    event Announced(bytes32 indexed announcement, uint256 expiresAt);
    event Accused(
        uint64 indexed dispute,
        address indexed run,
        address indexed accused,
        bytes32 subject,
        uint8 segment,
        address challenger,
        uint256 bond
    );
    /// @dev After every move: who is to move, and until which height.
    event Turn(uint64 indexed dispute, uint8 stage, address mover, uint256 until);

    event SegmentOpened(
        uint64 indexed dispute, bytes32 startRoot, bytes32 endRoot, bytes4 loss, bytes4 gradientNorm, bytes32[] innerRoots
    );
    event StepChosen(uint64 indexed dispute, uint32 step, bytes32 startRoot, bytes32 endRoot);
    event TracePosted(uint64 indexed dispute, bytes32 program, bytes32 traceRoot, bytes32[] nodes);
    event NodesOpened(uint64 indexed dispute, bytes32[] nodes);
    event NodeChosen(uint64 indexed dispute, uint8 level, uint64 index, bytes32 node);
    event ValueOpened(uint64 indexed dispute, uint32 value, bytes32 tensorRoot, bytes32[] nodes);
    event LeafOpened(uint64 indexed dispute, uint64 index, bytes data);
    event StateContested(uint64 indexed dispute);
    event EvidenceContested(uint64 indexed dispute);
    event StateLeafOpened(uint64 indexed dispute, uint64 index, bytes before, bytes name);

    /// @dev Sums of so many terms are asked for, of which a judgement adds up a block; 0: the term that decides is to be named.
    event SumsAsked(uint64 indexed dispute, uint64 element, uint64 terms, uint16 block_);
    event SumsPosted(uint64 indexed dispute, int32 exponent, uint64[2] positions, int256[] sums);
    /// @dev The sum of terms `first` to `end`, to be posted in parts.
    event SumChosen(uint64 indexed dispute, uint64 place, uint64 first, uint64 end, int256 sum);
    event PartsPosted(uint64 indexed dispute, int256[] parts);

    /// @dev value, element: what convicted; both zero where silence or an omission did.
    event Convicted(
        uint64 indexed dispute,
        address indexed run,
        bytes32 indexed subject,
        uint32 value,
        uint64 element,
        uint8 reason,
        uint256 prize,
        address finder
    );
    event Dismissed(uint64 indexed dispute, uint8 reason, uint256 repaid, uint256 burned);
    event Closed(uint64 indexed dispute, uint256 bond);
    event Collected(address indexed account, uint256 amount);
    event Burned(uint256 amount);
}
