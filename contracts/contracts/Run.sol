// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Address} from "@openzeppelin/contracts/utils/Address.sol";

import {IRunDisputes, IRunRounds, IRunWork, Parameters} from "../interfaces/IRun.sol";
import {CodeLib} from "./libraries/CodeLib.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";
import {RunRules} from "./RunRules.sol";
import {Claims} from "./run/Claims.sol";
import {Clocks} from "./run/Clocks.sol";
import {Disputable} from "./run/Disputable.sol";
import {RunStorage} from "./run/RunStorage.sol";
import {Withheld} from "./run/Withheld.sol";
import {Token} from "./Token.sol";

/// @title One deployment, one model lineage, one token
/// @dev Here is what happens for every unit: `Work`, `Withheld`, `Clocks` and `Claims`. What happens once a round, or less often, is in `RunRules`,
/// because one contract may have no more than 24 KiB of code; it runs on this contract's storage. Its address is in this code
/// and cannot change: two halves of one contract, and nothing that anybody could set. Questions go to the lens.
contract Run is Withheld, Clocks, Claims, Disputable {
    Token private immutable _TOKEN;
    /// @inheritdoc IRunWork
    address public immutable rules;
    /// @inheritdoc IRunWork
    address public immutable lens;
    /// @inheritdoc IRunWork
    address public immutable parametersAt;

    // `_range` below: there must be code at both.
    // slither-disable-next-line missing-zero-check
    constructor(Parameters memory p, address rules_, address lens_, string memory tokenName, string memory tokenSymbol)
        RunStorage(p)
        Disputable(p)
    {
        _range("code size of lens", lens_.code.length, 1, type(uint256).max);
        _range("code size of rules", rules_.code.length, 1, type(uint256).max);
        bytes memory encoded = abi.encode(p);
        bytes32 expected = keccak256(encoded);
        bytes32 found = RunRules(rules_).parametersHash();
        if (found != expected) revert ErrorsLib.OtherParameters(found, expected);
        _TOKEN = new Token(tokenName, tokenSymbol);
        rules = rules_;
        lens = lens_;
        parametersAt = CodeLib.store(encoded);
        _rounds[0].stateRoot = p.genesisRoot;
        _rounds[0].stateCodec = p.genesis.codec;
        _rounds[0].stateDigest = p.genesis.digest;
    }

    /// @dev What is not here is in the rules, or nowhere.
    fallback() external payable {
        address other = rules;
        assembly ("memory-safe") {
            let free := mload(64)
            calldatacopy(free, 0, calldatasize())
            let succeeded := delegatecall(gas(), other, free, calldatasize(), 0, 0)
            returndatacopy(free, 0, returndatasize())
            if succeeded { return(free, returndatasize()) }
            revert(free, returndatasize())
        }
    }

    /// @dev Deposits come with `joinMiner` and `stake`.
    receive() external payable {
        revert ErrorsLib.NoPlainTransfers();
    }

    /// @inheritdoc IRunWork
    function claim(uint64[] calldata rounds_) external returns (uint256 tokens, uint256 bonds) {
        _advance();
        (tokens, bonds) = _claimAll(rounds_);
        // Bonds that came free may be what a waiting round lacked.
        _advance();

        if (tokens != 0) _TOKEN.mint(msg.sender, tokens);
    }

    /// @inheritdoc IRunDisputes
    function settle() external returns (uint64) {
        return uint64(_settle());
    }

    /// @inheritdoc IRunWork
    function token() external view returns (address) {
        return address(_TOKEN);
    }

    function _voidFrom(uint64 from) internal override {
        // It returns nothing; a revert is passed on.
        // slither-disable-next-line unused-return
        Address.functionDelegateCall(rules, abi.encodeCall(RunRules.abandon, (from)));
    }

    /// @dev Phases that are due. Where the heights say that none is, the other half need not be asked.
    function _advance() internal override {
        Phase phase = _live.phase;
        if (phase != Phase.Waiting) {
            uint256 until = _live.until;
            bool isAwaited = phase == Phase.Seed || phase == Phase.Draw; // the height of a beacon's value
            if (isAwaited ? block.number < until : block.number <= until) return;
        }
        // Whether a phase was due makes no difference here; a revert is passed on.
        // slither-disable-next-line unused-return
        Address.functionDelegateCall(rules, abi.encodeCall(IRunRounds.advance, ()));
    }
}
