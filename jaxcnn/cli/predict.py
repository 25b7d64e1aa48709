"""Print the most probable classes of image files.

--json prints one object per image and line, {"image": PATH, "classes": [{"label", "name",
"probability"}, ...], "protocol": LABEL}, or {"image": PATH, "error": TEXT}. The exit code is 1 if an image
cannot be read; the other images are still classified.

example: jaxcnn predict --workdir=RUN IMAGE.jpg
         jaxcnn predict --workdir=vgg16-397923af.pth IMAGE.jpg
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

from jaxcnn.cli.arguments import Output, add_json, add_run, at_least, open_run
from jaxcnn.cli.exit_codes import EXIT_ERROR
from jaxcnn.printable import printable_name

KEPT = "the images that were printed are done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("images", nargs="+", help="image files, and folders of image files")
    add_run(parser, batch_size=8, positional=False)
    help_text = (
        "NAME or 'NAME KEY=VALUE ...', as for jaxcnn evaluate (the first of the run's evals)"
    )
    add("--protocol", default="", help=help_text)
    add("--top", type=at_least(1), default=5, help="classes per image (%(default)s)")
    add_json(parser, "print one JSON object a line")


def run(options: argparse.Namespace) -> Iterator[Output]:
    from jaxcnn.evaluation import read_protocol
    from jaxcnn.research import predict
    from jaxcnn.training.console import Console

    console, corrupt = Console(sys.stderr), 0
    with open_run(options, console) as run:
        protocol = predict.own_protocol(run)
        if options.protocol:
            protocol = read_protocol(options.protocol, run.image_size)
        images = predict.image_files(options.images)
        run = predict.with_small_batches(run, protocol, images)
        label = run.label(protocol)
        count = f"{len(images):,} image{'s' if len(images) > 1 else ''}"
        console.line(f"{run.folder.name}, step {run.step}: {count} by {label}")
        for prediction in predict.predict(run, images, protocol, options.top):
            if prediction.problem:
                image = printable_name(prediction.image)
                console.line(f"cannot read {image}: {prediction.problem}")
                corrupt += 1
            yield _output(prediction, label)
    if corrupt:
        console.line(f"{corrupt:,} of {count} cannot be read")


def _output(prediction: Any, label: str) -> Output:
    if prediction.problem:
        record = {"image": prediction.image, "error": prediction.problem}
        return Output(record, code=EXIT_ERROR)
    # float32 has about six significant digits.
    classes = [
        dataclasses.asdict(one) | {"probability": float(f"{one.probability:.6g}")}
        for one in prediction.classes
    ]
    record = {"image": prediction.image, "classes": classes, "protocol": label}
    lines = [f"  {one.probability:7.2%}  {printable_name(one.name)}" for one in prediction.classes]
    return Output(record, "\n".join([printable_name(prediction.image), *lines]))
