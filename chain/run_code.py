"""Whether all contracts of a run, and of its court, are the shipped ones: what a node asks before it joins."""

from __future__ import annotations

from collections.abc import Iterator

from cupel.chain.bytecode import (
    PARAMETERS_NONCE,
    TOKEN_NONCE,
    address_word,
    compute_created,
    find_difference,
    get_code,
    list_rules_immutables,
    list_run_immutables,
)
from cupel.chain.client import ChainClient
from cupel.chain.court_deployment import find_court_differences, find_time_problem, read_court
from cupel.chain.run_contract import RunContract
from cupel.chain.run_values import ZERO_ADDRESS, Parameters


def find_run_differences(client: ChainClient, run: RunContract, parameters: Parameters) -> Iterator[tuple[str, str]]:
    """Which of the four contracts of a run is not the shipped one with these parameters: `run`, `rules`, `lens` or
    `token`, and how it differs. Raises MalformedInput, ChainRefused: no run answers."""
    token, blob = (compute_created(run.address, nonce) for nonce in (TOKEN_NONCE, PARAMETERS_NONCE))
    lens, rules = run.lens(), run.rules()
    of_run = list_run_immutables(parameters, rules=rules, token=token, lens=lens, blob=blob)
    expected = (
        ("run", "Run", run.address, of_run),
        ("rules", "RunRules", rules, list_rules_immutables(parameters, rules=rules)),
        ("lens", "RunLens", lens, ()),
        ("token", "Token", token, (address_word(run.address),)),
    )
    for name, artifact, address, immutables in expected:
        difference = find_difference(get_code(client, address), artifact, immutables)
        if difference is not None:
            yield name, f"{address}: {difference}"


def find_run_problem(client: ChainClient, run: RunContract) -> str | None:
    """The first thing about a run's contracts, or its court's, that keeps a node from taking part; None: nothing does.

    The beacon is not looked at: whoever joins decides what draws may come from (`cupel network check`).
    Raises   MalformedInput, ChainRefused: no run, or no court, answers
    """
    parameters = run.parameters()
    for _, difference in find_run_differences(client, run, parameters):
        return difference
    if parameters.court == ZERO_ADDRESS:
        return None
    court = read_court(client, parameters.court)
    for difference in find_court_differences(client, court):
        return difference
    return find_time_problem(
        court.clocks,
        maturity_blocks=parameters.maturity_blocks,
        window_blocks=parameters.window_blocks,
        exit_blocks=parameters.exit_blocks,
    )
