"""The demo: a whole network on one machine, every party a process of its own."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.demo: a bare 'import {__name__}' would make a second, unequal set of classes")
