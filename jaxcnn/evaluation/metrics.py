"""Exact error rates: integer counts of every image of a split, once each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Float32, Int

# Half of float32's smallest number: what the loss takes for a posterior that was rounded to 0.
_SMALLEST = 2.0**-150


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a protocol on a split: accuracies as fractions of `n` images, mean loss in nats.

    `images` is the digest of the fingerprint of the images; '' where it is unknown.
    """

    protocol: str
    split: str
    n: int
    top1: float
    top5: float
    loss: float
    images: str = ""


def ranks(
    scores: Float[Array | np.ndarray, "B K"], labels: Int[Array | np.ndarray, " B"]
) -> Int[Array | np.ndarray, " B"]:
    """The rank of each label among the classes, 0 for the most probable. For NumPy and JAX arrays.

    Among equal scores the lower class index is first, as in argmax. NaN makes an image wrong: classes with
    NaN rank before the label, and a label with NaN is last.
    """
    own = scores[np.arange(scores.shape[0]), labels][:, None]
    index = np.arange(scores.shape[-1], dtype=np.int32)[None, :]
    tied_before = (scores == own) & (index < labels[:, None])
    before: Any = ~(scores <= own) | tied_before
    return before.sum(axis=-1, dtype=np.int32)


@dataclasses.dataclass
class Tally:
    """Counts of the images evaluated so far. The result does not depend on their order.

    Attributes:
        n: images.
        top1: images whose label is the most probable class.
        top5: images whose label is among the five most probable classes.
        losses: cross-entropy in nats, of one image each or summed over several.
    """

    n: int = 0
    top1: int = 0
    top5: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)

    def add(self, posteriors: Float32[np.ndarray, "B K"], labels: Int[np.ndarray, " B"]) -> None:
        """Counts images. An image whose label is unknown (-1) counts as wrong."""
        rank = np.where(labels < 0, posteriors.shape[-1], ranks(posteriors, labels))
        self.n += len(labels)
        self.top1 += int((rank < 1).sum())
        self.top5 += int((rank < 5).sum())
        own = posteriors[np.arange(len(labels)), labels].tolist()
        self.losses += [-math.log(max(value, _SMALLEST)) for value in own]

    def totals(self) -> tuple[int, int, int, float]:
        """(n, top1, top5, summed loss), which `from_totals` adds up over processes."""
        return self.n, self.top1, self.top5, math.fsum(self.losses)

    @classmethod
    def from_totals(cls, totals: Sequence[tuple[int, int, int, float]]) -> Tally:
        """The tally over several processes from the `totals` of each."""
        n, top1, top5, losses = zip(*totals, strict=True)
        return cls(sum(n), sum(top1), sum(top5), list(losses))

    def result(self, protocol: str, split: str, expected: int) -> Result:
        """The result of a whole split.

        Raises:
            RuntimeError: the number of images counted is not `expected`.
        """
        if self.n != expected or self.n == 0:
            raise RuntimeError(
                f"evaluation {protocol} counted {self.n} images of split {split}, which has {expected}: "
                "the error rate would not be that of the split; please report this with the config"
            )
        n, top1, top5, loss = self.totals()
        return Result(protocol, split, n, top1 / n, top5 / n, loss / n)
