"""jaxcnn fuse: averages saved posteriors of protocols, scales and nets; no forward pass."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.cli.arguments import add_json, make_parser
from jaxcnn.cli.exit_codes import exit_code, make_folder


def main(arguments: Sequence[str]) -> int:
    options = (command := parser()).parse_args(arguments)
    if len({Path(file).resolve() for file in options.files}) < len(options.files):
        command.error("a file is named twice, which would give it twice the weight")

    def work() -> None:
        # Imported here, so that --help answers at once.
        from jaxcnn.evaluation import ensemble
        from jaxcnn.training.report import result_text

        if options.out:
            make_folder(Path(options.out).parent)
            if Path(options.out).is_dir():
                raise OSError(f"--out={options.out} is a folder; give a file, such as mean.npz")
        members = [ensemble.load_posteriors(path) for path in options.files]
        mean = dataclasses.asdict(ensemble.error_rates(members))
        rows = [dataclasses.asdict(ensemble.error_rates([member])) for member in members]
        if options.out:
            ensemble.save_posteriors(ensemble.average_posteriors(members), Path(options.out))
        if options.json:
            print(json.dumps([*rows, mean]))
            return
        if len(rows) > 1:
            rows.append({**mean, "protocol": f"mean of {len(rows)}"})
        for row in rows:
            print(result_text(row))

    return exit_code(work, kept="nothing was written")


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "fuse",
        notes="jaxcnn evaluate --save_posteriors writes the files. All have the same weight in the mean.",
        example="jaxcnn fuse RUN_1/posteriors/FILE.npz RUN_2/posteriors/FILE.npz",
    )
    result.add_argument("files", nargs="+", help="posteriors of the same images and classes")
    result.add_argument(
        "--out", default="", help="file to write the mean to; as an input it counts as one file"
    )
    add_json(result, "print one JSON list, the mean last")
    return result
