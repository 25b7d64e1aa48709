"""Batches to parameters: the update rule, schedules, checkpoints and the one loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.training.loop import run
    from jaxcnn.training.signals import Stopped
    from jaxcnn.training.step_metrics import Diverged

__all__ = ["Diverged", "Stopped", "run"]


def __getattr__(name: str) -> object:
    """Imports on first use, so that `main.py --help` need not wait for JAX."""
    if name == "run":
        from jaxcnn.training import loop

        return loop.run
    if name == "Diverged":
        from jaxcnn.training.step_metrics import Diverged

        return Diverged
    if name == "Stopped":
        from jaxcnn.training.signals import Stopped

        return Stopped
    raise AttributeError(f"module 'jaxcnn.training' has no attribute {name!r}")
