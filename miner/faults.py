"""Being wrong on purpose: how tests and the demo show that a lie is caught. Only on a chain of one's own machine."""

from __future__ import annotations

import torch

from cupel.protocol.errors import UsageError
from cupel.protocol.training.unit import State, Step, Stepped


def check_chain(fault: str, chain_id: int) -> None:
    """Raise UsageError on a chain where the fault would cost somebody something."""
    from cupel.chain.node.chain import DEFAULT_CHAIN_ID  # brings the whole EVM; only who is wrong on purpose pays

    if chain_id != DEFAULT_CHAIN_ID:
        raise UsageError(
            f"--fault {fault} is for tests on the embedded chain (id {DEFAULT_CHAIN_ID}); this is chain {chain_id}"
        )


def perturb(step: Step, segment_steps: int) -> Step:
    """A step that fakes the last result of a segment: one weight is one ulp off, the smallest lie there is.

    The last, because an ulp in an earlier one is mostly rounded away before the segment ends: then nothing is wrong.
    """
    done = 0

    def perturbed(state: State, tokens: torch.Tensor) -> Stepped:
        nonlocal done
        stepped, done = step(state, tokens), done + 1
        if done < segment_steps:
            return stepped
        return Stepped(_one_ulp_off(stepped.state), stepped.loss, stepped.gradient_norm)

    return perturbed


def _one_ulp_off(state: State) -> State:
    name = min(n for n in state if n.startswith("weights."))
    weight = state[name].clone()
    flat = weight.view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf")))
    return {**state, name: weight}
