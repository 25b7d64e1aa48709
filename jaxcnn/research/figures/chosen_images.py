"""Which images figures show, by id or evenly spaced, with the crops of a protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from jaxcnn.data import DataError, EvalImage, EvalLoader, Source
from jaxcnn.evaluation import Protocol, choose_crops
from jaxcnn.research.evaluate_run import FinishedRun


def evenly_spaced(total: int, count: int) -> Int[np.ndarray, " n"]:
    """`count` evenly spaced positions in 0..total-1; all of them if `count` is 0 or larger."""
    count = min(count or total, total)
    return (2 * np.arange(count) + 1) * total // (2 * max(count, 1))


def chosen_positions(
    source: Source, count: int, ids: Sequence[int], split: str
) -> Int[np.ndarray, " n"]:
    """The positions of `ids` in `source`, the images of `split`; without ids, `count` evenly spaced ones.

    Raises:
        DataError: some of `ids` are not in the split.
    """
    if not ids:
        return evenly_spaced(len(source), count)
    positions = {int(identity): position for position, identity in enumerate(source.ids)}
    missing = [str(i) for i in ids if i not in positions]
    if missing:
        least, most = min(positions), max(positions)
        held_out = ", but not of held-out images" if len(positions) <= most - least else ""
        raise DataError(
            f"no images of {split} have the ids {', '.join(missing)}: give ids from {least} to {most}"
            f"{held_out}"
        )
    return np.array([positions[i] for i in ids])


def readable_images(
    run: FinishedRun, source: Source, protocol: Protocol, doing: str = ""
) -> Iterator[EvalImage]:
    """The images of `source` in order, with the crops of `protocol`. Corrupt ones are left out, and named on
    the console.

    Args:
        doing: text of the progress line.
    """
    choose, threads = choose_crops(run.forward, protocol), run.config["data"]["threads"]
    with EvalLoader(source, choose, threads=threads, check_stop=run.check_stop) as images:
        for image in images:
            run.check_stop()
            if doing:
                run.console.progress(f"{doing}: {image.position + 1:,}/{len(source):,}")
            if image.problem:
                name = source.name(image.position)
                run.console.line(f"skipped corrupt image {name}: {image.problem}")
            else:
                yield image
