// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Test} from "../Test.sol";
import {KernelHarness} from "./KernelHarness.sol";

/// @dev The cheats that read files.
interface VmFiles {
    function readFile(string calldata path) external view returns (string memory);
    function envOr(string calldata name, string calldata otherwise) external view returns (string memory);
    function parseJsonUintArray(string calldata json, string calldata key) external pure returns (uint256[] memory);
    function parseJsonStringArray(string calldata json, string calldata key) external pure returns (string[] memory);
    function parseJsonBytesArray(string calldata json, string calldata key) external pure returns (bytes[] memory);
}

/// @dev The files of tests/vectors/referee, which the Python side holds to the definition. REFEREE_VECTORS names another
/// folder, where tests/fuzz_referee.py has put new ones.
contract VectorsTest is Test {
    error Wrong(string name, uint256 number, uint256 result, uint256 expected);

    VmFiles private constant FILES = VmFiles(address(vm));
    KernelHarness private harness;

    function setUp() public {
        harness = new KernelHarness();
    }

    function test_Binary32() external view {
        check("binary32");
    }

    function test_Functions() external view {
        check("functions");
    }

    function test_Integers() external view {
        check("integers");
    }

    function test_Products() external view {
        check("products");
    }

    function test_Sums() external view {
        check("sums");
    }

    function test_Orders() external view {
        check("orders");
    }

    function test_Philox() external view {
        check("philox");
    }

    function check(string memory library_) private view {
        string memory folder = FILES.envOr("REFEREE_VECTORS", "../tests/vectors/referee");
        string memory json = FILES.readFile(string.concat(folder, "/", library_, ".json"));
        checkScalars(json);
        checkRows(json);
    }

    /// @dev Groups of cases, and their columns one after the other.
    struct Scalars {
        string[] names;
        uint256[] codes;
        uint256[] arities;
        uint256[] cases;
        uint256[] arguments;
        uint256[] expected;
    }

    struct Rows {
        string[] names;
        uint256[] codes;
        uint256[] counts;
        uint256[] heights;
        bytes[] rows;
        uint256[] lengths;
        uint256[] numbers;
        uint256[] expected;
    }

    function checkScalars(string memory json) private view {
        Scalars memory file;
        file.names = FILES.parseJsonStringArray(json, ".scalars.names");
        file.codes = numbersOf(json, ".scalars.codes");
        file.arities = numbersOf(json, ".scalars.arities");
        file.cases = numbersOf(json, ".scalars.cases");
        file.arguments = numbersOf(json, ".scalars.arguments");
        file.expected = numbersOf(json, ".scalars.expected");
        uint256 from;
        uint256 done;
        for (uint256 i = 0; i < file.names.length; ++i) {
            uint256[] memory words = part(file.arguments, from, file.cases[i] * file.arities[i]);
            from += words.length;
            uint256[] memory results = harness.scalars(file.codes[i], file.arities[i], words);
            compare(file.names[i], results, part(file.expected, done, file.cases[i]));
            done += results.length;
        }
        assertEq("arguments used", from, file.arguments.length);
        assertEq("results compared", done, file.expected.length);
    }

    function checkRows(string memory json) private view {
        Rows memory file;
        file.names = FILES.parseJsonStringArray(json, ".rows.names");
        file.codes = numbersOf(json, ".rows.codes");
        file.counts = numbersOf(json, ".rows.counts");
        file.heights = numbersOf(json, ".rows.heights");
        file.rows = FILES.parseJsonBytesArray(json, ".rows.rows");
        file.lengths = numbersOf(json, ".rows.lengths");
        file.numbers = numbersOf(json, ".rows.numbers");
        file.expected = numbersOf(json, ".rows.expected");
        uint256 row;
        uint256 number;
        for (uint256 i = 0; i < file.names.length; ++i) {
            bytes[] memory rows = new bytes[](file.heights[i]);
            for (uint256 j = 0; j < rows.length; ++j) rows[j] = file.rows[row++];
            uint256[] memory numbers = part(file.numbers, number, file.lengths[i]);
            number += numbers.length;
            uint256[] memory results = harness.row(file.codes[i], rows, file.counts[i], numbers);
            compare(file.names[i], results, part(file.expected, 2 * i, 2));
        }
        assertEq("rows used", row, file.rows.length);
        assertEq("numbers used", number, file.numbers.length);
        assertEq("rows compared", 2 * file.names.length, file.expected.length);
    }

    function compare(string memory name, uint256[] memory results, uint256[] memory expected) private pure {
        assertEq(name, results.length, expected.length);
        for (uint256 i = 0; i < results.length; ++i) {
            if (results[i] != expected[i]) revert Wrong(name, i, results[i], expected[i]);
        }
    }

    function numbersOf(string memory json, string memory key) private pure returns (uint256[] memory) {
        return FILES.parseJsonUintArray(json, key);
    }

    function part(uint256[] memory words, uint256 from, uint256 count) private pure returns (uint256[] memory taken) {
        taken = new uint256[](count);
        for (uint256 i = 0; i < count; ++i) taken[i] = words[from + i];
    }
}
