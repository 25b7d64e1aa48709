"""jaxcnn predict: the most probable classes of image files, by a trained run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from jaxcnn.cli.arguments import add_json, add_run, at_least, make_parser, open_runs
from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR, exit_code

NOTES = """--json prints one object per image and line, {"image": PATH, "classes": [{"label", "name",
"probability"}, ...], "protocol": LABEL}, or {"image": PATH, "error": TEXT}. The exit code is 1 if an
image cannot be read; the other images are still classified."""


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)

    def work() -> int:
        # Imported here, so that --help answers at once.
        from jaxcnn.evaluation import read_protocol
        from jaxcnn.research import predict
        from jaxcnn.training.console import Console

        console, unreadable = Console(sys.stderr), 0
        with open_runs([options.workdir], options, console) as (run,):
            protocol = (
                read_protocol(options.protocol, run.image_size)
                if options.protocol
                else predict.own_protocol(run)
            )
            images = predict.image_files(options.images)
            run = predict.with_small_batches(run, protocol, images)
            label = run.label(protocol)
            count = f"{len(images):,} image{'s' if len(images) > 1 else ''}"
            console.line(f"{run.folder.name}, step {run.step}: {count} by {label}")
            for prediction in predict.predict(run, images, protocol, options.top):
                if prediction.problem:
                    image = _printable(prediction.image)
                    console.line(f"cannot read {image}: {prediction.problem}")
                    unreadable += 1
                for line in _lines(prediction, label, options.json):
                    print(line, flush=True)
        if unreadable:
            console.line(f"{unreadable:,} of {count} cannot be read")
        return EXIT_ERROR if unreadable else EXIT_DONE

    return exit_code(work, kept="the images that were printed are done")


def _lines(prediction: Any, label: str, as_json: bool) -> list[str]:
    if as_json and prediction.problem:
        return [json.dumps({"image": prediction.image, "error": prediction.problem})]
    if as_json:
        # float32 has about six significant digits.
        classes = [
            dataclasses.asdict(one) | {"probability": float(f"{one.probability:.6g}")}
            for one in prediction.classes
        ]
        return [json.dumps({"image": prediction.image, "classes": classes, "protocol": label})]
    if prediction.problem:
        return []
    classes = [f"  {one.probability:7.2%}  {one.name}" for one in prediction.classes]
    return [_printable(prediction.image), *classes]


def _printable(path: str) -> str:
    """A path as text: a file's name is bytes that may not be UTF-8."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def parser() -> argparse.ArgumentParser:
    result = make_parser("predict", notes=NOTES, example="jaxcnn predict --workdir=RUN IMAGE.jpg")
    result.add_argument("images", nargs="+", help="image files, and folders of image files")
    add_run(result, batch_size=8, overrides=False)
    result.add_argument(
        "--protocol",
        default="",
        help="NAME or 'NAME KEY=VALUE ...', as for jaxcnn evaluate (the first of the run's evals)",
    )
    result.add_argument(
        "--top", type=at_least(1), default=5, help="classes per image (%(default)s)"
    )
    add_json(result, "print one JSON object a line")
    return result
