"""The `miner` process: trains units and commits to them."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.miner: a bare 'import {__name__}' would make a second, unequal set of classes")
