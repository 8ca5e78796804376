"""Programs: a training step as data."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.protocol.program: a bare 'import {__name__}' would make a second, unequal set of classes")
