"""The subcommands of `cupel`, one module each: parse, call one function, print."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.commands: a bare 'import {__name__}' would make a second, unequal set of classes")
