"""Averages saved posteriors of protocols, scales and nets: error rates of the mean, no forward pass.

python -m jaxcnn.tools.fuse runs/vgg_d/posteriors/dense_256.validation.npz runs/vgg_e/posteriors/...
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.tools.fuse",
        description="Averages posteriors that jaxcnn.tools.evaluate --save_posteriors left, with equal "
        "weights, and prints the error rates of each and of the mean.",
    )
    parser.add_argument("files", nargs="+", help="posteriors of the same images and classes")
    parser.add_argument("--out", default="", help="file for the mean, to be averaged further")
    parser.add_argument("--json", action="store_true", help="print one JSON list, the mean last")
    options = parser.parse_args(arguments)
    # Imported here, so that --help answers at once.
    from jaxcnn.evaluation import fusion
    from jaxcnn.tools.outcome import outcome
    from jaxcnn.training.report import result_text

    def work() -> None:
        several = [fusion.load(path) for path in options.files]
        mean = fusion.rates(several)
        rows = [dataclasses.asdict(fusion.rates([one])) for one in several]
        rows.append({**dataclasses.asdict(mean), "protocol": f"mean of {len(several)}"})
        if options.out:
            fusion.save(fusion.fuse(several), Path(options.out))
        if options.json:
            print(json.dumps([*rows[:-1], dataclasses.asdict(mean)]))
            return
        for row in rows:
            print(result_text(row))

    return outcome(work, "nothing was written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
