// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @dev The few of Forge's cheats these tests use.
interface Vm {
    function roll(uint256 height) external;
    function prank(address sender) external;
    function deal(address account, uint256 balance) external;
    function fee(uint256 weiPerGas) external;
    function etch(address account, bytes calldata code) external;
    function assume(bool condition) external;
    function expectRevert(bytes calldata data) external;
    function expectRevert() external;
}

/// @dev What a Forge test contract needs, and no more.
abstract contract Test {
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    error NotEqual(string what, uint256 left, uint256 right);
    error NotAtMost(string what, uint256 left, uint256 right);
    error NotTrue(string what);

    function assertEq(string memory what, uint256 left, uint256 right) internal pure {
        if (left != right) revert NotEqual(what, left, right);
    }

    function assertAtMost(string memory what, uint256 left, uint256 right) internal pure {
        if (left > right) revert NotAtMost(what, left, right);
    }

    function assertTrue(string memory what, bool condition) internal pure {
        if (!condition) revert NotTrue(what);
    }

    /// @dev `x` brought into [low, high].
    function bound(uint256 x, uint256 low, uint256 high) internal pure returns (uint256) {
        return low + x % (high - low + 1);
    }

    /// @dev Printed by `forge-test -vv`.
    function log(string memory what, uint256 count) internal view {
        (bool done,) = address(0x000000000000000000636F6e736F6c652e6c6f67).staticcall(
            abi.encodeWithSignature("log(string,uint256)", what, count)
        );
        assertTrue("printed", done);
    }
}
