"""What a run computes: model, training step, merge, sampling, genesis."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.training: a bare 'import {__name__}' would make a second, unequal set of classes"
    )
