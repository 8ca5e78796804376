"""One chain behind several URLs: whom to ask, and whom not for now.

Endpoints are asked in the order given. One that is silent, asks for patience or lags behind rests, and comes back when
it answers and has caught up. Every request may be repeated elsewhere: reads change nothing, and a signed transaction
sent twice is one transaction.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cupel.chain.answers import parse_block, parse_quantity
from cupel.chain.errors import ChainUnreachable, WrongChain
from cupel.chain.rate_limit import TokenBucket
from cupel.chain.transport import RpcFault, Silent, Throttled, Transport
from cupel.protocol.errors import MalformedInput, UsageError

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_LONGEST_REST_S = 30.0
_INTERNAL_ERROR = -32603
_UNKNOWN_THERE = ("header not found", "unknown block", "block not found", "missing trie node")
"""Beginnings of a node's words for a block it does not have, though another may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPolicy:
    """When an endpoint is asked."""

    max_lag_blocks: int = 5
    """An endpoint this far behind the best one rests until it has caught up..."""
    max_lag_s: float = 120.0
    """...and so does one whose newest block is this much older than the best one's."""
    check_s: float = 2.0
    """How often all are compared, where there are several."""
    timeout_s: float | None = None
    """For one request; None: 30 s with one endpoint, 10 s where another could be asked instead."""
    requests_per_s: float | None = None
    """Per endpoint; None: 25 for others' machines, no limit on this one. 0: no limit."""

    def __post_init__(self) -> None:
        if self.max_lag_blocks < 1 or self.max_lag_s <= 0 or self.check_s <= 0:
            raise UsageError(f"lags and times between checks must be above 0: {self}")
        if (self.timeout_s is not None and self.timeout_s <= 0) or (self.requests_per_s or 0) < 0:
            raise UsageError(f"a request's time must be above 0, its rate not below: {self}")


class Endpoint:
    """One URL and what is known of it."""

    def __init__(self, url: str, policy: EndpointPolicy, *, timeout_s: float) -> None:
        self._transport, self._timeout_s = Transport(url), timeout_s
        self.name = self._transport.name
        rate = policy.requests_per_s
        rate = (0.0 if self._transport.is_local else 25.0) if rate is None else rate
        self._bucket = TokenBucket(rate, 2 * rate or 50.0)
        self.trouble: str | None = None
        """Why the last request failed; None after one that did not."""
        self.lag: str | None = None
        """Why it is taken to be behind the others."""
        self.wrong: WrongChain | None = None
        self.found_id: int | None = None
        """The chain it serves; None: it has not told yet."""
        self.is_checked = False
        """That is the right one."""
        self.seen: tuple[int, int] | None = None
        """Height and timestamp of its newest block at the last comparison; None: it did not answer then."""
        self.behind_count = 0
        self.requests = self.silences = 0
        """Requests since the start, and those of them that had no answer. Nearly exact: threads do not wait for it."""
        self._rest_until, self._rest_s, self._is_throttled = 0.0, 0.0, False
        self._distrusted_until, self._distrusted_for = 0.0, ""

    def close(self) -> None:
        self._transport.close()

    def ask(self, method: str, *params: Any, timeout_s: float | None = None) -> Any:
        """One request to this endpoint alone. Raises RpcFault, Silent, Throttled."""
        limit = self._timeout_s if timeout_s is None else timeout_s
        try:
            wait_s = self._bucket.take()
            if wait_s > limit:
                self._bucket.give_back()
                raise Throttled(f"held to {self._bucket.rate:g} requests a second", retry_after_s=wait_s)
            time.sleep(wait_s)
            self.requests += 1
            answer = self._transport.ask(method, params, timeout_s=limit)
        except Throttled as throttled:
            self.silences += 1
            self._bucket.slow_down()
            self._rest(str(throttled), throttled.retry_after_s, is_throttled=True)
            raise
        except Silent as silent:
            self.silences += 1
            self._rest(str(silent), min(max(2 * self._rest_s, 0.5), _LONGEST_REST_S))
            raise
        except RpcFault:
            self._be_well()
            raise
        self._be_well()
        return answer

    def _be_well(self) -> None:
        self.trouble, self._rest_until, self._rest_s, self._is_throttled = None, 0.0, 0.0, False

    def _rest(self, reason: str, rest_s: float, *, is_throttled: bool = False) -> None:
        self.trouble, self._rest_s, self._is_throttled = reason, rest_s, is_throttled
        self._rest_until = time.monotonic() + rest_s

    def distrust(self, reason: str) -> None:
        """What it says contradicts itself: ask it last for a while, however well it answers."""
        self._distrusted_until, self._distrusted_for = time.monotonic() + _LONGEST_REST_S, reason

    @property
    def rests_s(self) -> float:
        """Seconds until it may be asked again."""
        return max(0.0, self._rest_until - time.monotonic())

    @property
    def may_be_asked(self) -> bool:
        """Even while it rests, unless it asked for that itself."""
        return self.is_checked and self.lag is None and not (self._is_throttled and self.rests_s)

    @property
    def is_fit(self) -> bool:
        return self.may_be_asked and not self.rests_s and not self._is_distrusted

    @property
    def _is_distrusted(self) -> bool:
        return time.monotonic() < self._distrusted_until

    @property
    def state(self) -> str:
        """For people."""
        distrusted = self._distrusted_for if self._is_distrusted else ""
        return self.trouble or self.lag or distrusted or ("" if self.wrong is None else str(self.wrong)) or "well"


class Endpoints:
    """Requests to whichever endpoint of one chain is fit. Safe to use from several threads.

    notify   told when an endpoint begins to rest and when it is back

    Raises   UsageError: no URL, one that is none, or one given twice
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        patience_s: float,
        policy: EndpointPolicy,
        notify: Callable[[str], None],
    ) -> None:
        if not urls or len(set(urls)) != len(urls):
            raise UsageError("give at least one JSON-RPC URL, and each only once")
        timeout_s = policy.timeout_s or (30.0 if len(urls) == 1 else 10.0)
        self._policy, self._patience_s, self._notify = policy, patience_s, notify
        self.all = tuple(Endpoint(url, policy, timeout_s=timeout_s) for url in urls)
        self.name = ", ".join(endpoint.name for endpoint in self.all)
        self._chain_id: int | None = None
        self._told: dict[Endpoint, bool] = dict.fromkeys(self.all, True)
        self._closed = threading.Event()

    def open(self, *, chain_id: int | None, patience_s: float) -> int:
        """The chain's id, as all that answer have it; from now on they are compared.

        Raises   ChainUnreachable, WrongChain: an endpoint's chain is not `chain_id`, or not the others'
        """
        deadline, pause = time.monotonic() + patience_s, _FIRST_PAUSE_S
        while True:
            self._chain_id = chain_id
            _in_parallel(self._check_chain, self.all)
            checked = next((one for one in self.all if one.found_id is not None), None)
            if checked is not None:
                break
            if time.monotonic() + pause > deadline:
                raise ChainUnreachable(self.name, self._explain())
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        assert checked.found_id is not None
        self._chain_id = checked.found_id if chain_id is None else chain_id
        for endpoint in self.all:
            self._judge_chain(endpoint)
            if endpoint.wrong is not None:
                raise endpoint.wrong
        if len(self.all) > 1:
            self.compare()
            target = _compare_for_ever
            arguments = (weakref.ref(self), self._closed, self._policy.check_s)
            threading.Thread(target=target, args=arguments, name="cupel-endpoints", daemon=True).start()
        return self._chain_id

    def close(self) -> None:
        self._closed.set()
        for endpoint in self.all:
            endpoint.close()

    def get_fit(self) -> list[Endpoint]:
        """Those worth asking now, best first."""
        return [endpoint for endpoint in self.all if endpoint.is_fit]

    def request(
        self, method: str, *params: Any, patience_s: float | None = None, silent: list[Endpoint] | None = None
    ) -> Any:
        """The result from the first endpoint that gives one. `silent` is filled with those that were asked in vain.

        Raises   RpcFault: a node answered with an error
                 ChainUnreachable: none answered for `patience_s` (by default that of construction)
        """
        deadline = time.monotonic() + (self._patience_s if patience_s is None else patience_s)
        pause = _FIRST_PAUSE_S
        while True:
            fault: RpcFault | None = None
            for endpoint in self.get_fit() or [one for one in self.all if one.may_be_asked] or self._get_least_bad():
                try:
                    return endpoint.ask(method, *params)
                except RpcFault as error:
                    if len(self.all) == 1 or not _may_differ_elsewhere(error):
                        raise
                    fault = error
                except Silent:
                    if silent is not None and endpoint not in silent:
                        silent.append(endpoint)
            if fault is not None:
                raise fault
            if not any(one.may_be_asked for one in self.all):
                # They asked for patience: hammering would only prolong it.
                pause = max(pause, min((one.rests_s for one in self.all if one.is_checked), default=0.0))
            if time.monotonic() + pause > deadline:
                raise ChainUnreachable(self.name, self._explain())
            if self._closed.wait(pause):
                raise ChainUnreachable(self.name, "the client was closed")
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _get_least_bad(self) -> list[Endpoint]:
        """Where every other is silent, one that lags is better than none."""
        return [one for one in self.all if one.lag is not None and one.is_checked and not one.rests_s]

    def _explain(self) -> str:
        if len(self.all) == 1:
            return self.all[0].state
        return "; ".join(f"{endpoint.name}: {endpoint.state}" for endpoint in self.all)

    def spread(self, method: str, *params: Any) -> None:
        """The same request to all that may be asked, whatever they answer: for transactions."""
        for endpoint in self.all:
            if endpoint.is_fit:
                try:
                    endpoint.ask(method, *params)
                except (RpcFault, Silent):
                    continue

    # Comparing

    def _check_chain(self, endpoint: Endpoint) -> None:
        """Ask an endpoint that never told which chain it serves."""
        if endpoint.found_id is None:
            try:
                endpoint.found_id = parse_quantity(endpoint.ask("eth_chainId"))
            except MalformedInput as error:
                endpoint.distrust(str(error))
            except RpcFault as fault:
                endpoint.distrust(fault.message)
            except Silent:
                pass

    def _judge_chain(self, endpoint: Endpoint) -> None:
        if endpoint.found_id is not None:
            assert self._chain_id is not None
            is_right = endpoint.found_id == self._chain_id
            found = WrongChain(endpoint.name, expected=self._chain_id, got=endpoint.found_id)
            endpoint.is_checked, endpoint.wrong = is_right, None if is_right else found

    def compare(self) -> None:
        """Ask every endpoint for its newest block, and let those that lag rest."""
        _in_parallel(self._look_at, self.all)
        seen = sorted((one.seen for one in self.all if one.seen is not None), reverse=True)
        if seen:
            # Of three or more, what two have: one that invents blocks must not make the others look late.
            best_height, best_time = seen[1] if len(seen) > 2 else seen[0]
            for endpoint in self.all:
                self._judge(endpoint, best_height, best_time)
        self._tell()

    def _look_at(self, endpoint: Endpoint) -> None:
        endpoint.seen = None
        if endpoint._is_throttled and endpoint.rests_s:
            return
        self._check_chain(endpoint)
        self._judge_chain(endpoint)
        if not endpoint.is_checked:
            return
        try:
            block = parse_block(endpoint.ask("eth_getBlockByNumber", "latest", False))
        except (RpcFault, Silent):
            return
        except MalformedInput as error:
            endpoint.distrust(str(error))
            return
        endpoint.seen = (block.number, block.timestamp)

    def _judge(self, endpoint: Endpoint, best_height: int, best_time: int) -> None:
        if endpoint.seen is None:
            return
        height, timestamp = endpoint.seen
        behind, late_s = best_height - height, best_time - timestamp
        if behind <= self._policy.max_lag_blocks and late_s <= self._policy.max_lag_s:
            endpoint.lag, endpoint.behind_count = None, 0
            return
        # Once may be chance: they are not asked at the same instant.
        endpoint.behind_count += 1
        if endpoint.behind_count > 1 or endpoint.lag is not None:
            endpoint.lag = f"{behind} blocks behind"

    def _tell(self) -> None:
        for endpoint in self.all:
            if endpoint.is_fit != self._told[endpoint]:
                self._told[endpoint] = endpoint.is_fit
                self._notify(f"{endpoint.name} is {'back' if endpoint.is_fit else f'not asked: {endpoint.state}'}")


def _may_differ_elsewhere(fault: RpcFault) -> bool:
    """Whether a node's error is about the node, not about what it was asked."""
    if fault.revert_data is not None:
        return False
    return fault.code == _INTERNAL_ERROR or fault.message.lower().startswith(_UNKNOWN_THERE)


def _in_parallel(look: Callable[[Endpoint], None], endpoints: Sequence[Endpoint]) -> None:
    if len(endpoints) == 1:
        look(endpoints[0])
        return
    threads = [threading.Thread(target=look, args=(one,), daemon=True) for one in endpoints]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _compare_for_ever(reference: weakref.ref[Endpoints], closed: threading.Event, check_s: float) -> None:
    while not closed.wait(check_s):
        endpoints = reference()
        if endpoints is None:
            return
        try:
            endpoints.compare()
        except Exception:
            logger.exception("comparing endpoints failed; it goes on")
        del endpoints
