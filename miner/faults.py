"""Being wrong on purpose: how tests and the demo show that a lie is caught. Only on a chain of one's own machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from cupel.protocol.disputes.game import StepHeld
from cupel.protocol.errors import UsageError
from cupel.protocol.merkle import tensor_bytes, tensor_root
from cupel.protocol.program.traces import Trace, tree_of
from cupel.protocol.training.unit import State, Step, Stepped


def check_chain(fault: str, chain_id: int) -> None:
    """Raise UsageError on a chain where the fault would cost somebody something."""
    from cupel.chain.node.chain import DEFAULT_CHAIN_ID  # brings the whole EVM; only who is wrong on purpose pays

    if chain_id != DEFAULT_CHAIN_ID:
        raise UsageError(
            f"--fault {fault} is for tests on the embedded chain (id {DEFAULT_CHAIN_ID}); this is chain {chain_id}"
        )


def perturb(step: Step, segment_steps: int) -> Step:
    """A step that fakes its last result in every segment: one weight is one ulp off, and training goes on from there.

    The last, because an ulp earlier on is often rounded away again by the updates that follow: then it was no lie.
    """
    done = 0

    def perturbed(state: State, tokens: torch.Tensor) -> Stepped:
        nonlocal done
        stepped = step(state, tokens)
        done += 1
        is_last = done % segment_steps == 0
        return Stepped(_one_ulp_off(stepped.state), stepped.loss, stepped.gradient_norm) if is_last else stepped

    return perturbed


def forge_last(hold: Callable[[int], StepHeld], steps: int) -> Callable[[int], StepHeld]:
    """What whoever perturbed a segment shows of it: its last step with a trace that ends as the fake does.

    One element of one operation's result is another, in the trace as in the state after: the dispute goes down to it.
    """
    return lambda number: _forge(hold(number)) if number == steps - 1 else hold(number)


def _forge(held: StepHeld) -> StepHeld:
    name = min(n for n in held.after if n.startswith("weights."))
    graph = held.program.graph
    value = graph.outputs[held.program.output_names.index(held.output_name(name))]
    right = torch.frombuffer(bytearray(held.read(value)), dtype=torch.float32)
    wrong = _one_ulp_off({name: right.reshape(graph.type_of(value).shape)})[name]
    trees = (*held.trace.trees[:value], tree_of(wrong).root, *held.trace.trees[value + 1 :])
    data = tensor_bytes(wrong)
    return replace(
        held,
        trace=Trace(program=held.program, trees=trees),
        read=lambda other: data if other == value else held.read(other),
        after={**held.after, name: tensor_root(wrong)},
    )


def _one_ulp_off(state: State) -> State:
    name = min(n for n in state if n.startswith("weights."))
    weight = state[name].clone()
    flat = weight.view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf")))
    return {**state, name: weight}
