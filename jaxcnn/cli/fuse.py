"""Averages saved posteriors of protocols, scales and nets: error rates of the mean, no forward pass.

python -m jaxcnn.cli.fuse runs/vgg_d/posteriors/dense_256.validation.npz runs/vgg_e/posteriors/...
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.cli.exit_codes import out_folder, outcome


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.fuse",
        description="Averages posteriors that jaxcnn.cli.evaluate --save_posteriors left, with equal "
        "weights, and prints the error rates of each and of the mean.",
    )
    parser.add_argument(
        "files", nargs="+", help="posteriors of the same images and classes, each once"
    )
    parser.add_argument(
        "--out", default="", help="file for the mean; averaged further, it weighs as one file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list, the mean last")
    options = parser.parse_args(arguments)
    if len({Path(file).resolve() for file in options.files}) < len(options.files):
        parser.error("a file is named twice, which would give it twice the weight")

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.evaluation import ensemble
        from jaxcnn.training.report import result_text

        if options.out:
            out_folder(Path(options.out).parent)
            if Path(options.out).is_dir():
                raise OSError(f"--out={options.out} is a folder; give a file, such as mean.npz")
        several = [ensemble.load_posteriors(path) for path in options.files]
        mean = dataclasses.asdict(ensemble.error_rates(several))
        rows = [dataclasses.asdict(ensemble.error_rates([one])) for one in several]
        if options.out:
            ensemble.save_posteriors(ensemble.average_posteriors(several), Path(options.out))
        if options.json:
            print(json.dumps([*rows, mean]))
            return
        for row in [
            *rows,
            *([{**mean, "protocol": f"mean of {len(rows)}"}] if len(rows) > 1 else []),
        ]:
            print(result_text(row))

    return outcome(work, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
