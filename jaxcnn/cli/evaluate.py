"""Judges trained runs by any test protocol: error rates, and posteriors to be averaged.

python -m jaxcnn.cli.evaluate --workdir=RUN --protocol=dense --protocol='multi_crop scales=(256,384)'
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxcnn.cli.exit_codes import outcome
from jaxcnn.malloc_tuning import start_again_with_large_pages

EPILOG = """protocols:
  centre scale=256                     one centre crop
  ten_crops scale=256                  corners and centre of the central square, and mirrors (AlexNet)
  dense scales=(256,) flip=True        the class score map of the whole image, averaged; several Q (VGG)
  multi_crop scales=(256,) grid=5 flip=True
                                       5 x 5 crops and mirrors a scale: 50, with three scales 150 (VGG)
  multi_crop_dense scales=(256,)       the mean of both (VGG)
  crops_144 scales=(256,288,320,352)   three squares, six crops of each, mirrors, four scales (GoogLeNet)
Scales that are not given are these for nets of 224 pixels, and in proportion for others.

The result is printed, and written into the run's report.json. data.KEY=VALUE overrides the run's data,
such as data.source=folder:PATH or data.eval_split=test. Exit codes: 0 done, 1 error, 2 usage, 143 stopped
by a signal."""


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.evaluation import read_protocol
        from jaxcnn.research.evaluate_run import FinishedRun
        from jaxcnn.training.metrics_writer import Console
        from jaxcnn.training.signals import StopSignal

        console = Console(sys.stderr if options.json else sys.stdout)
        with StopSignal("leaving after this batch") as stop_signal:
            run = FinishedRun(
                Path(options.workdir),
                options.step,
                overrides=options.overrides,
                batch_size=options.batch_size,
                console=console,
                check_stop=stop_signal.check,
            )
            # Everything that was typed is looked at before the first evaluation, which may take hours.
            protocols = [read_protocol(text, run.image_size) for text in options.protocol]
            rows = [_judged(run, p, options) for p in protocols]
        if options.json:
            print(json.dumps(rows))

    return outcome(work, "nothing is lost: results that were printed are in report.json")


def _judged(run: Any, protocol: Any, options: argparse.Namespace) -> dict[str, Any]:
    known = None if options.again else run.known_result(protocol)
    if known and not (options.save_posteriors and run.saved_posteriors(protocol) is None):
        from jaxcnn.training.report import result_text

        run.console.line(f"{run.folder.name}: {result_text(known)}  from report.json")
        return known
    return run.evaluate(protocol, keep=options.save_posteriors)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.evaluate",
        description="Judges a trained run by test protocols.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", help="data.KEY=VALUE")
    parser.add_argument("--workdir", required=True, help="of a run that was trained")
    parser.add_argument(
        "--protocol",
        action="append",
        required=True,
        help="NAME, or 'NAME KEY=VALUE ...'; may be given several times",
    )
    parser.add_argument("--save_posteriors", action="store_true", help="for jaxcnn.cli.fuse")
    parser.add_argument(
        "--again", action="store_true", help="also where report.json has it already"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="crops at once (%(default)s)")
    parser.add_argument("--step", type=int, default=None, help="which checkpoint (the newest)")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON list")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch_size must be 1 or more, got {options.batch_size}")
    return options


if __name__ == "__main__":
    start_again_with_large_pages()
    sys.exit(main(sys.argv[1:]))
