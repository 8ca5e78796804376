"""Philox4x32-10 on Python integers.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; its published known
answers are in the tests. How the project fills key and counter is DESIGN's: element i of a stream at a step is the
block with counter (i low, i high, stream, step).
"""

from __future__ import annotations

MULTIPLIER_0 = 0xD2511F53
MULTIPLIER_1 = 0xCD9E8D57
WEYL_0 = 0x9E3779B9
WEYL_1 = 0xBB67AE85
ROUNDS = 10
_WORD = 0xFFFFFFFF


def block(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Four 32-bit words from two of key and four of counter."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIER_0 * c0, MULTIPLIER_1 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & _WORD, p0 >> 32 ^ c3 ^ k1, p0 & _WORD
        k0, k1 = k0 + WEYL_0 & _WORD, k1 + WEYL_1 & _WORD
    return c0, c1, c2, c3


def word64(key: int, index: int, stream: int, step: int) -> int:
    """Words w0 | w1 << 32 of element `index`: what the operation PHILOX yields, unsigned.

    key   64 bits, low word first
    step  its low 32 bits count
    """
    counter = (index & _WORD, index >> 32 & _WORD, stream, step & _WORD)
    w0, w1, _, _ = block((key & _WORD, key >> 32 & _WORD), counter)
    return w0 | w1 << 32
