"""Batches to parameters: the update rule, schedules, checkpoints and the one loop."""

from jaxcnn.training.loop import Diverged, run
from jaxcnn.training.stopping import Stopped

__all__ = ["Diverged", "Stopped", "run"]
