"""The soak: a whole network under random faults for many rounds, and a count of what it lost.

`make soak`, or `python -m soak --help` with `benchmarks` and `tests` on the path.
"""
