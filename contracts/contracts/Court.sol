// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Accusing} from "./court/Accusing.sol";
import {Disputes} from "./court/Disputes.sol";
import {Reductions} from "./court/Reductions.sol";
import {Verdicts} from "./court/Verdicts.sol";

/// @title Disputes about posted results, decided by recomputing one element (docs/design/court.md)
/// @dev Disputes: clocks and money. Accusing: how one begins. Descents: from a segment to a step, and down trees.
/// Verdicts: what is shown of a Program, and the end. Reductions: elements of many terms.
contract Court is Accusing, Reductions {
    /// @param evaluator Recomputes an element.
    /// @param clerk Reads what is shown.
    /// @param clockBlocks What each side has for all its moves together.
    /// @param graceBlocks What each side has for any move, whatever is left of its clock.
    /// @param minimumBond Least bond of an accusation, in wei.
    /// @param defenceGas What a whole defence may take: the bond pays for ten of them.
    constructor(
        address evaluator,
        address clerk,
        uint24 clockBlocks,
        uint24 graceBlocks,
        uint96 minimumBond,
        uint64 defenceGas
    ) Disputes(clockBlocks, graceBlocks, minimumBond, defenceGas) Verdicts(evaluator, clerk) {}
}
