// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IRunWork} from "../../interfaces/IRun.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {FeesLib} from "../libraries/FeesLib.sol";
import {Work} from "./Work.sol";
import {Live} from "./Types.sol";

/// @title Clocks that wait, for a while, when transactions cost many times what they usually do
abstract contract Clocks is Work {
    /// @inheritdoc IRunWork
    function extend() external {
        _advance();
        Live storage live = _live;
        uint256 quarter = _quarterOf(live.phase);
        uint8 extensions = live.extensions;
        if (extensions >= MAX_EXTENSIONS) revert ErrorsLib.NoMoreExtensions(extensions);
        uint256 until = live.until;
        if (block.number + quarter <= until) revert ErrorsLib.TooEarlyToExtend(block.number, until - quarter + 1);
        uint256 above = FeesLib.spikeAbove(_rounds[live.round].baseFee);
        if (block.basefee <= above) revert ErrorsLib.FeesAreUsual(block.basefee, above);

        until += quarter;
        live.until = uint40(until);
        live.extensions = extensions + 1;
        emit EventsLib.Extended(live.round, uint8(live.phase), until);
    }

    function _quarterOf(Phase phase) private view returns (uint256) {
        uint256 length = 0;
        if (phase == Phase.Train) length = TRAIN_BLOCKS;
        else if (phase == Phase.Seal) length = SEAL_BLOCKS;
        else if (phase == Phase.Open) length = OPEN_BLOCKS;
        else if (phase == Phase.Merge) length = MERGE_BLOCKS;
        else if (phase == Phase.Acknowledge) length = ACKNOWLEDGE_BLOCKS;
        else revert ErrorsLib.WrongPhase(uint8(phase), uint8(Phase.Seal));
        return FeesLib.quarterOf(length);
    }
}
