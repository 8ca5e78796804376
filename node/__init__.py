"""What the processes share: following a run, moving states, records and settings."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.node: a bare 'import {__name__}' would make a second, unequal set of classes")
