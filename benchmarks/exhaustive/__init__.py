"""`make exhaustive`: an engine's one-argument functions at every one of the 2^32 bit patterns.

See docs/design/arithmetic.md. The answers come from none of the project's code: `mpfr` encloses single values, `oracle`
whole blocks of 2^14 neighbours, with a proven bound.
"""

import os

# One thread a process: `--processes` is how the work is shared out. To be set before NumPy loads its BLAS.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
