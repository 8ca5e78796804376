"""A proof that proves nothing: the contract reverts with the same name and numbers."""

from __future__ import annotations

from cupel.protocol.errors import MalformedInput


class MalformedProof(MalformedInput):
    """`name` and `numbers` are those of the contract's error."""

    def __init__(self, name: str, *numbers: int | bytes | str) -> None:
        shown = ", ".join(f"0x{n.hex()}" if isinstance(n, bytes) else str(n) for n in numbers)
        super().__init__(f"{name}({shown})")
        self.name, self.numbers = name, numbers
