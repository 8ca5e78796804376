"""Prometheus metrics of a node, read from its parts when they are asked for: counting costs the node nothing.

Served by a listener of its own, off unless asked for: the gateway is for strangers, these numbers are not.
"""

from __future__ import annotations

import platform
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol, TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import cupel
from cupel.chain.endpoints import Endpoint
from cupel.chain.run_values import Phase
from cupel.network.ipfs.blockstore import BlockStore, Usage
from cupel.network.ipfs.fetch import Fetcher
from cupel.network.ipfs.gateway import GatewayServer
from cupel.node.disputes.counts import DisputeCounts
from cupel.node.journal import Journal
from cupel.node.metering import MeteredClient
from cupel.node.settings import NodeSettings, WrongSetting, parse_metrics
from cupel.node.stats import Stats
from cupel.protocol.errors import CupelError

Labels: TypeAlias = tuple[str, ...]
TOKEN_UNITS = ETH = 10**18
USAGE_KEPT_S = 30.0
"""Counting the store's blocks reads its folders; more often tells nobody more."""


class Watched(Protocol):
    """What is looked at: a node's session."""

    settings: NodeSettings
    stats: Stats
    disputes: DisputeCounts
    chain: MeteredClient
    fetcher: Fetcher
    gateway: GatewayServer
    store: BlockStore
    journal: Journal

    @property
    def backend(self) -> str: ...


class NodeCollector(Collector):
    """The node's numbers as of now."""

    def __init__(self, node: Watched, process: str) -> None:
        self._node, self._process, self._began = node, process, time.monotonic()
        self._usage: tuple[float, Usage] | None = None
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """None ahead of time: registering must not read the node."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._about_the_process()
        yield from self._about_the_work()
        yield from self._about_the_disputes()
        yield from self._about_the_chain()
        yield from self._about_the_peers()
        yield from self._about_the_disk()

    def _about_the_process(self) -> Iterator[Metric]:
        about = {"version": cupel.__version__, "process": self._process, "backend": self._node.backend}
        about["python"] = platform.python_version()
        yield _gauges("cupel_build_info", "What runs here; always 1.", tuple(about), {tuple(about.values()): 1})
        yield GaugeMetricFamily("cupel_uptime_seconds", "Since the node was ready.", time.monotonic() - self._began)

    def _about_the_work(self) -> Iterator[Metric]:
        stats = self._node.stats
        yield CounterMetricFamily("cupel_steps", "Optimiser steps trained or replayed.", stats.steps)
        yield CounterMetricFamily("cupel_step_seconds", "Seconds spent in them.", stats.steps_s)
        outcomes: dict[Labels, float] = {
            ("accepted",): stats.accepted,
            ("rejected",): stats.rejected,
            ("stale",): stats.stale,
        }
        yield _counters("cupel_units", "Units by what became of them, or of what was found.", ("outcome",), outcomes)
        yield GaugeMetricFamily("cupel_round", "The run's current round.", stats.round)
        phases: dict[Labels, float] = {
            (phase.name.lower(),): float(stats.phase == phase.name.lower()) for phase in Phase
        }
        yield _gauges("cupel_phase", "1 for the round's phase, 0 for the others.", ("phase",), phases)
        rewards: dict[Labels, float] = {
            ("pending",): stats.pending / TOKEN_UNITS,
            ("matured",): stats.matured / TOKEN_UNITS,
        }
        yield _gauges(
            "cupel_rewards_tokens", "Earned and not claimable yet; claimable or claimed.", ("state",), rewards
        )
        if stats.loss is not None:
            yield GaugeMetricFamily("cupel_loss_nats", "Of the last segment computed, a token.", stats.loss)

    def _about_the_disputes(self) -> Iterator[Metric]:
        counts = self._node.disputes
        # What the court says now: a re-org may take an ending back, so nothing here only ever grows.
        open_: dict[Labels, float] = {("accused",): counts.accused, ("challenger",): counts.challenging}
        yield _gauges("cupel_disputes_open", "Open disputes, by this node's side in them.", ("side",), open_)
        ended: dict[Labels, float] = {("won",): counts.won, ("lost",): counts.lost}
        yield _gauges("cupel_disputes_ended", "Disputes of this node that a side lost.", ("outcome",), ended)
        yield GaugeMetricFamily(
            "cupel_dispute_bonds_eth", "At stake in open disputes that it began.", counts.bonds_wei / ETH
        )
        yield GaugeMetricFamily("cupel_dispute_prizes_eth", "What its convictions brought.", counts.prizes_wei / ETH)

    def _about_the_chain(self) -> Iterator[Metric]:
        chain, newest = self._node.chain, self._node.chain.newest
        if newest is not None:
            yield GaugeMetricFamily("cupel_chain_height_blocks", "The newest block looked at.", newest.number)
            age_s = time.time() - newest.timestamp
            yield GaugeMetricFamily("cupel_chain_head_age_seconds", "Its age by this machine's clock.", age_s)
            fee = newest.base_fee_wei / 1e9
            yield GaugeMetricFamily("cupel_chain_base_fee_gwei", "What it asked per gas.", fee)
        yield CounterMetricFamily("cupel_chain_reorgs", "Re-orgs seen.", self._node.stats.reorgs)
        ends: dict[Labels, Endpoint] = {(endpoint.name,): endpoint for endpoint in chain.endpoints}
        up: dict[Labels, float] = {name: float(endpoint.is_fit) for name, endpoint in ends.items()}
        yield _gauges("cupel_rpc_endpoint_up", "Whether the endpoint is asked.", ("endpoint",), up)
        requests: dict[Labels, float] = {name: endpoint.requests for name, endpoint in ends.items()}
        yield _counters("cupel_rpc_requests", "Requests to the endpoint.", ("endpoint",), requests)
        silences: dict[Labels, float] = {name: endpoint.silences for name, endpoint in ends.items()}
        yield _counters(
            "cupel_rpc_failures", "Requests it did not answer; another endpoint is then asked.", ("endpoint",), silences
        )
        counts = chain.counts
        by_outcome: dict[Labels, float] = {(name,): number for name, number in sorted(counts.outcomes.items())}
        yield _counters("cupel_transactions", "Transactions by what became of them.", ("outcome",), by_outcome)
        yield CounterMetricFamily("cupel_gas_used", "Gas of this node's transactions.", counts.gas_used)
        yield CounterMetricFamily("cupel_fees_paid_eth", "What they cost.", counts.cost_wei / ETH)

    def _about_the_peers(self) -> Iterator[Metric]:
        counts, admission = self._node.fetcher.counts, self._node.gateway.admission
        yield CounterMetricFamily("cupel_fetched_bytes", "Blocks fetched from peers.", counts.fetched_bytes)
        failures: dict[Labels, float] = {(kind,): number for kind, number in counts.failures.items()}
        yield _counters("cupel_peer_failures", "Requests peers did not serve, by reason.", ("reason",), failures)
        yield CounterMetricFamily("cupel_served_bytes", "Blocks served to peers.", admission.charged_bytes)
        served: dict[Labels, float] = {("admitted",): admission.admitted, ("refused",): admission.refused}
        yield _counters("cupel_served_requests", "Requests of peers, let in or over a limit.", ("verdict",), served)
        faults: dict[Labels, float] = {(kind,): number for kind, number in admission.faults.items()}
        yield _counters(
            "cupel_gateway_faults",
            "Connections and answers ended for what clients did.",
            ("kind",),
            faults,
        )

    def _about_the_disk(self) -> Iterator[Metric]:
        usage = self._read_usage()
        if usage is not None:
            yield GaugeMetricFamily("cupel_store_bytes", "Blocks on disk.", usage.size_bytes)
            yield GaugeMetricFamily("cupel_store_blocks", "Their number.", usage.blocks)
        try:
            free = shutil.disk_usage(self._node.settings.data).free
            yield GaugeMetricFamily("cupel_data_free_bytes", "Room left where the node's folder is.", free)
            entries = self._node.journal.count()
            yield GaugeMetricFamily("cupel_journal_statements", "Answers written down.", entries)
        except (OSError, CupelError):
            # A failing disk: the node says so itself, and a metric that is missing raises the alarm.
            return

    def _read_usage(self) -> Usage | None:
        with self._lock:
            now = time.monotonic()
            if self._usage is None or now - self._usage[0] > USAGE_KEPT_S:
                with suppress(FileNotFoundError):  # a block was let go of while they were counted
                    self._usage = (now, self._node.store.usage())
            return None if self._usage is None else self._usage[1]


def _gauges(name: str, words: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, words, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


def _counters(name: str, words: str, labels: tuple[str, ...], values: Mapping[Labels, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, words, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


@contextmanager
def serve_metrics(node: Watched, process: str) -> Iterator[str | None]:
    """Serve the node's metrics where its settings say; the URL, or None where they say nowhere.

    Raises WrongSetting: the address is taken
    """
    if node.settings.metrics is None:
        yield None
        return
    host, port = parse_metrics(node.settings.metrics)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(NodeCollector(node, process))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise WrongSetting("metrics", f"--metrics: cannot listen on {host}:{port}: {error.strerror}") from None
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
