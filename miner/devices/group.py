"""A miner's worker processes: started when first needed, told what to do, and ended with the miner."""

from __future__ import annotations

import queue
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from cupel.miner.devices.messages import Message
from cupel.miner.devices.process import ENDING_S, WorkerProcess
from cupel.protocol.errors import WorkersFailed
from cupel.protocol.parallel import Layout, make_layout
from cupel.protocol.program import Program
from cupel.protocol.training.unit import State, Stepped

_LOOK_S = 0.5
"""How often a waiting miner looks whether it is asked to end."""
PATIENCE_S = 1800.0
"""How long a miner waits for its workers' answers. Longer than they wait for each other, so that one of them says what
is wrong, and than any step takes that is worth sharing on one machine."""
SILENCE_S = 120.0
"""How long a worker may give no sign of life, computing or not: one that is stopped, or whose machine is stuck, gives
none."""
_SIGNS = 20
"""Signs of life a worker gives in that time."""


class WorkerGroup:
    """Training steps on several processes of this machine; `step` is what `unit` calls a Step.

    The state stays with the workers from step to step, and is collected when somebody looks at it.
    """

    def __init__(
        self,
        program: Program,
        *,
        size: int,
        backend: str,
        threads: int = 1,
        check: Callable[[], None] = lambda: None,
        folder: Path | None = None,
        patience_s: float = PATIENCE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """
        program  a training step, as `RunPrograms.step`
        threads  of each worker
        check    called while waiting; may raise, which ends the workers
        folder   where workers find each other, this group's alone: emptied first, gone after; else a temporary one
        Raises   as `make_layout`
        """
        self.layout: Layout = make_layout(program, size)
        self._program, self._backend, self._threads, self._check = program, backend, threads, check
        self._workers: list[WorkerProcess] = []
        self._inbox: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
        self._wanted_folder, self._patience_s, self._silence_s = folder, patience_s, silence_s
        self._folder: Path | None = None
        self._latest: GroupState | None = None
        self.failures = 0
        """How often workers failed since a state was last collected from them."""

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def step(self, state: State, tokens: torch.Tensor) -> Stepped:
        """One optimiser update. Of the states it returns, only the last can be looked at, or one looked at before.

        Raises  WorkersFailed: a worker ended; the next call starts all of them anew
        """
        try:
            if not self._workers:
                self._start()
            if self._latest is None or not self._latest.is_same(state):
                self._give(state)
            elif isinstance(state, GroupState):
                state.expire()
            for worker in self._workers:
                worker.tell(Message("step", {}, {"tokens": self.layout.split_tokens(tokens, worker.rank)}))
            metrics = self._answers()[0].tensors
        except BaseException as failure:
            self._end_after(failure)
            raise
        self._latest = GroupState(self)
        return Stepped(self._latest, metrics["loss"], metrics["grad_norm"])

    def fetch(self) -> dict[str, torch.Tensor]:
        """The whole state after the last step. Raises WorkersFailed."""
        try:
            for worker in self._workers:
                worker.tell(Message("fetch"))
            pieces = [answer.tensors for answer in self._answers()]
        except BaseException as failure:
            self._end_after(failure)
            raise
        self.failures = 0
        return self.layout.join_state(pieces)

    def _end_after(self, failure: BaseException) -> None:
        self.failures += isinstance(failure, WorkersFailed)
        self.close()

    def close(self) -> None:
        """End the workers. A later step starts new ones."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.wait()
        if self._latest is not None:
            self._latest.expire()
            self._latest = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Workers

    def _start(self) -> None:
        self._inbox = queue.SimpleQueue()
        self._folder = self._make_folder()
        program = torch.frombuffer(bytearray(self._program.to_bytes()), dtype=torch.uint8)
        size = self.layout.size
        for rank in range(size):
            worker = WorkerProcess(rank, self._inbox)
            self._workers.append(worker)
            facts = {
                "rank": rank,
                "size": size,
                "meeting": str(self._folder / "meeting"),
                "backend": self._backend,
                "threads": self._threads,
                "sign_s": self._silence_s / _SIGNS,
            }
            worker.tell(Message("open", facts, {"program": program}))
        self._answers()

    def _make_folder(self) -> Path:
        if self._wanted_folder is None:
            return Path(tempfile.mkdtemp(prefix="cupel-workers-"))
        # A miner that was killed left its own.
        shutil.rmtree(self._wanted_folder, ignore_errors=True)
        self._wanted_folder.mkdir(parents=True, mode=0o700)
        return self._wanted_folder

    def _give(self, state: State) -> None:
        if self._latest is not None:
            self._latest.expire()
            self._latest = None
        for worker in self._workers:
            worker.tell(Message("state", {}, self.layout.split_state(state, worker.rank)))

    def _answers(self) -> list[Message]:
        """One answer of each worker, in order."""
        answers: dict[int, Message] = {}
        # Looks, not the clock: a miner that was itself stopped for a while has heard nothing in that time.
        silent = [0] * len(self._workers)
        deadline = time.monotonic() + self._patience_s
        while len(answers) < len(self._workers):
            try:
                rank, answer = self._inbox.get(timeout=_LOOK_S)
            except queue.Empty:
                self._check()
                missing = [rank for rank in range(len(self._workers)) if rank not in answers]
                if time.monotonic() > deadline:
                    raise self._stuck(missing, f"no answer for {self._patience_s:.0f} s") from None
                for rank, worker in enumerate(self._workers):
                    silent[rank] = 0 if worker.has_spoken() else silent[rank] + 1
                if dead := [rank for rank in range(len(silent)) if silent[rank] * _LOOK_S > self._silence_s]:
                    raise self._stuck(dead, f"no sign of life for {self._silence_s:.0f} s") from None
                continue
            if answer is None or answer.what == "failed":
                raise self._failure(rank, answer)
            answers[rank] = answer
        return [answers[rank] for rank in range(len(self._workers))]

    def _failure(self, rank: int, answer: Message | None) -> WorkersFailed:
        """Why: who merely lost its connection to another is not the one to blame."""
        failures = {rank: answer}
        while True:
            try:
                other, said = self._inbox.get(timeout=_LOOK_S)
            except queue.Empty:
                break
            if said is None or said.what == "failed":
                failures.setdefault(other, said)
        silent = [r for r, said in failures.items() if said is None]
        blamed = silent[0] if silent else rank
        said = failures[blamed]
        reason = self._how_it_ended(self._workers[blamed].process) if said is None else str(said.facts["reason"])
        return WorkersFailed(f"worker process {blamed} of {self.layout.size}: {reason}; its step is done again")

    def _how_it_ended(self, process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return "stopped talking without ending, and was killed"
        return f"ended by signal {-code}" if code < 0 else f"ended with code {code}"

    def _stuck(self, those: Sequence[int], how: str) -> WorkersFailed:
        """None of `those` would end by itself."""
        for rank in those:
            self._workers[rank].process.kill()
        which = f"worker process{'es' if len(those) > 1 else ''} {', '.join(map(str, those))} of {self.layout.size}"
        return WorkersFailed(f"{which}: {how}, killed; its step is done again")


class GroupState(Mapping[str, torch.Tensor]):
    """The state after a step, with the workers until somebody looks at it."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group: WorkerGroup | None = group
        self._names = tuple(group.layout.state_types)
        self._whole: dict[str, torch.Tensor] | None = None

    def _fetched(self) -> dict[str, torch.Tensor]:
        if self._whole is None:
            if self._group is None:
                raise AssertionError("this state was stepped from without being looked at, and is no more")
            self._whole = self._group.fetch()
        return self._whole

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._fetched()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def is_same(self, state: State) -> bool:
        """Whether `state` is this one: itself, or exactly the tensors it was collected into."""
        if state is self:
            return self._group is not None
        if self._whole is None or isinstance(state, GroupState) or len(state) != len(self._whole):
            return False
        return all(state.get(name) is tensor for name, tensor in self._whole.items())

    def expire(self) -> None:
        """The workers go on; what was collected stays."""
        self._group = None
