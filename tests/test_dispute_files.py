"""A lie is found in files, proved, and judged alike by Python and the contract; strangers' files break nothing."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from court_world import SEED, STEPS, UNIT, batch, merge_program, prover_of_step, shards, states
from dispute_files import STEP, Files, invoke, one_bit_off, refused, write_files
from referee_world import changed, prove_honest, prover_of_case, tell_lie

from cupel.disputes.files import ProofFile, TraceFile
from cupel.disputes.judging import judge_in_evm, judge_in_python
from cupel.disputes.telling import sum_up
from cupel.network.states import encode_state
from cupel.protocol.arithmetic import cases
from cupel.protocol.arithmetic.operations import Opcode
from cupel.protocol.disputes import Claim, Proof, Value
from cupel.protocol.disputes.errors import MalformedProof
from cupel.protocol.errors import MalformedInput, MalformedProgram
from cupel.protocol.program import encoding
from cupel.protocol.program.traces import root_of, trace_root, value_leaf
from cupel.protocol.trees import Tree


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("honest"))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """With the proof of a lie about one element."""
    files = write_files(tmp_path_factory.mktemp("proved"))
    files.claim(one_bit_off("weights.out", 21))
    assert files.prove().exit_code == 0
    return files


def test_one_bit_of_one_element_is_found_and_proved(files: Files) -> None:
    files.claim(one_bit_off("weights.out", 21))
    done = files.prove("--json", "--check")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["element"], found["index"], found["wrong_elements"], found["wrong_values"]) == (21, "[1, 5]", 1, 1)
    assert found["outputs"] == ["0.weights.out"]
    assert found["opcode"] == "SUB"
    assert found["convicts"] is True
    assert [verdict["right"] for verdict in found["verdicts"]] == [False, False]
    right = states()[STEP + 1]["weights.out"].reshape(-1)[21]
    assert f"(0x{int(right.view(torch.int32)) & 0xFFFFFFFF:08x})" in found["right"]
    judged = invoke("judge", str(files.proof))
    assert judged.exit_code == 0
    assert "The proof convicts." in judged.output
    assert found["claimed"] in judged.output
    assert found["right"] in judged.output


def test_the_first_wrong_operation_is_named_whatever_else_is_wrong(files: Files) -> None:
    files.claim(one_bit_off("momentum.out", 3) | one_bit_off("weights.out", 3))
    found = json.loads(files.prove("--json").stdout)
    assert found["outputs"] == ["0.momentum.out"]
    assert (found["wrong_values"], found["compared_values"]) == (2, 6)


def test_right_results_give_no_proof(files: Files) -> None:
    done = files.prove()
    assert done.exit_code == 1
    assert "Nothing is wrong" in done.output
    assert not files.proof.exists()


def test_an_input_passed_through_is_wrong_without_an_operation(files: Files) -> None:
    files.claim({"rate": torch.tensor(0.2)})
    done = files.prove()
    assert done.exit_code == 1
    assert "input '0.rate' is not computed" in done.output


def test_a_batch_is_drawn_from_the_run_s_data(files: Files, tmp_path: Path) -> None:
    """As the steps of a unit read it; a missing or a foreign folder is said."""
    reads = ["--program", str(files.program), "--state", str(files.state), "--data", str(tmp_path)]
    assert "Give the round's --seed" in refused(invoke("prove", *reads, "--claimed", str(files.claimed)))
    drawn = ["--seed", SEED.hex(), "--unit", UNIT.hex(), "--step", str(STEP)]
    assert "no data here" in refused(invoke("prove", *reads, *drawn, "--claimed", str(files.claimed)))
    assert batch(STEP).shape[0] <= len(shards())


def test_a_merge_is_proved_wrong_from_its_states(tmp_path: Path) -> None:
    program, parts = tmp_path / "merge.program", [tmp_path / "a", tmp_path / "b"]
    program.write_bytes(merge_program(2).to_bytes())
    merged = [states()[STEPS], states()[2 * STEPS]]
    for path, state in zip(parts, merged, strict=True):
        path.write_bytes(encode_state(state))
    (tmp_path / "end").write_bytes(encode_state(merged[0]))
    reads = ["--program", str(program), *(f"--state={path}" for path in parts), "--claimed", str(tmp_path / "end")]
    done = invoke("prove", *reads, "--out", str(tmp_path / "proof"), "--json", "--check")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["convicts"]


# Traces


def write_trace(files: Files, *values: int) -> tuple[Path, Path]:
    trace, tensors = files.folder / "trace.json", files.folder / "values.safetensors"
    wanted = [f"--value={value}" for value in values]
    done = invoke("trace", *files.reads, "--out", str(trace), *wanted, *(["--values", str(tensors)] if values else []))
    assert done.exit_code == 0, done.output
    return trace, tensors


def test_the_first_difference_of_a_posted_trace_is_proved(files: Files) -> None:
    prover = prover_of_step(STEP)
    value = next(
        v for v in range(len(prover.trace.trees) - 1, 0, -1) if prover.result(v).dtype == torch.float32
    )  # fmt: skip
    wrong = changed(prover.result(value), 0, 1)
    lie = tell_lie(prover.trace, value, wrong).trace
    trace = files.folder / "trace.json"
    trace.write_text(TraceFile(program=lie.program.root, leaves=lie.tree.levels[0]).to_text())
    unknown = invoke("prove", *files.reads, "--trace", str(trace))
    assert unknown.exit_code == 1
    assert f"value {value}" in unknown.output
    assert "in --values" in unknown.output
    right = prover.result(value)
    tensor = torch.frombuffer(bytearray(wrong), dtype=right.dtype).reshape(right.shape)
    values = files.folder / "values"
    values.write_bytes(encode_state({str(value): tensor}))
    done = invoke("prove", *files.reads, "--trace", str(trace), "--values", str(values), "--out", str(files.proof))
    assert done.exit_code == 0, done.output
    assert invoke("judge", str(files.proof)).exit_code == 0
    values.write_bytes(encode_state({str(value): right}))
    assert "as the trace has it" in refused(
        invoke("prove", *files.reads, "--trace", str(trace), "--values", str(values))
    )


def test_a_trace_written_here_is_right_and_its_values_are_those_asked_for(files: Files) -> None:
    trace, tensors = write_trace(files, 3)
    done = invoke("prove", *files.reads, "--trace", str(trace), "--values", str(tensors))
    assert "Nothing is wrong" in done.output
    beyond = invoke("trace", *files.reads, "--out", str(trace), "--value=9999", "--values", str(tensors))
    assert "values 0 to" in refused(beyond)


def test_another_program_s_trace_is_refused(files: Files) -> None:
    trace, _ = write_trace(files)
    document = json.loads(trace.read_text())
    trace.write_text(json.dumps(document | {"program": "0x" + "11" * 32}))
    assert "the trace's Program" in refused(invoke("prove", *files.reads, "--trace", str(trace)))
    trace.write_text(json.dumps(document | {"leaves": document["leaves"][:-1]}))
    assert "values, the Program has" in refused(invoke("prove", *files.reads, "--trace", str(trace)))
    trace.write_text(json.dumps(document | {"leaves": []}))
    assert "leaves is not a list" in refused(invoke("prove", *files.reads, "--trace", str(trace)))


# Spoilt inputs


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def reshape(files: Files) -> None:
    files.claim({"weights.out": torch.zeros(3)})


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, tuple[str, Callable[[Files], None]]] = {
    "no program": ("No such file", lambda f: f.program.unlink()),
    "a program cut short": ("wanted at offset", lambda f: truncate(f.program)),
    "no program at all": ("are no Program", lambda f: f.program.write_bytes(b"x" * 100)),
    "another version": ("version 9 of the encoding", lambda f: bend(f.program, 7, 9)),
    "a state cut short": ("before.safetensors: state file", lambda f: truncate(f.state)),
    "a claim cut short": ("after.safetensors: state file", lambda f: truncate(f.claimed)),
    "a state as the batch": ("a batch is one", lambda f: f.batch.write_bytes(f.state.read_bytes())),
    "a batch of another shape": (
        "1: expected int32",
        lambda f: f.batch.write_bytes(encode_state({"tokens": batch(STEP)[:1]})),
    ),
    "a state of another model": (
        "which .* does not read",
        lambda f: f.state.write_bytes(encode_state({"weights.in": torch.zeros(2)})),
    ),
    "a state that lacks a tensor": (
        "inputs are missing",
        lambda f: f.state.write_bytes(encode_state({"step": torch.tensor(0)})),
    ),
    "a claim of another shape": (r"is float32\[3\], the Program gives float32\[40, 16\]", reshape),
    "a claim of another name": ("which the Program does not give", lambda f: f.claim({"extra": torch.zeros(1)})),
    "a claim of nothing": ("nothing is claimed", lambda f: f.claimed.write_bytes(encode_state({}))),
    "a folder as the claim": ("Is a directory", lambda f: make_folder(f.claimed)),
}


def bend(path: Path, at: int, byte: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] = byte
    path.write_bytes(data)


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_answered_in_one_line(files: Files, name: str) -> None:
    message, spoil = SPOILT[name]
    spoil(files)
    assert re.search(message, refused(files.prove()))


WRONG_OPTIONS: dict[str, tuple[str, list[str]]] = {
    "nothing": ("say what was posted", []),
    "no unit": ("holds no run", ["--round", "0", "--dir", "nowhere"]),
    "two claims": ("give one", ["--claimed", "a", "--trace", "b"]),
    "values alone": ("give its --trace too", ["--values", "a"]),
    "a program alone": ("nothing is claimed", ["--program", "a"]),
    "a state alone": ("give --program too", ["--state", "a", "--claimed", "b"]),
    "a merge of a unit": ("give one", ["--merge", "--unit", "1"]),
    "a segment of a claim": ("not with --claimed", ["--segment", "1", "--claimed", "a"]),
    "nowhere to write": ("is no folder", ["--round", "0", "--unit", "1", "--out", "/no/such/proof.json"]),
    "a folder to write": ("is a folder", ["--round", "0", "--unit", "1", "--out", "/"]),
    "a claim alone": ("say which work", ["--claimed", "b"]),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_options_that_do_not_go_together_are_said(name: str) -> None:
    message, options = WRONG_OPTIONS[name]
    assert message in refused(invoke("prove", *options))


# Proofs from hostile hands


def spoil_document(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document | changes


BAD_DOCUMENTS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "another format": ("no cupel-dispute-proof file; its format is 'x'", spoil_document(format="x")),
    "another version": ("has version 2; this program reads 1", spoil_document(version=2)),
    "a version of another kind": ("has version True", spoil_document(version=True)),
    "an unknown field": ("'note' is missing or unknown", spoil_document(note="right")),
    "no proof": ("'proof' is missing", lambda d: {k: v for k, v in d.items() if k != "proof"}),
    "a list": ("is no cupel-dispute-proof file", lambda d: [d]),
    "a claim of a list": ("claim has other fields", spoil_document(claim=[])),
    "a negative element": ("element is -1", lambda d: d | {"claim": d["claim"] | {"element": -1}}),
    "an element too large": ("below 2^64", lambda d: d | {"claim": d["claim"] | {"element": 1 << 64}}),
    "an element as text": ("element is '5'", lambda d: d | {"claim": d["claim"] | {"element": "5"}}),
    "a short root": ("trace is not 0x and 64", lambda d: d | {"claim": d["claim"] | {"trace": "0x00"}}),
    "spaces in hex": ("proof is not 0x", lambda d: d | {"proof": d["proof"][:10] + "  " + d["proof"][12:]}),
    "a proof of nothing": ("Undecodable", spoil_document(proof="0x")),
    "a proof cut short": ("Undecodable", lambda d: d | {"proof": d["proof"][:-64]}),
    "a proof with more behind it": ("Undecodable", lambda d: d | {"proof": d["proof"] + "00" * 32}),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_what_no_proof_file_says_is_refused(proved: Files, tmp_path: Path, name: str) -> None:
    message, spoil = BAD_DOCUMENTS[name]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(spoil(json.loads(proved.proof.read_text()))))
    assert message in refused(invoke("judge", str(path)))


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"cos\nsystem\n(S'echo'\ntR.", b"NaN", b"{}"])
def test_bytes_that_are_no_json_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(data)
    refused(invoke("judge", str(path)))
    with pytest.raises(MalformedInput):
        TraceFile.from_bytes(data)


def test_a_proof_that_names_one_part_a_thousand_times_takes_no_memory(proved: Files) -> None:
    """An offset is four thousandths of the leaf that it names: decoded, this would be 100 times as large."""
    data = ProofFile.read(proved.proof).proof.to_bytes()
    word = 32
    body = word  # the struct's own offset comes first
    openings = body + int.from_bytes(data[body + 4 * word : body + 5 * word], "big")
    first = openings + word + int.from_bytes(data[openings + word : openings + 2 * word], "big")
    count = 1000
    heads = b"".join((count * word).to_bytes(word, "big") for _ in range(count))
    bomb = data[:openings] + count.to_bytes(word, "big") + heads + data[first:]
    with pytest.raises(MalformedProof, match="Undecodable"):
        Proof.from_bytes(bomb)


def test_a_proof_of_what_is_right_convicts_nobody(proved: Files, tmp_path: Path) -> None:
    """Both judges say so: the element next to the wrong one is as it should be."""
    file = ProofFile.read(proved.proof)
    path = tmp_path / "right.json"
    right = replace(file, claim=replace(file.claim, element=file.claim.element + 1))
    path.write_text(right.to_text())
    done = invoke("judge", str(path))
    assert done.exit_code == 1
    assert "It convicts nobody: the claim is right." in done.output


def test_bent_proofs_are_refused_by_both_judges_with_the_same_words(proved: Files) -> None:
    """Bytes turned by lot: never a crash, never another answer of one judge than of the other."""
    honest = ProofFile.read(proved.proof)
    data, lot = honest.proof.to_bytes(), random.Random(7)
    refusals = set()
    for _ in range(30):
        bent = bytearray(data)
        for _ in range(lot.choice((1, 1, 3))):
            bent[lot.randrange(len(bent))] ^= 1 << lot.randrange(8)
        try:
            file = replace(honest, proof=Proof.from_bytes(bytes(bent)))
        except MalformedProof:
            continue
        here, there = judge_in_python(file), judge_in_evm(file)
        assert (here.right, here.refusal) == (there.right, there.refusal)
        refusals.add(here.refusal.partition("(")[0])
    assert {"NotInTensor", "NotInTrace"} <= refusals


def test_other_claims_about_a_proof_are_refused_alike(proved: Files) -> None:
    honest = ProofFile.read(proved.proof)
    for change in (
        {"program": bytes(32)}, {"trace": bytes(32)}, {"values": 1}, {"values": (1 << 32) - 1}, {"value": 0},
        {"value": (1 << 32) - 1}, {"element": (1 << 64) - 1}, {"element": 5000},
    ):  # fmt: skip
        file = replace(honest, claim=replace(honest.claim, **change))
        here, there = judge_in_python(file), judge_in_evm(file)
        assert here.right is there.right is None
        assert here.refusal == there.refusal != ""


def bend_items(claim: Claim, proof: Proof, lot: random.Random) -> ProofFile:
    """One byte of one declaration turned, in a trace made to hold it: who makes up the whole has all hashes right."""
    ids = encoding.Reader(proof.operation.item).operation("operation").operands
    opened = {claim.value: proof.operation, **dict(zip(ids, proof.operands, strict=True))}
    victim = lot.choice([claim.value, claim.value, *ids])
    item = bytearray(opened[victim].item)
    item[lot.randrange(1, len(item))] = lot.choice((0, 1, 2, 7, 8, 100, 127, 128, 255))
    opened[victim] = replace(opened[victim], item=bytes(item))
    leaves = [value_leaf(one.item, typed_root(one)) for one in opened.values()]
    tree = Tree([dict(zip(opened, leaves, strict=True)).get(value, bytes(32)) for value in range(claim.values)])
    opened = {value: replace(one, path=tuple(tree.path(value))) for value, one in opened.items()}
    return ProofFile(
        claim=replace(claim, trace=trace_root(claim.program, claim.values, tree.root)),
        proof=replace(
            proof, tree=tree.root, operation=opened[claim.value], operands=tuple(opened[value] for value in ids)
        ),
    )


def typed_root(value: Value) -> bytes:
    try:
        reader = encoding.Reader(value.item)
        if value.item[0] == encoding.OPERATION:
            return root_of(reader.operation("operation").result, value.tree)
        reader.take(1, "kind")
        return root_of(reader.type("value"), value.tree)
    except MalformedProgram:
        return bytes(32)


def test_operations_that_no_program_holds_convict_nobody_and_break_nothing() -> None:
    lot, chosen = random.Random(11), (Opcode.SUM, Opcode.PERMUTE, Opcode.TAKE, Opcode.DOT, Opcode.SORT, Opcode.PHILOX)
    known = {case.opcode: case for case in cases.all_cases(seed=11, size=4)}
    refusals = set()
    for opcode in chosen:
        prover = prover_of_case(known[opcode])
        claim, proof = prove_honest(prover, len(prover.trace.trees) - 1, 0)
        for _ in range(6):
            file = bend_items(claim, proof, lot)
            verdicts = [judge_in_python(file), judge_in_evm(file)]
            assert verdicts[0].right is not False
            if verdicts[0].refusal.startswith("MalformedItem"):
                assert sum_up(verdicts) == "It convicts nobody: no Program holds such an operation."
            else:
                assert verdicts[0].right == verdicts[1].right
            refusals.add(verdicts[0].refusal.partition("(")[0])
    assert len(refusals) > 2
