"""The rules: pure computation, no input or output, clock or randomness."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.protocol: a bare 'import {__name__}' would make a second, unequal set of classes")
