"""The fast engine: fused native kernels generated for this machine's processor."""

if not __name__.startswith("cupel."):
    raise ImportError(f"import cupel.protocol.arithmetic.cpu: a bare 'import {__name__}' would make a second, unequal set of classes")
