"""Evaluate a trained run, or weights of another program, by test protocols.

protocols:
  centre scale=256                     one centre crop
  ten_crops scale=256                  corners and centre of the central square, and mirrors (AlexNet)
  dense scales=(256,) flip=True        class score map of the whole image, averaged; one or more Q (VGG)
  multi_crop scales=(256,) grid=5 flip=True
                                       5 x 5 crops and their mirrors per scale: 50; three scales: 150 (VGG)
  multi_crop_dense scales=(256,)       the mean of multi_crop and dense (VGG)
  crops_144 scales=(256,288,320,352)   three squares, six crops of each, mirrors, four scales (GoogLeNet)
These are the default scales for nets of 224 pixels; for other nets they are scaled in proportion.

Results are printed and written to the run's report.json; those of a weights file are only printed.

example: jaxcnn evaluate RUN --protocol=dense --protocol='multi_crop scales=(256,384)'
         jaxcnn evaluate vgg16.caffemodel --protocol=dense --data=folder:PATH
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.arguments import Output, add_data_overrides, add_json, add_run, open_run

if TYPE_CHECKING:
    from jaxcnn.evaluation import Protocol
    from jaxcnn.research.evaluate_run import FinishedRun

KEPT = "nothing is lost: results that were printed are in report.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_data_overrides(parser)
    add, help_text = parser.add_argument, "NAME, or 'NAME KEY=VALUE ...'; may be repeated"
    add("--protocol", action="append", required=True, help=help_text)
    add("--save_posteriors", action="store_true", help="save posteriors for jaxcnn fuse")
    add("--again", action="store_true", help="evaluate even if report.json has the result")
    add_json(parser, "print the rows as one JSON list")


def run(options: argparse.Namespace) -> Output:
    from jaxcnn.evaluation import read_protocol
    from jaxcnn.training.console import Console

    with open_run(options, Console()) as run:
        # All arguments are checked before the first evaluation, which may take hours.
        protocols = [read_protocol(text, run.image_size) for text in options.protocol]
        return Output([_evaluated(run, protocol, options) for protocol in protocols])


def _evaluated(run: FinishedRun, protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
    known = None if options.again else run.known_result(protocol)
    if known and not (options.save_posteriors and run.saved_posteriors(protocol) is None):
        from jaxcnn.training.report import result_text

        run.console.line(f"{run.folder.name}: {result_text(known)}  from report.json")
        return known
    return run.evaluate(protocol, keep=options.save_posteriors)
