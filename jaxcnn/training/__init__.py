"""Batches to parameters: the update rule, schedules, checkpoints and the one loop."""

from jaxcnn.training.loop import run
from jaxcnn.training.recording import Diverged
from jaxcnn.training.stopping import Stopped

__all__ = ["Diverged", "Stopped", "run"]
