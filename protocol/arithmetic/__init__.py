"""Order-free arithmetic: every operation has one right answer, to the last bit."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.arithmetic: a bare 'import {__name__}' would make a second, unequal set of classes"
    )
