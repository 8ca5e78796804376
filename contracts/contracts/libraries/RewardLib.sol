// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What a round may mint, and how it is shared
/// @dev Every division rounds down; what is lost in rounding is never minted.
library RewardLib {
    uint256 internal constant BPS = 10_000;

    /// @notice (R0 >> (round / halvingRounds)) x min(1, committed / workTarget).
    function pool(uint256 initialReward, uint256 halvingRounds, uint256 round, uint256 committed, uint256 workTarget)
        internal
        pure
        returns (uint256)
    {
        uint256 full = initialReward >> (round / halvingRounds);
        return committed < workTarget ? full * committed / workTarget : full;
    }

    /// @notice Of `amount`, `bps` ten-thousandths.
    function share(uint256 amount, uint256 bps) internal pure returns (uint256) {
        return amount * bps / BPS;
    }
}
