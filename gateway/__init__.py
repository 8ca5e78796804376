"""Paid queries, their API and the web app."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.gateway: a bare 'import {__name__}' would make a second, unequal set of classes")
