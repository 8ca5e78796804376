"""What every process that works on a run shares: settings, logs, records, the run's own files and states."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.node: a bare 'import {__name__}' would make a second, unequal set of classes")
