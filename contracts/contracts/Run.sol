// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Parameters} from "../interfaces/IRun.sol";
import {Claims} from "./run/Claims.sol";
import {Membership} from "./run/Membership.sol";
import {Merging} from "./run/Merging.sol";
import {RunStorage} from "./run/RunStorage.sol";
import {Work} from "./run/Work.sol";

/// @title One deployment, one model lineage, one token
/// @dev Membership: seats and deposits. Rounds: phases. Work: units. Merging: the next state. Claims: rewards. Questions go to the lens.
contract Run is Membership, Work, Merging, Claims {
    constructor(Parameters memory p, address lens_, string memory tokenName, string memory tokenSymbol)
        RunStorage(p, lens_, tokenName, tokenSymbol)
    {}
}
