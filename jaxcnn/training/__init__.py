"""Batches to parameters: the update rule, schedules, checkpoints and the one loop."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.training.loop import run
    from jaxcnn.training.signals import Stopped
    from jaxcnn.training.step_metrics import Diverged

__all__ = ["Diverged", "Stopped", "run"]
_MODULES = {"Diverged": "step_metrics", "Stopped": "signals", "run": "loop"}


def __getattr__(name: str) -> object:
    """Imports on first use, so that `main.py --help` need not wait for JAX."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
