"""Content addressing, the embedded blockstore and the trustless gateway."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.network.ipfs: a bare 'import {__name__}' would make a second, unequal set of classes")
