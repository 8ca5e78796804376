#!/usr/bin/env python3
"""Break the contracts one token at a time, and see whether a test notices.

    python contracts/mutate.py court                    a sample of 20 changes to the court
    python contracts/mutate.py run --count 50 --seed 2 --minutes 60
    python contracts/mutate.py clerk --at ItemLib.sol:77   every change to one line

Each mutant is compiled as the shipped artifact is and put into a copy of the tree (build/mutants), where the tests that
concern it run until the first one fails: then it is killed. A mutant whose code is the original's is no mutant. What
survives is printed last: either a test is missing, or docs/design/contracts.md says why it changes nothing. Exits 1
where any survives.
Needs Node.js and `npm install` in contracts/, and the `dev` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import compile as compiler

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "mutants"
# What compares code or gas with a committed measurement notices any change at all, and says nothing about rules.
SNAPSHOTS = ("snapshot", "artifact", "its_source_gives", "gas")
TEST_SECONDS = 900


@dataclass(frozen=True)
class Target:
    """What is changed, which artifacts that changes, and the tests that should notice."""

    sources: tuple[str, ...]
    contracts: tuple[str, ...]
    tests: tuple[str, ...]


_COURT_TESTS = tuple(f"test_contracts_court{name}.py" for name in ("", "_attacks", "_liars", "_long"))
_OF_RUN = ("round", "work", "merge", "membership", "draws", "clocks", "duties", "withheld", "forks", "random")
_RUN_TESTS = tuple(f"test_contracts_{name}.py" for name in _OF_RUN)
_REFEREE_TESTS = ("test_referee_kernels.py", "test_disputes.py", "test_disputes_long.py")
TARGETS = {
    "court": Target(("court/*.sol", "Court.sol"), ("Court",), _COURT_TESTS),
    "clerk": Target(("Clerk.sol", "court/Reckoner.sol", "libraries/ItemLib.sol"), ("Clerk", "Court"), _COURT_TESTS),
    "trees": Target(("libraries/TreeLib.sol", "libraries/MerkleLib.sol"), ("Clerk", "Court"), _COURT_TESTS),
    "run": Target(("run/*.sol", "Run.sol", "RunRules.sol"), ("Run", "RunRules"), _RUN_TESTS),
    "draws": Target(
        tuple(f"libraries/{name}Lib.sol" for name in ("Draw", "Reward", "Answers", "Leaves")),
        ("Run", "RunRules"),
        _RUN_TESTS,
    ),
    "lens": Target(("RunLens.sol",), ("RunLens",), _RUN_TESTS),
    "referee": Target(
        tuple(f"referee/{name}.sol" for name in ("Judging", "Openings", "Encoding", "Elements", "Shapes")),
        ("Evaluator", "TermsEvaluator"),
        _REFEREE_TESTS,
    ),
}

_SWAPS = {
    "<": ("<=", ">="),
    ">": (">=", "<="),
    "<=": ("<",),
    ">=": (">",),
    "==": ("!=",),
    "!=": ("==",),
    "+": ("-",),
    "-": ("+",),
    "*": ("/",),
    "/": ("*",),
    "%": ("*",),
    "&&": ("||",),
    "||": ("&&",),
    "<<": (">>",),
    ">>": ("<<",),
    "+=": ("-=",),
    "-=": ("+=",),
    "++": ("--",),
    "--": ("++",),
    "&": ("|",),
    "|": ("&",),
    "true": ("false",),
    "false": ("true",),
}
_TOKEN = re.compile(
    r"\+\+|--|\+=|-=|<<|>>|<=|>=|==|!=|&&|\|\||=>|\b(?:true|false)\b|\b\d+\b(?!\s*(?:ether|gwei))|[-+*/%<>&|]"
)
_SILENT = re.compile(r'//[^\n]*|/\*.*?\*/|"[^"\n]*"|hex"[^"\n]*"', re.DOTALL)
_STATEMENT = re.compile(r"(?<=[;{}])\s*([^;{}]+;)")
_DECLARATION = re.compile(
    r"^(?:return\b|import\b|using\b|error\b|event\b|pragma\b|break\b|let\b|\(|"
    r"(?:u?int\d*|bytes\d*|address|bool|string|mapping|[A-Z]\w*(?:\.\w+)?)(?:\[\w*\])*\s+(?:\w+\s+)*\w+(?:\s*=|;))"
)


@dataclass(frozen=True)
class Mutant:
    """One change to one source."""

    source: str
    start: int
    end: int
    text: str
    line: int
    before: str

    def apply(self, text: str) -> str:
        return text[: self.start] + self.text + text[self.end :]

    def __str__(self) -> str:
        old = " ".join(self.before.split())
        return f"{self.source.removeprefix('contracts/')}:{self.line}: {old} -> {self.text or 'nothing'}"


def find_mutants(source: str, text: str) -> Iterator[Mutant]:
    """Every change to a source: tokens within functions, and whole statements left out."""
    masked = _SILENT.sub(lambda found: " " * len(found.group()), text)
    for start, end in _bodies(masked):
        body = masked[start:end]
        for found in _TOKEN.finditer(body):
            for other in _others(found.group()):
                yield _mutant(source, text, start + found.start(), start + found.end(), other)
        for found in _STATEMENT.finditer(body):
            statement = found.group(1)
            if not _DECLARATION.match(statement) and "for (" not in statement[:5]:
                yield _mutant(source, text, start + found.start(1), start + found.end(1), "")


def _others(token: str) -> Sequence[str]:
    if token.isdecimal():
        number = int(token)
        return (str(number + 1),) if number == 0 else (str(number + 1), str(number - 1))
    return _SWAPS.get(token, ())


def _mutant(source: str, text: str, start: int, end: int, other: str) -> Mutant:
    return Mutant(source, start, end, other, text.count("\n", 0, start) + 1, text[start:end])


def _bodies(masked: str) -> Iterator[tuple[int, int]]:
    """From each function's, constructor's or modifier's opening brace to its closing one."""
    for found in re.finditer(r"\b(?:function|constructor|receive|modifier)\b[^;{]*\{", masked):
        depth, at = 1, found.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(masked[at], 0)
            at += 1
        yield found.end() - 1, at


class Bench:
    """A copy of the tree whose artifacts are replaced, and whose tests are run."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.sources_of = {name: compiler.read_sources((name,)) for name in target.contracts}
        self.sources = {path: text for sources in self.sources_of.values() for path, text in sources.items()}
        self.artifacts = TREE / "chain" / "artifacts"
        shutil.rmtree(TREE, ignore_errors=True)
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for name in filter(None, files.split("\0")):
            if (ROOT / name).is_file():
                (TREE / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, TREE / name)
        self._link_package()
        self.original = self.shipped()

    def _link_package(self) -> None:
        """The package as the wheel lays it out: an editable install is of the tree that was copied."""
        package = TREE / "package" / "cupel"
        package.mkdir(parents=True)
        settings = tomllib.loads((TREE / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
        for path in (TREE / settings["cupel"]).iterdir():
            (package / path.name).symlink_to(path)
        for name, folder in settings.items():
            if name.count(".") == 1:
                (package / name.partition(".")[2]).symlink_to(TREE / folder)

    def shipped(self) -> dict[str, dict[str, object]]:
        """Code by contract as it is committed, which must be what the sources give (`compile.py --check`)."""
        keys = ("bytecode", "deployedBytecode", "immutableReferences")
        codes = {}
        for name in self.target.contracts:
            artifact = json.loads((self.artifacts / f"{name}.json").read_text())
            if artifact["sourceHash"] != compiler.source_hash(name):
                raise SystemExit(f"the artifact of {name} is not of these sources: run contracts/compile.py first")
            codes[name] = {key: artifact[key] for key in keys}
        return codes

    def compile(self, mutant: Mutant) -> dict[str, dict[str, object]] | None:
        """Code by contract, as an artifact holds it, of what the mutant changes; None where the compiler refuses."""
        codes = {}
        for name, sources in self.sources_of.items():
            if mutant.source not in sources:
                continue
            sources = {**sources, mutant.source: mutant.apply(sources[mutant.source])}
            unit = f"contracts/{name}.sol"
            try:
                answer = compiler.compile_sources(sources, compiler.OUTPUTS, {unit: name})
            except compiler.CompileError:
                return None
            output = answer["contracts"][unit][name]["evm"]
            codes[name] = {
                "bytecode": "0x" + output["bytecode"]["object"],
                "deployedBytecode": "0x" + output["deployedBytecode"]["object"],
                "immutableReferences": output["deployedBytecode"]["immutableReferences"],
            }
        return codes

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """'killed' and by what, 'survived', 'same code' or 'not compiled'."""
        changed = self.compile(mutant)
        if changed is None:
            return "not compiled", ""
        codes = {**self.original, **changed}
        if codes == self.original:
            return "same code", ""
        self.write(codes)
        return self.test()

    def write(self, codes: Mapping[str, Mapping[str, object]]) -> None:
        for name, code in codes.items():
            shipped = json.loads((ROOT / "chain" / "artifacts" / f"{name}.json").read_text())
            (self.artifacts / f"{name}.json").write_text(json.dumps({**shipped, **code}))

    def test(self) -> tuple[str, str]:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
        command += ["-k", " and ".join(f"not {word}" for word in SNAPSHOTS)]
        command += [f"tests/{name}" for name in self.target.tests]
        environment = {**os.environ, "PYTHONPATH": str(TREE / "package"), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                command, cwd=TREE, env=environment, capture_output=True, text=True, check=False, timeout=TEST_SECONDS
            )
        except subprocess.TimeoutExpired:
            return "killed", "time"
        if done.returncode == 0:
            return "survived", ""
        failed = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", done.stdout, re.MULTILINE)
        if failed is None:
            raise SystemExit(f"the tests did not run:\n{(done.stdout + done.stderr)[-2000:]}")
        return "killed", failed.group(1)


def choose(target: Target, sources: Mapping[str, str], at: str | None, count: int, seed: int) -> list[Mutant]:
    names = [name for pattern in target.sources for name in sorted(sources) if Path(name).match(f"contracts/{pattern}")]
    mutants = [mutant for name in names for mutant in find_mutants(name, sources[name])]
    if at is not None:
        file, _, line = at.partition(":")
        return [m for m in mutants if m.source.endswith(f"/{file}") and line in ("", str(m.line))]
    random.Random(seed).shuffle(mutants)
    print(f"{len(mutants)} changes to {len(names)} files; {min(count, len(mutants))} of them, seed {seed}", flush=True)
    return mutants[:count]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--count", type=int, default=20, help="how many changes (20)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--minutes", type=float, default=60, help="begin no further one after this long (60)")
    parser.add_argument("--at", metavar="FILE[:LINE]", help="every change there instead of a sample")
    arguments = parser.parse_args()
    target = TARGETS[arguments.target]
    bench = Bench(target)
    if bench.test()[0] != "survived":
        print("the contracts as they are do not pass: nothing to compare with", file=sys.stderr)
        return 1
    began, results = time.monotonic(), dict.fromkeys(("killed", "survived", "same code", "not compiled"), 0)
    survivors = []
    for mutant in choose(target, bench.sources, arguments.at, arguments.count, arguments.seed):
        if time.monotonic() - began > 60 * arguments.minutes:
            break
        result, what = bench.judge(mutant)
        results[result] += 1
        survivors += [mutant] * (result == "survived")
        print(f"{result:12} {mutant}{f'   by {what}' if what else ''}", flush=True)
    print(", ".join(f"{number} {result}" for result, number in results.items()))
    for mutant in survivors:
        line = bench.sources[mutant.source].splitlines()[mutant.line - 1].strip()
        print(f"survived: {mutant}\n    {line}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
