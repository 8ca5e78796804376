// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {BlockHeader} from "@openzeppelin/contracts/utils/BlockHeader.sol";
import {Memory} from "@openzeppelin/contracts/utils/Memory.sol";

import {IBeacon} from "../interfaces/IBeacon.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {EventsLib} from "./libraries/EventsLib.sol";

/// @title The chain's own randomness, of any height somebody recorded
/// @dev Warning: a height can be recorded in its own block, or proved by its header within the 256 blocks after it. One who
/// waits for it should record it: nobody else is obliged to.
contract PrevrandaoBeacon is IBeacon {
    mapping(uint256 height => bytes32) private _values;
    /// @dev Set only for a value of zero, which some development chains put into every block.
    mapping(uint256 height => bool) private _isZero;

    /// @inheritdoc IBeacon
    function valueAt(uint256 height) external view returns (bytes32 value, bool known) {
        value = _values[height];
        known = value != 0 || _isZero[height];
    }

    /// @inheritdoc IBeacon
    function record() external {
        _record(block.number, bytes32(block.prevrandao));
    }

    /// @notice Record the value in the header of one of the last 256 blocks.
    function recordHeader(bytes calldata header) external {
        Memory.Slice[] memory fields = BlockHeader.parseHeader(header);
        uint256 height = BlockHeader.getNumber(fields);
        if (height >= block.number || block.number - height > 256) {
            revert ErrorsLib.HeightOutOfReach(height, block.number);
        }
        if (keccak256(header) != blockhash(height)) {
            revert ErrorsLib.HeaderMismatch(height, blockhash(height), keccak256(header));
        }
        _record(height, BlockHeader.getPrevRandao(fields));
    }

    function _record(uint256 height, bytes32 value) private {
        if (_values[height] != 0 || _isZero[height]) return;
        if (value == 0) _isZero[height] = true;
        else _values[height] = value;
        emit EventsLib.Recorded(height, value);
    }
}
