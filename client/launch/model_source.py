"""A model that an engineer brings: the function that makes its training step, in a Python file or an installed module.

It is run once, on the machine that prepares the run. What travels afterwards are Programs and a file of numbers.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cupel.protocol.errors import UnsupportedOperation, UsageError
from cupel.protocol.training.modules import ModuleStep

EXAMPLE = '"model.py:make" or "package.module:make"'


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the function is."""

    text: str
    """FILE.py:FUNCTION, or MODULE:FUNCTION."""
    folder: Path
    """What a file's name is relative to."""

    def __post_init__(self) -> None:
        place, colon, name = self.text.rpartition(":")
        if not colon or not place or not name.isidentifier():
            raise UsageError(f"{self.text!r:.120} names no function: it takes {EXAMPLE}")

    def load(self, seed: bytes) -> ModuleStep:
        """Call it, PyTorch's generator seeded. Raises UsageError naming what is wrong with it."""
        place, _, name = self.text.rpartition(":")
        module = self._import(place)
        make: Callable[[], Any] | None = getattr(module, name, None)
        if not callable(make):
            raise UsageError(f"{place} has no function {name}")
        torch.manual_seed(int.from_bytes(seed[:8], "little") >> 1)
        try:
            step = make()
        except (UsageError, UnsupportedOperation):
            raise
        except Exception as error:
            raise UsageError(f"{self.text} failed: {type(error).__name__}: {error}") from error
        if not isinstance(step, ModuleStep):
            raise UsageError(
                f"{self.text} gives {type(step).__name__}; it is to give what make_step gives: "
                "return make_step(model, next_token_loss, optimiser)"
            )
        return step

    def _import(self, place: str) -> Any:
        try:
            if not place.endswith(".py"):
                return importlib.import_module(place)
            path = self.folder / place
            if not path.is_file():
                raise UsageError(f"there is no {path}")
            spec = importlib.util.spec_from_file_location("cupel_brought_model", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            # Dataclasses and whatever else asks for its module must find it.
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        except (UsageError, UnsupportedOperation):
            raise
        except (Exception, SystemExit) as error:
            raise UsageError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
        return module
