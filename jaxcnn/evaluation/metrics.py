"""Exact error rates: every image once, integer counts, and the count must equal the split."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Result:
    """One protocol on one split. Rates are fractions of images whose label is in the first k classes."""

    protocol: str
    split: str
    n: int
    top1: float
    top5: float
    loss: float


def ranks(
    scores: Float[Array | np.ndarray, "B K"], labels: Int[Array | np.ndarray, " B"]
) -> Int[Array | np.ndarray, " B"]:
    """How many classes come before the label, 0 where it is the first. On the device and on the host.

    Ties go to the lower class index, as argmax has it. A score that is not a number puts every class
    before the label: a broken net is never right.
    """
    own = scores[np.arange(scores.shape[0]), labels][:, None]
    index = np.arange(scores.shape[-1], dtype=np.int32)[None, :]
    tied_before = (scores == own) & (index < labels[:, None])
    before: Any = ~(scores <= own) | tied_before
    return before.sum(axis=-1, dtype=np.int32)


@dataclasses.dataclass
class Tally:
    """Counts of images judged so far; `loss` is a sum, in nats."""

    n: int = 0
    top1: int = 0
    top5: int = 0
    loss: float = 0.0

    def add(self, log_posteriors: Float[np.ndarray, "B K"], labels: Int[np.ndarray, " B"]) -> None:
        """Counts images. One whose label is not known (-1) counts, and is never right."""
        rank = np.where(labels < 0, log_posteriors.shape[-1], ranks(log_posteriors, labels))
        self.n += len(labels)
        self.top1 += int((rank < 1).sum())
        self.top5 += int((rank < 5).sum())
        self.loss -= float(log_posteriors[np.arange(len(labels)), labels].sum())

    def result(self, protocol: str, split: str, expected: int) -> Result:
        """The rates of a whole split.

        Raises:
            RuntimeError: the images counted are not `expected`.
        """
        if self.n != expected or self.n == 0:
            raise RuntimeError(
                f"evaluation {protocol} counted {self.n} images of split {split}, which has {expected}: "
                "the error rate would be of another set; please report this with the config"
            )
        n = self.n
        return Result(protocol, split, n, self.top1 / n, self.top5 / n, self.loss / n)
