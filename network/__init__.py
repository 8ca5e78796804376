"""Fetching and serving bytes."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.network: a bare 'import {__name__}' would make a second, unequal set of classes")
