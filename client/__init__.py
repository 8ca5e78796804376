"""Cupel: a network that trains one open model on everybody's computers and sells access to it."""

if __name__ != "cupel":
    raise ImportError(f"import cupel: a bare 'import {__name__}' would make a second, unequal set of classes")

__version__ = "0.1.0"
