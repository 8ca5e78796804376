"""What `cupel doctor` looks at: the machine, the chain, the run, the key, the data folder and the ways in."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.diagnosis: a bare 'import {__name__}' would make a second, unequal set of classes")
