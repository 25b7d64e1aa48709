"""Average saved posteriors and print the error rates of the mean.

jaxcnn evaluate --save_posteriors writes the files. All have the same weight in the mean.

example: jaxcnn fuse RUN_1/posteriors/FILE.npz RUN_2/posteriors/FILE.npz
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from jaxcnn.cli.arguments import Output, add_json, path
from jaxcnn.cli.exit_codes import UsageError, make_folder
from jaxcnn.paths import resolved

KEPT = "nothing was written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=path, nargs="+", help="posteriors of the same images and classes")
    add("--out", type=path, help="file to write the mean to; as an input it counts as one file")
    add_json(parser, "print one JSON list, the mean last")


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.evaluation import ensemble
    from jaxcnn.training.report import result_text

    if len({resolved(file) for file in options.files}) < len(options.files):
        raise UsageError("a file is named twice, which would give it twice the weight")
    if options.out:
        make_folder(options.out.parent)
        if options.out.is_dir():
            raise OSError(f"--out={options.out} is a folder; give a file, such as mean.npz")
    members = [ensemble.load_posteriors(file) for file in options.files]
    mean = asdict(ensemble.error_rates(members))
    rows = [asdict(ensemble.error_rates([member])) for member in members]
    if options.out:
        ensemble.save_posteriors(ensemble.average_posteriors(members), options.out)
    named = [{**mean, "protocol": f"mean of {len(rows)}"}] if len(rows) > 1 else []
    return Output([*rows, mean], "\n".join(map(result_text, [*rows, *named])))
