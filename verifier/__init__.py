"""The `verifier` process: replays drawn segments and attests to them."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.verifier: a bare 'import {__name__}' would make a second, unequal set of classes")
