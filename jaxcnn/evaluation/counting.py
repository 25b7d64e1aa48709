"""Exact error rates: every image once, integer counts, and the count must equal the split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxcnn.losses import cross_entropy
from jaxcnn.pixels import centred


@dataclasses.dataclass(frozen=True)
class Result:
    """One protocol on one split. Rates are fractions of images whose label is in the first k classes."""

    protocol: str
    split: str
    n: int
    top1: float
    top5: float
    loss: float


def ranks(scores: Float[Array, "B K"], labels: Int[Array, " B"]) -> Int[Array, " B"]:
    """How many classes come before the label, 0 where it is the first.

    Ties go to the lower class index, as argmax has it. A score that is not a number puts every class
    before the label: a broken net is never right.
    """
    own = jnp.take_along_axis(scores, labels[:, None], axis=-1)
    index = jnp.arange(scores.shape[-1])[None, :]
    tied_before = (scores == own) & (index < labels[:, None])
    return jnp.sum(~(scores <= own) | tied_before, axis=-1, dtype=jnp.int32)


def count_batch(
    logits: Float[Array, "B K"], labels: Int[Array, " B"], mask: Bool[Array, " B"]
) -> dict[str, Array]:
    """Counts over the examples whose mask is True: int32 `n top1 top5`, float32 `loss` (a sum, nats)."""
    # An image whose label could not be read has label -1: it counts, and is never right.
    rank = jnp.where(labels < 0, logits.shape[-1], ranks(logits, labels))
    total = lambda x: jnp.sum(x & mask, dtype=jnp.int32)  # noqa: E731
    return {
        "n": jnp.sum(mask, dtype=jnp.int32),
        "top1": total(rank < 1),
        "top5": total(rank < 5),
        "loss": jnp.sum(jnp.where(mask, cross_entropy(logits, labels), 0.0)),
    }


def make_eval_step(
    net: Any, mean: np.ndarray
) -> Callable[[Any, dict[str, Array]], dict[str, Array]]:
    """(params, batch) -> counts of the batch. Pure: no jit and no mesh of its own.

    `mean` is float32[3], or a mean image float32[S,S,3] of the central square that boxes lie in.
    """

    def step(params: Any, batch: dict[str, Array]) -> dict[str, Array]:
        views = centred(batch["image"], mean, batch["box"])
        logits, _ = net.apply({"params": params}, views, train=False)
        return count_batch(logits, batch["label"], batch["mask"])

    return step


def evaluate(
    step: Callable[[Any, dict[str, Array]], dict[str, Array]],
    params: Any,
    batches: Iterable[dict[str, Array]],
    *,
    protocol: str,
    split: str,
    expected: int,
    check_stop: Callable[[], None] = lambda: None,
) -> Result:
    """Runs `step` over `batches` and adds up.

    Args:
        step: compiled, (params, batch on devices) -> counts.
        batches: batches on devices, every image exactly once.
        protocol, split: carried by the result.
        expected: number of images of the split.
        check_stop: called before each batch; raises to leave early.

    Raises:
        RuntimeError: the images counted are not `expected`.
    """
    sums = {"n": 0, "top1": 0, "top5": 0, "loss": 0.0}
    waiting: dict[str, Array] | None = None
    for batch in batches:
        check_stop()
        counts = step(params, batch)
        _add(sums, waiting)  # a batch late, so that the device never waits for the host
        waiting = counts
    _add(sums, waiting)
    n = int(sums["n"])
    if n != expected or n == 0:
        raise RuntimeError(
            f"evaluation {protocol} counted {n} images of split {split}, which has {expected}: "
            "the error rate would be of another set; please report this with the config"
        )
    return Result(protocol, split, n, sums["top1"] / n, sums["top5"] / n, sums["loss"] / n)


def _add(sums: dict[str, Any], counts: dict[str, Array] | None) -> None:
    for key, value in jax.device_get(counts or {}).items():
        sums[key] += value.item()
