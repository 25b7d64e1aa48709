"""A protocol on a split: its error rates, and its posteriors where they are wanted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxcnn.data import CorruptCounter, EvalImage, EvalLoader, Source, Subset, placeholder_pixels
from jaxcnn.data.eval_loader import ChooseCrops
from jaxcnn.evaluation.ensemble import Posteriors, digest
from jaxcnn.evaluation.forward import Forward
from jaxcnn.evaluation.metrics import Result, Tally
from jaxcnn.evaluation.posteriors import check_fits, choose_crops, posteriors
from jaxcnn.evaluation.protocols import Protocol
from jaxcnn.parallel import SINGLE_PROCESS, ProcessGroup


@dataclasses.dataclass(frozen=True, eq=False)
class ProtocolRun:
    """Attributes:
    result: the error rates.
    unreadable: names of the images that cannot be read; they were judged as plain grey.
    posteriors: of every image, where they were asked for.
    """

    result: Result
    unreadable: Sequence[str]
    posteriors: Posteriors | None


def evaluate(
    forward: Forward,
    params: Any,
    source: Source,
    protocol: Protocol,
    *,
    split: str,
    threads: int = 0,
    keep: bool = False,
    process_group: ProcessGroup = SINGLE_PROCESS,
    check_stop: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> ProtocolRun:
    """Judges every image of `source` once, by the mean posterior of its looks.

    Args:
        forward: the net's forward passes.
        params: on the devices.
        source: the split's images.
        protocol: which looks.
        split: carried by the result.
        threads: decoding threads; 0 for one a core.
        keep: whether posteriors are wanted: of a process alone.
        process_group: the processes, each of which evaluates its share; all of them must call this.
        check_stop: called before each image and batch; raises to leave early.
        progress: called with (images done, images in all) now and then.

    Raises:
        DataError: the source is empty, or too many of its images cannot be read.
        ValueError: the protocol does not fit the net.
        RuntimeError: the images counted are not those of the split.
    """
    if keep and process_group.count > 1:
        raise ValueError("posteriors are kept by one process alone: python -m jaxcnn.cli.evaluate")
    check_fits(forward, protocol)
    choose = choose_crops(forward, protocol)
    mine = source if process_group.count == 1 else _share(source, process_group)
    kept: list[tuple[int, int, np.ndarray]] = []

    def judge() -> tuple[Tally, list[str]]:
        unreadable, tally, ids = CorruptCounter(mine, "judged as mid-grey"), Tally(), mine.ids
        with EvalLoader(mine, choose, threads=threads) as pictures:
            readable = _readable(pictures, unreadable, choose)
            for picture, log_posterior in posteriors(
                forward, params, readable, protocol, check_stop
            ):
                # Counted as it is saved, so that a file of posteriors has just the rates of its evaluation.
                values = np.exp(log_posterior).astype(np.float32)
                tally.add(values[None], np.array([picture.label]))
                if keep:
                    kept.append((int(ids[picture.position]), picture.label, values))
                progress(min(tally.n * process_group.count, len(source)), len(source))
        return tally, unreadable.names

    # Each process leaves this with the others, whatever became of its share.
    tally, names = process_group.run_on_all(judge)
    parts = process_group.gather([tally.totals(), names])
    tally = Tally.from_totals([totals for totals, _ in parts])
    result = tally.result(protocol.label(forward.net.image_size), split, len(source))
    unreadable = [name for _, names in parts for name in names]
    return ProtocolRun(result, unreadable, _gathered(kept, source, result) if keep else None)


def _share(source: Source, process_group: ProcessGroup) -> Source:
    """This process's images."""
    return Subset(source, np.arange(process_group.index, len(source), process_group.count))


def _readable(
    pictures: Iterable[EvalImage], unreadable: CorruptCounter, choose: ChooseCrops
) -> Iterator[EvalImage]:
    """The pictures, with mid-grey in place of those that cannot be read."""
    for picture in pictures:
        if picture.problem:
            unreadable.note(picture.position, picture.problem, picture.position + 1)
            picture = placeholder_pixels(picture, choose)
        yield picture


def _gathered(
    kept: list[tuple[int, int, np.ndarray]], source: Source, result: Result
) -> Posteriors:
    kept.sort(key=lambda row: row[0])
    ids, labels, values = zip(*kept, strict=True)
    facts = {"protocol": result.protocol, "split": result.split}
    return Posteriors(
        np.array(ids, np.int32),
        np.array(labels, np.int32),
        np.stack(values),
        digest(source.class_names),
        facts,
    )
