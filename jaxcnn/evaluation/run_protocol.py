"""Evaluates a split by a protocol: error rates and, on request, the posteriors."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxcnn.data import CorruptCounter, EvalImage, EvalLoader, Source, Subset, placeholder_pixels
from jaxcnn.data.classes import classes_digest
from jaxcnn.data.eval_loader import ChooseCrops
from jaxcnn.evaluation.ensemble import Posteriors
from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.metrics import Result, Tally
from jaxcnn.evaluation.posteriors import check_fits, choose_crops, image_posteriors
from jaxcnn.evaluation.protocols import Protocol
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup


@dataclasses.dataclass(frozen=True, eq=False)
class ProtocolRun:
    """The outcome of a protocol on a split.

    Attributes:
        result: the error rates.
        corrupt: names of the corrupt images, which were evaluated as plain grey.
        posteriors: of every image, if requested.
    """

    result: Result
    corrupt: Sequence[str]
    posteriors: Posteriors | None


def evaluate(
    forward: Forward,
    params: Any,
    source: Source,
    protocol: Protocol,
    *,
    split: str,
    threads: int = 0,
    readers: int = 0,
    keep: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    check_stop: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> ProtocolRun:
    """Evaluates every image of `source`, the images of `split`, once, by the mean posterior of its crops.

    Args:
        params: on the devices.
        threads: decoding threads; 0 for one per core.
        readers: threads that only read; 0 for as many as the source needs.
        keep: whether to return posteriors; needs a single process.
        process_group: each process evaluates its share of the images; all of them must call this.
        check_stop: called before each image and batch, and while an image is read; raises to leave early.
        progress: called with (images done, images in all) after each image.

    Raises:
        DataError: the source is empty, or too many of its images are corrupt.
        ValueError: the protocol does not fit the net.
        RuntimeError: the number of images counted is not that of the split.
    """
    if keep and process_group.count > 1:
        raise ValueError("only one process can save posteriors: use jaxcnn evaluate")
    check_fits(forward, protocol)
    choose = choose_crops(forward, protocol)
    count, index = process_group.count, process_group.index
    shard = source if count == 1 else Subset(source, np.arange(index, len(source), count))
    kept: list[tuple[int, int, np.ndarray]] = []

    def evaluate_shard() -> tuple[Any, list[str]]:
        corrupt, tally, ids = CorruptCounter(shard, "evaluated as mid-grey"), Tally(), shard.ids
        with EvalLoader(
            shard, choose, threads=threads, readers=readers, check_stop=check_stop
        ) as loader:
            images = _with_placeholders(loader, corrupt, choose)
            for image, log_posterior in image_posteriors(
                forward, params, images, protocol, check_stop
            ):
                # Counted as saved, so that a file of posteriors has exactly the rates of its evaluation.
                values = np.exp(log_posterior).astype(np.float32)
                tally.add(values[None], np.array([image.label]))
                if keep:
                    kept.append((int(ids[image.position]), image.label, values))
                progress(min(tally.n * count, len(source)), len(source))
        return tally.totals(), corrupt.names

    totals, names = zip(*process_group.gather_results(evaluate_shard), strict=True)
    label = protocol.label(forward.net.image_size)
    result = Tally.from_totals(totals).result(label, split, len(source))
    posteriors = _sorted_by_id(kept, source, result) if keep else None
    return ProtocolRun(result, [*itertools.chain(*names)], posteriors)


def _with_placeholders(
    images: Iterable[EvalImage], corrupt: CorruptCounter, choose: ChooseCrops
) -> Iterator[EvalImage]:
    """The images, with mid-grey pixels in place of corrupt ones."""
    for image in images:
        if image.problem:
            corrupt.note(image.position, image.problem, image.position + 1)
            image = placeholder_pixels(image, choose)
        yield image


def _sorted_by_id(
    kept: list[tuple[int, int, np.ndarray]], source: Source, result: Result
) -> Posteriors:
    kept.sort(key=lambda row: row[0])
    ids, labels, values = zip(*kept, strict=True)
    return Posteriors(
        np.array(ids, np.int32),
        np.array(labels, np.int32),
        np.stack(values),
        classes_digest(source.class_names),
        {"protocol": result.protocol, "split": result.split},
    )
