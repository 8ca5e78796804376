"""Order-free arithmetic: every operation has one right answer, to the last bit."""

if not __name__.startswith("cupel."):
    raise ImportError(
        f"import cupel.protocol.arithmetic: a bare 'import {__name__}' would make a second, unequal set of classes"
    )

from cupel.protocol.arithmetic.engines import choose_backend, run_graph, self_test
from cupel.protocol.arithmetic.functions import *  # noqa: F403 - the list is its __all__
from cupel.protocol.arithmetic.functions import __all__ as _functions

__all__ = [*_functions, "choose_backend", "run_graph", "self_test"]
