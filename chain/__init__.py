"""The chain adapter: client, contract bindings and the embedded node."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.chain: a bare 'import {__name__}' would make a second, unequal set of classes")
