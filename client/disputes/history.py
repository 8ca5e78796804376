"""Disputes of a run as its court's events tell them, every move with its block and transaction."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eth_utils.address import to_canonical_address

from cupel.chain.abi import ContractAbi, decode_values, load_abi
from cupel.chain.client import ChainClient
from cupel.chain.court_contract import CourtContract
from cupel.chain.court_events import ENDINGS, CourtEvent, DisputeRecord, Reason, collect_disputes
from cupel.chain.errors import ContractReverted
from cupel.chain.run_file import RunFile
from cupel.chain.run_values import ZERO_ADDRESS
from cupel.disputes.deciding import DECIDING, tell_decision
from cupel.disputes.files import ProofFile
from cupel.disputes.inputs import BATCH
from cupel.protocol.arithmetic.operations import TensorType
from cupel.protocol.disputes import Claim, Proof
from cupel.protocol.errors import MalformedInput, MalformedProgram, UsageError
from cupel.protocol.hashing import LEAF_BYTES
from cupel.protocol.proceedings import Stage
from cupel.protocol.program import encoding
from cupel.protocol.types import Address, Height

_COURT = {
    "type": "function",
    "name": "court",
    "inputs": (),
    "outputs": ({"name": "", "type": "address"},),
    "stateMutability": "view",
}
_DISPUTABLE = ContractAbi("IDisputable", (_COURT,), b"")
"""The one question of `IDisputable` that is asked of whatever contract a run file names."""


def find_court(client: ChainClient, run: RunFile) -> CourtContract:
    """The court that the run named at its deployment. Raises UsageError: nothing is there, or a run without court."""
    if not client.has_code(run.contract):
        raise UsageError(f"no contract is at {run.contract} on chain {client.chain_id}: is this the run's chain?")
    try:
        (address,) = client.call(_DISPUTABLE.bind(run.contract, "court"))
    except (ContractReverted, MalformedInput):
        raise UsageError(f"the contract at {run.contract} names no court: it is older than disputes") from None
    if address == ZERO_ADDRESS:
        raise UsageError(f"the run at {run.contract} was deployed without a court: nothing in it can be disputed")
    return CourtContract(client, Address(address))


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeMove:
    """One transaction in a dispute."""

    by: str
    """`challenger`, `accused` or, for an ending that anybody may bring, `anybody`."""
    text: str
    height: Height
    transaction: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DisputeSummary:
    """One dispute as of one block."""

    dispute: int
    subject: bytes
    kind: str
    """`unit` or `merge`."""
    segment: int
    accused: str
    challenger: str
    bond_wei: str
    opened_at: Height
    stage: str
    """Name of what has to happen next, `CLOSED` after the end."""
    mover: str
    """Whose turn it is: `accused`, `challenger`, or empty after the end."""
    until: int
    """Last block in which the mover may move; 0 after the end."""
    blocks_left: int
    """Of the mover's time; 0 where it is out, and after the end."""
    ending: str
    """How it ended in words; empty while it is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedElement:
    """An element that was judged, as the accused had shown it."""

    computed: bool
    """By an operation; else it is an input's."""
    name: str
    """Opcode of an operation, or which input it is."""
    type: TensorType
    claimed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedElement:
    """What a court recomputed."""

    value: int
    number: int
    """Of the operation in the Program, from 0."""
    element: int
    file: ProofFile


class CourtReader:
    """The disputes of one run, all as of one block."""

    def __init__(self, client: ChainClient, run: RunFile) -> None:
        self._client, self._run = client, run
        self.court = find_court(client, run)
        self.height = client.head().number

    def list_disputes(self) -> list[DisputeRecord]:
        """Of this run, oldest first."""
        first = self._run.deploy_block
        numbers = [
            event.dispute
            for event in self.court.get_events(
                first_block=first, last_block=self.height, kinds=["Accused"], run=self._run.contract
            )
            if event.dispute is not None
        ]
        if not numbers:
            return []
        about = [number.to_bytes(32, "big") for number in numbers]
        events: list[CourtEvent] = []
        # A node takes only so many alternatives in one question.
        for start in range(0, len(about), _NUMBERS_ASKED):
            part = about[start : start + _NUMBERS_ASKED]
            events += self.court.get_events(first_block=first, last_block=self.height, about=part)
        records = collect_disputes(event for event in events if event.dispute in set(numbers))
        return [records[number] for number in sorted(records)]

    def get_dispute(self, number: int) -> DisputeRecord:
        """Raises UsageError: this run has no such dispute, with those that it has."""
        about = [number.to_bytes(32, "big")] if 0 <= number < 1 << 64 else []
        events = self.court.get_events(
            first_block=self._run.deploy_block, last_block=self.height, about=about
        ) if about else []  # fmt: skip
        record = collect_disputes(event for event in events if event.dispute == number).get(number)
        if record is None or record.run != self._run.contract:
            known = ", ".join(str(one.number) for one in self.list_disputes()[-10:]) or "none"
            raise UsageError(f"the run has no dispute {number}; newest disputes: {known}")
        return record

    def find_judged(self, record: DisputeRecord) -> JudgedElement | None:
        """The element that ended a dispute, with its proof, from the moves' transactions.

        None where no operation's element did, and where the moves went through another contract, whose transaction
        does not show them.
        """
        ending = record.ending
        if ending is None or ending.reason != Reason.ELEMENT:
            return None
        judged = self._read_move(record.events[-1], "judge")
        posted = _last(record, "TracePosted")
        found = record.position.found
        if judged is None or posted is None or found is None:
            return None
        traced = self._read_move(posted, "postTrace")
        if traced is None:
            return None
        try:
            inputs, constants, operations = _read_header(traced["header"])
            file = ProofFile(
                claim=Claim(
                    program=posted.arguments["program"],
                    trace=posted.arguments["traceRoot"],
                    values=inputs + constants + operations,
                    value=found.index,
                    element=judged["element"],
                ),
                proof=Proof.from_bytes(judged["proof"]),
            )
        except MalformedInput:
            return None
        number = found.index - inputs - constants
        return JudgedElement(value=found.index, number=number, element=judged["element"], file=file)

    def find_element(self, record: DisputeRecord) -> int | None:
        """Which element ended a dispute; None where none did, or it cannot be read."""
        ending, reduction = record.ending, record.position.reduction
        if ending is None or ending.reason != Reason.ELEMENT:
            return None
        if ending.convicted:
            return ending.element
        if reduction is not None:
            return reduction.element
        for function in ("judge", "judgeOrder"):
            move = self._read_move(record.events[-1], function)
            if move is not None:
                return int(move["element"])
        return None

    def find_opened(self, record: DisputeRecord) -> OpenedElement | None:
        """The element that ended a dispute, as the accused showed it; None where it cannot be read."""
        opened, leaf, element = _last(record, "ValueOpened"), _last(record, "LeafOpened"), self.find_element(record)
        if opened is None or leaf is None or element is None:
            return None
        move = self._read_move(opened, "openValue")
        if move is None:
            return None
        try:
            name, type_ = _read_item(move["item"])
        except MalformedProgram:
            return None
        size = type_.dtype.size_bytes
        at = element * size - leaf.arguments["index"] * LEAF_BYTES
        claimed = leaf.arguments["data"][at : at + size] if at >= 0 else b""
        if len(claimed) != size:
            return None
        computed = move["item"][0][:1] == bytes([encoding.OPERATION])
        return OpenedElement(computed=computed, name=name, type=type_, claimed=claimed)

    def tell_decision(self, record: DisputeRecord) -> str:
        """Of an element that was not recomputed at once, what decided; empty for any other, or if it cannot be read."""
        if record.ending is None or record.ending.reason != Reason.ELEMENT:
            return ""
        opened = self.find_opened(record)
        for function in DECIDING:
            move = self._read_move(record.events[-1], function)
            if move is not None:
                return tell_decision(record, function, move, "" if opened is None else opened.name)
        return ""

    def _read_move(self, event: CourtEvent, function: str) -> dict[str, Any] | None:
        """The arguments of the transaction that an event is of, if it called this function of the court."""
        sent = next(
            (one for one in self._client.get_transactions(event.block_number) if one.hash == event.transaction_hash),
            None,
        )
        if sent is None or sent.to is None or to_canonical_address(sent.to) != to_canonical_address(self.court.address):
            return None
        declared = load_abi("Court").functions[function]
        if sent.data[:4] != declared.selector:
            return None
        try:
            values = decode_values(declared.inputs, sent.data[4:], function)
        except MalformedInput:
            return None
        return dict(zip(PARAMETERS[function], values, strict=True))


def _last(record: DisputeRecord, name: str) -> CourtEvent | None:
    return next((event for event in reversed(record.events) if event.name == name), None)


_NUMBERS_ASKED = 500
PARAMETERS = {
    "judge": ("dispute", "element", "proof"),
    "postTrace": ("dispute", "program", "program_proof", "header", "nodes"),
    "openValue": ("dispute", "item", "tensor_root", "place", "nodes"),
    "judgeBlock": ("dispute", "place", "sum", "sum_proof", "proof"),
    "judgeWitness": ("dispute", "positions", "proof"),
    "judgeOrder": ("dispute", "element", "positions", "proof"),
}
"""By place: the court's ABI leaves those unnamed that only its clerk reads."""


def _read_header(item: tuple[bytes, Any]) -> tuple[int, int, int]:
    """Inputs, constants and operations of a Program, from its first item. Raises MalformedInput."""
    data = item[0]
    if len(data) < struct.calcsize("<BHIII"):
        raise MalformedProgram(f"a header of {len(data)} bytes")
    _, _, inputs, constants, operations = struct.unpack_from("<BHIII", data)
    return inputs, constants, operations


def _read_item(item: tuple[bytes, Any]) -> tuple[str, TensorType]:
    """Raises MalformedProgram."""
    data = item[0]
    if data[:1] == bytes([encoding.OPERATION]):
        operation = encoding.Reader(data).operation("operation")
        return operation.opcode.name, operation.result
    reader = encoding.Reader(data[1:])
    type_ = reader.type("value")
    if data[:1] != bytes([encoding.INPUT]):
        return "a constant", type_
    name = reader.name("input")
    return f"input {name!r}{', the batch' if name == BATCH else ''}", type_


def summarise(record: DisputeRecord, height: int) -> DisputeSummary:
    """A dispute in one line's worth, as of a height."""
    turn = record.turn
    return DisputeSummary(
        dispute=record.number,
        subject=record.subject,
        kind=kind_of(record),
        segment=record.segment,
        accused=record.accused,
        challenger=record.challenger,
        bond_wei=str(record.bond_wei),
        opened_at=record.accusation.block_number,
        stage=turn.stage.name if turn is not None else Stage.CLOSED.name,
        mover="" if turn is None else _side(record, turn.mover),
        until=0 if turn is None else int(turn.until),
        blocks_left=0 if turn is None else max(0, int(turn.until) - height),
        ending=tell_ending(record),
    )


def kind_of(record: DisputeRecord) -> str:
    """A merge's dispute begins with the trace: it has no segments."""
    first = next((event for event in record.events if event.name == "Turn"), None)
    return "merge" if first is not None and first.arguments["stage"] == Stage.TRACE else "unit"


def _side(record: DisputeRecord, address: str) -> str:
    return "accused" if address == record.accused else "challenger"


_CONVICTED = {
    Reason.ELEMENT: "an element was recomputed and is wrong",
    Reason.SILENCE: "the accused did not answer in time",
    Reason.OMISSION: "the state after leaves an output out",
}
_DISMISSED = {
    Reason.ELEMENT: "the element was recomputed and is right",
    Reason.SILENCE: "the challenger did not answer in time",
    Reason.BOUND: "the chosen value is what the Program or the state before says",
    Reason.EMPTY: "the chosen value has no elements",
    Reason.STATE: "the state after holds every output in its place",
    Reason.EVIDENCE: "loss and gradient norm are the trace's",
}


def tell_ending(record: DisputeRecord) -> str:
    """How it ended, in words; nothing while it is open."""
    ending = record.ending
    if ending is None:
        return ""
    if ending.closed:
        return "closed: another dispute decided"
    words = _CONVICTED if ending.convicted else _DISMISSED
    verdict = "convicted" if ending.convicted else "dismissed"
    return f"{verdict}: {words.get(ending.reason, ending.reason.name.lower())}"


def tell_moves(record: DisputeRecord) -> list[MadeMove]:
    """Everything that happened, transaction by transaction."""
    moves, mover, stage = [], "challenger", Stage.NONE
    for transaction, grouped in groupby(record.events, key=lambda event: event.transaction_hash):
        events = list(grouped)
        told = [event for event in events if event.name != "Turn"]
        ends = {event.name for event in told} & ENDINGS
        by_time = ends and record.ending is not None and record.ending.reason in (Reason.SILENCE, Reason.NONE)
        moves.append(
            MadeMove(
                by="anybody" if by_time else mover,
                text="; ".join(_tell(event, stage) for event in told),
                height=events[0].block_number,
                transaction=transaction,
            )
        )
        turns = [event for event in events if event.name == "Turn"]
        if turns:
            mover, stage = _side(record, turns[-1].arguments["mover"]), Stage(turns[-1].arguments["stage"])
    return moves


def _tell(event: CourtEvent, stage: Stage) -> str:
    """One event of a move at this stage, in words."""
    a = event.arguments
    by_element = a.get("reason") == Reason.ELEMENT
    # A dismissal does not say which element: the move that brought it does.
    judged = f"element {a['element']}" if "element" in a else "an element"
    judged = "a sum or a term" if stage == Stage.SUM_CHOICE else judged
    words: dict[str, Callable[[], str]] = {
        "Accused": lambda: "accuses, with its bond",
        "SegmentOpened": lambda: (
            f"opens the segment: loss {_float(a['loss'])}, gradient norm {_float(a['gradientNorm'])}, "
            f"{_count(a['innerRoots'], 'state')} inside"
        ),
        "StepChosen": lambda: f"chooses step {a['step']} of the segment",
        "TracePosted": lambda: f"posts the trace 0x{a['traceRoot'].hex()[:16]}… ({_count(a['nodes'], 'node')})",
        "NodesOpened": lambda: f"opens {_count(a['nodes'], 'node')}",
        "NodeChosen": lambda: _tell_choice(stage, a["level"], a["index"]),
        "ValueOpened": lambda: f"opens value {a['value']}",
        "LeafOpened": lambda: f"shows leaf {a['index']}, {len(a['data']):,} bytes",
        "SumsAsked": lambda: f"asks for the partial sums of element {a['element']}, of {a['terms']:,} terms",
        "SumsPosted": lambda: f"posts {_count(a['sums'], 'sum')}" if a["sums"] else "names the term that decides",
        "SumChosen": lambda: f"chooses sum {a['place']}, of terms {a['first']:,} to {a['end'] - 1:,}",
        "PartsPosted": lambda: f"posts {_count(a['parts'], 'part')} of it",
        "StateContested": lambda: "contests the state after: every value is right",
        "EvidenceContested": lambda: "contests loss and gradient norm: every value is right",
        "StateLeafOpened": lambda: f"shows leaf {a['index']} of the state after, {_name(a['name'])}",
        "Convicted": lambda: f"has {judged} recomputed: CONVICTED" if by_element else "CONVICTED",
        "Dismissed": lambda: f"has {judged} recomputed: DISMISSED" if by_element else "DISMISSED",
        "Closed": lambda: "closed",
    }
    return words[event.name]() if event.name in words else event.name


def _name(name: bytes) -> str:
    """Quoted, so that nothing in it reaches a terminal as more than text."""
    return ascii(name.decode(errors="replace"))


def _tell_choice(stage: Stage, level: int, index: int) -> str:
    """Of which tree something was chosen follows from where the dispute stood."""
    if level:
        return f"chooses node {index} of level {level}, to be opened further"
    if stage in (Stage.CONTEST, Stage.TRACE_CHOICE):
        return f"chooses value {index}: the first that is wrong"
    return f"chooses leaf {index} of {'the state after' if stage == Stage.STATE_CHOICE else 'its bytes'}"


def _count(things: Sequence[bytes], name: str) -> str:
    return f"{len(things):,} {name}{'' if len(things) == 1 else 's'}"


def _float(bits: bytes) -> str:
    return f"{struct.unpack('<f', bits)[0]:.6g}"
