// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title When fees are a spike, and how long clocks wait for it
library FeesLib {
    /// @dev Below, nobody is kept from acting, however much less it usually is.
    uint256 internal constant LEAST_WEI = 1 gwei;
    uint256 internal constant SPIKE_FACTOR = 4;

    /// @notice A base fee above this is a spike.
    function spikeAbove(uint256 usualFee) internal pure returns (uint256) {
        uint256 above = usualFee * SPIKE_FACTOR;
        return above < LEAST_WEI ? LEAST_WEI : above;
    }

    /// @notice By how much a phase of this length is extended, and how long before its end that may be asked.
    function quarterOf(uint256 length) internal pure returns (uint256) {
        return length < 4 ? 1 : length / 4;
    }
}
