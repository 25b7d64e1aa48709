"""Names the most probable classes of image files, by what a run learnt.

python -m jaxcnn.cli.predict --workdir=RUN IMAGE.jpg FOLDER ... [--protocol=dense] [--top=5] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """--json prints an object a line for each image, {"image": PATH, "classes": [{"label", "name",
"probability"}, ...], "protocol": LABEL}, or {"image": PATH, "error": TEXT}. What else is said goes to stderr.

Exit codes: 0 done, 1 error, also where one image of several cannot be read, 2 usage, 143 stopped by a
signal."""


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.cli.exit_codes import EXIT_DONE, EXIT_ERROR, outcome
    from jaxcnn.evaluation import read_protocol
    from jaxcnn.research import predict
    from jaxcnn.research.evaluate_run import FinishedRun
    from jaxcnn.training.metrics_writer import Console
    from jaxcnn.training.signals import StopSignal

    def work() -> int:
        console, unreadable = Console(sys.stderr), 0
        with StopSignal("leaving after this batch") as stop_signal:
            run = FinishedRun(
                Path(options.workdir),
                options.step,
                batch_size=options.batch_size,
                console=console,
                check_stop=stop_signal.check,
            )
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
                    console.line(f"cannot read {_line(prediction.image)}: {prediction.problem}")
                    unreadable += 1
                for line in _lines(prediction, label, options.json):
                    print(line, flush=True)
        if unreadable:
            console.line(f"{unreadable:,} of {count} cannot be read")
        return EXIT_ERROR if unreadable else EXIT_DONE

    return outcome(work, "the images that were printed are done")


def _lines(prediction: Any, label: str, as_json: bool) -> list[str]:
    if as_json and prediction.problem:
        return [json.dumps({"image": prediction.image, "error": prediction.problem})]
    if as_json:
        # Six digits are what float32 knows.
        classes = [
            dataclasses.asdict(one) | {"probability": float(f"{one.probability:.6g}")}
            for one in prediction.classes
        ]
        return [json.dumps({"image": prediction.image, "classes": classes, "protocol": label})]
    if prediction.problem:
        return []
    classes = [f"  {one.probability:7.2%}  {one.name}" for one in prediction.classes]
    return [_line(prediction.image), *classes]


def _line(path: str) -> str:
    """A path as it can be printed: the bytes of a file's name may be no text."""
    return path.encode(errors="surrogateescape").decode(errors="replace")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.predict",
        description="Names the most probable classes of image files, by what a run learnt.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", help="image files, and folders of image files")
    parser.add_argument("--workdir", required=True, help="of a run that was trained")
    parser.add_argument(
        "--protocol",
        default="",
        help="NAME or 'NAME KEY=VALUE ...', as for jaxcnn.cli.evaluate (the first of the run's evals)",
    )
    parser.add_argument("--top", type=int, default=5, help="classes an image (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print an object a line")
    parser.add_argument("--batch_size", type=int, default=8, help="crops at once (%(default)s)")
    parser.add_argument("--step", type=int, default=None, help="which checkpoint (the newest)")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top must be 1 or more, got {options.top}")
    if options.batch_size < 1:
        parser.error(f"--batch_size must be 1 or more, got {options.batch_size}")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
