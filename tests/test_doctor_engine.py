"""The doctor says which engine computes, why, whether it is right, and how fast it is beside PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from typing import Any

import pytest
from click.testing import CliRunner

from cupel.cli import cli
from cupel.diagnosis import engine as diagnosis
from cupel.diagnosis.engine import Comparison, Engine, choose_engine, judge
from cupel.diagnosis.findings import Verdict
from cupel.protocol.arithmetic.cpu import isa


def doctor(*options: str, **environment: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["doctor", "--json", *options], env=environment)
    assert done.exit_code in (0, 1), (done.output, done.exception)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def finding(document: dict[str, Any], check: str) -> dict[str, str]:
    (found,) = [one for one in document["findings"] if one["check"] == check]
    return dict(found)


def test_the_engine_taken_is_named_with_its_instructions_and_the_reason() -> None:
    document = doctor("--no-speed")
    engine = document["engine"]
    assert set(engine) == {one.name for one in fields(Engine)}
    assert (engine["backend"], engine["instruction_set"]) == ("cpu", isa.choose().name)
    assert engine["available"] == list(isa.supported())
    assert engine["measured"] == []
    said = finding(document, "engine")
    assert "cpu" in said["found"]
    assert isa.choose().name in said["found"]
    for backend in ("torch", "cpu"):
        assert finding(document, f"arithmetic.{backend}")["verdict"] == "ok"


def test_instructions_that_were_asked_for_are_named_with_what_would_be_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUPEL_ISA", "portable")
    engine = choose_engine()
    assert engine.instruction_set == "portable"
    assert "CUPEL_ISA=portable" in engine.why
    if isa.supported() != ("portable",):
        assert engine.better is not None
        assert isa.supported()[0] in engine.better


def test_instructions_this_processor_lacks_are_to_be_fixed() -> None:
    document = doctor("--no-speed", CUPEL_ISA="vax")
    assert not document["fit"]
    assert document["engine"]["backend"] is None
    said = finding(document, "engine")
    assert said["verdict"] == "wrong"
    assert "vax" in said["found"]
    assert said["fix"] == "unset CUPEL_ISA"


_WITHOUT_LLVMLITE = """
import dataclasses, json, sys
sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
import cupel.commands.doctor
from cupel.diagnosis.engine import EngineCheck
check = EngineCheck()
said = check.say()
print(json.dumps({"engine": dataclasses.asdict(check.engine), "said": dataclasses.asdict(said)}))
"""


def test_without_llvmlite_the_torch_engine_is_taken_and_the_doctor_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_LLVMLITE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["engine"]["backend"], document["engine"]["instruction_set"]) == ("torch", None)
    assert document["engine"]["available"] == [], "so the compiled engine is not tested either"
    assert document["said"]["verdict"] == "warning"
    assert "llvmlite" in document["said"]["found"]
    assert "pip install llvmlite" in document["said"]["fix"]


def test_both_comparisons_are_made_and_their_ratio_is_that_of_the_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "MEASURED_S", 0.0)
    document = doctor()
    measured = document["engine"]["measured"]
    assert [set(one) for one in measured] == [{one.name for one in fields(Comparison)}] * 2
    assert [one["what"].split()[0] for one in measured] == ["product", "training"]
    for one in measured:
        assert one["exact_ms"] > 0
        assert one["torch_ms"] > 0
        assert one["times_as_fast"] == pytest.approx(one["torch_ms"] / one["exact_ms"], rel=0.01)
    for check in ("speed.product", "speed.step"):
        assert "plain PyTorch" in finding(document, check)["found"]


def test_a_machine_far_slower_than_pytorch_is_warned_of() -> None:
    def said(exact_ms: float) -> tuple[Verdict, str]:
        found = judge(Comparison(what="product 8^3", exact_ms=exact_ms, torch_ms=10.0, times_as_fast=10.0 / exact_ms))
        assert found.check == "speed.product"
        return found.verdict, found.found

    assert said(5.0)[0] == Verdict.OK
    assert "2.00 times as fast as" in said(5.0)[1]
    assert said(39.0)[0] == Verdict.OK
    assert "3.90 times the time of" in said(39.0)[1]
    assert said(41.0)[0] == Verdict.WARNING
