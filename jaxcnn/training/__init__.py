"""Batches to parameters: the update rule, schedules, checkpoints and the one loop."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.training.loop import run
    from jaxcnn.training.recording import Diverged
    from jaxcnn.training.stopping import Stopped

__all__ = ["Diverged", "Stopped", "run"]


def __getattr__(name: str) -> object:
    """Imports on first use, so that `main.py --help` need not wait for JAX."""
    if name == "run":
        from jaxcnn.training import loop

        return loop.run
    if name == "Diverged":
        from jaxcnn.training.recording import Diverged

        return Diverged
    if name == "Stopped":
        from jaxcnn.training.stopping import Stopped

        return Stopped
    raise AttributeError(f"module 'jaxcnn.training' has no attribute {name!r}")
