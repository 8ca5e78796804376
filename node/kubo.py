"""Giving a Kubo daemon what this node keeps for everybody, so that its network finds it.

A thread of its own: the daemon may be slow, hang or be away, and the node works on. What was given is written down
beside the store, so that after a restart what is kept no longer is let go there too, and nothing else ever is.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cupel.network.ipfs.blockstore import BlockMissing, BlockStore, atomic_file
from cupel.network.ipfs.kubo import KuboClient
from cupel.network.ipfs.peers import PeerFailed
from cupel.protocol.errors import MalformedBlock
from cupel.protocol.types import Cid

LOOK_S = 2.0
"""How often it is looked whether there is something new."""
LONGEST_PAUSE_S = 120.0
"""Between attempts while the daemon does not answer; the first pause is LOOK_S."""

log = logging.getLogger(__name__)


class KuboMirror:
    """Keeps the daemon's pins of this node's public files what they are here. Entered, it works until it is left.

    public   names and CIDs of files that anybody may have and that are kept for good
    record   file that says what the daemon was given
    """

    def __init__(
        self, client: KuboClient, store: BlockStore, public: Callable[[], Mapping[str, Cid]], record: Path
    ) -> None:
        self._client, self._store, self._public, self._record = client, store, public, record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubo", daemon=True)
        self._seen = -1
        self._is_well = True

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def given(self) -> frozenset[Cid]:
        """What the daemon was given and still keeps for this node."""
        try:
            return frozenset(Cid(cid) for cid in json.loads(self._record.read_text("utf-8")))
        except FileNotFoundError:
            return frozenset()
        except (ValueError, TypeError) as error:
            log.warning("%s is damaged (%s): files that Kubo pins for this node stay pinned there", self._record, error)
            return frozenset()

    def _run(self) -> None:
        pause_s = LOOK_S
        while not self._stop.is_set():
            changed = self._store.pins_changed
            if changed != self._seen:
                try:
                    self.update()
                    self._seen, pause_s, self._is_well = changed, LOOK_S, True
                except (PeerFailed, BlockMissing, MalformedBlock, OSError) as trouble:
                    if self._is_well:
                        log.warning("not given to Kubo, which is asked again: %s", trouble)
                    self._is_well, pause_s = False, min(2 * pause_s, LONGEST_PAUSE_S)
            self._stop.wait(pause_s)

    def update(self) -> None:
        """Give and let go, once. Raises PeerFailed, BlockMissing, MalformedBlock or OSError; what was done stays."""
        wanted, given = frozenset(self._public().values()), set(self.given())
        for cid in sorted(wanted - given):
            self._client.add_file(self._store, cid, abandon=self._stop)
            given.add(cid)
            self._write(given)
        for cid in sorted(given - wanted):
            self._client.unpin(cid)
            given.discard(cid)
            self._write(given)

    def _write(self, given: set[Cid]) -> None:
        with atomic_file(self._record) as file:
            file.write(json.dumps(sorted(given), indent=1).encode())
