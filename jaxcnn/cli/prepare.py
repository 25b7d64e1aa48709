"""Prepare a data set for training; each is prepared once.

names:
  imagenet2012    from the two tars of image-net.org, which you download yourself
  digits          the handwritten digits of scikit-learn, without a download
  cifar10_subset  a subset of CIFAR-10 as JPEGs: jaxcnn prepare cifar10_subset --help
  another NAME    an image data set of TFDS, such as cifar10; TFDS downloads it

--pack decodes and rescales the images once; training then reads packed:OUT. It also accepts sources that need
no preparation: tfds:NAME, folder:PATH, synthetic:K. What is already prepared or packed is kept; the same
command resumes packing that was stopped.

--file_format=array_record stores the records as Grain and tfds.data_source read them, instead of as TFRecord.
jaxcnn reads both alike. A folder holds a data set in one format.

--verify decodes each image of both splits once, on all cores, and prints the damaged ones with the reason;
then the exit code is 1. It finds more than training, which uses a JPEG that libjpeg can mend. A packed data
set's shards are compared with their checksums. With --json it prints one object per damaged image and line,
{"split", "image", "reason"}, or problem of a packed data set, {"split", "problem"}, and at the end {"source",
"images", "damaged", "problems"}.

example: jaxcnn prepare imagenet2012 --tars=DIR --data_dir=DATA
         jaxcnn prepare folder:PATH --pack --shorter_side=256 --square --out=DIR
         jaxcnn prepare folder:PATH --verify
"""

from __future__ import annotations

import argparse
import functools
import types
import warnings
from collections.abc import Iterator
from typing import Any

from jaxcnn.cli.arguments import Output, add_json, at_least, path, show_progress
from jaxcnn.cli.exit_codes import EXIT_ERROR, UsageError
from jaxcnn.paths import Path, is_remote, user_path
from jaxcnn.printable import say, shell_quote

KEPT = "give the same command again"
SUBCOMMANDS = ("cifar10_subset",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", help="a name from the list below; with --pack or --verify also a source")
    add("--source", default="", help="the same as NAME")
    add("--tars", type=path, help="folder of ImageNet's two tars")
    help_text = "folder of prepared data sets ($TFDS_DATA_DIR or ~/tensorflow_datasets)"
    add("--data_dir", type=path, help=help_text)
    add("--checksums", action="store_true", help="also check the tars' SHA-256 (reads them whole)")
    help_text = "how TFDS stores the records: tfrecord (default) or array_record"
    add("--file_format", choices=("tfrecord", "array_record"), default="", help=help_text)
    add("--verify", action="store_true", help="list the images that are damaged")
    help_text = "threads that decode; 0: one per core (%(default)s)"
    add("--threads", type=at_least(0), default=0, help=help_text)
    add("--train_split", default="train", help="name of the training split (%(default)s)")
    add("--eval_split", default="", help="name of the evaluation split (as data.eval_split)")
    add_json(parser)
    add = parser.add_argument_group("packing").add_argument
    add("--pack", action="store_true", help="decode and rescale the images once")
    add("--out", type=path, help="folder of the packed data set")
    help_text = "largest shorter side in pixels; with --square, the side"
    add("--shorter_side", type=at_least(1), help=help_text)
    add("--square", action="store_true", help="keep the central square only")


def subcommand(name: str) -> Any:
    """The command `prepare cifar10_subset`, in the form of a module of this package."""
    from jaxcnn.data.preparation import cifar10_subset

    def run(options: argparse.Namespace) -> Output:
        if (options.source is None) != (options.list is None):
            raise UsageError("--source=SOURCE and --list=LIST go together")
        return Output(code=cifar10_subset.run(options))

    example = f"jaxcnn prepare {name} FOLDER --source=CIFAR-10-images --list=LIST"
    return types.SimpleNamespace(
        __doc__=f"{cifar10_subset.__doc__}\nexample: {example}",
        add_arguments=cifar10_subset.add_arguments,
        run=run,
        KEPT=KEPT,
    )


def run(options: argparse.Namespace) -> Output | Iterator[Output]:
    from jaxcnn.data import SOURCE_KINDS, default_data_dir, open_data
    from jaxcnn.data.preparation.imagenet import NAME as IMAGENET

    if problem := _problem(options):
        raise UsageError(problem)
    source = options.name or options.source
    data_dir = options.data_dir or default_data_dir()
    flags, config = "", "vgg_e"
    base = source.partition(":")[0]
    if base not in SOURCE_KINDS:
        _prepare(source, data_dir, options)
        source = f"tfds:{source}"
        flags = (
            ""
            if base in (IMAGENET, "digits")
            else " " + shell_quote(f"--config.data.source={source}")
        )
        config = "quickstart" if base == "digits" else config
    if options.verify:
        return _verify(source, data_dir, options)
    record: dict[str, Any] = {}
    if options.pack:
        out = options.out
        _pack(source, out, data_dir, options)
        source, splits = f"packed:{out}", (options.train_split, options.eval_split)
        record["bytes"] = sum(file.stat().st_size for file in out.glob("*/*"))
        flags = " " + shell_quote(f"--config.data.source={source}")
        config = "alexnet" if options.square else "vgg_e"
    else:
        splits = ("train", "")
        record["data_dir"] = str(data_dir)
        flags += " " + shell_quote(f"--config.data.data_dir={data_dir}")
    # Indexes the records of TFDS now, so that the first training starts at once.
    description = open_data(source, str(data_dir), 0, *splits).description
    command = f"jaxcnn train --config=configs/{config}.py{flags}"
    record |= {"source": source, "description": description, "train_with": command}
    size = f"{record['bytes'] / 1e9:.3g} GB; " if options.pack else ""
    return Output(record, f"{description}\n{size}train with:\n  {command}")


def _problem(options: argparse.Namespace) -> str:
    """What is wrong with the command, or ''."""
    from jaxcnn.data import SOURCE_KINDS
    from jaxcnn.data.preparation.imagenet import NAME as IMAGENET
    from jaxcnn.data.preparation.imagenet import VERSION

    if not options.name and not options.source:
        return "the following arguments are required: name (or --source)"
    if options.name and options.source:
        return f"both {options.name} and --source={options.source} are given: give one"
    name = options.name or options.source
    base = name.partition(":")[0]
    if base == IMAGENET and options.tars is None:
        return (
            "imagenet2012 needs --tars=DIR, the folder that holds ILSVRC2012_img_train.tar and "
            "ILSVRC2012_img_val.tar"
        )
    if base == IMAGENET and name not in (IMAGENET, f"{IMAGENET}:{VERSION}"):
        return f"only version {VERSION} of imagenet2012 is prepared, not {name}"
    if base != IMAGENET and (options.tars is not None or options.checksums):
        return f"--tars and --checksums are for imagenet2012, not for {name}"
    if base in SOURCE_KINDS and options.file_format:
        return f"--file_format is for data sets that are prepared, not for {name}"
    if options.pack and options.verify:
        return f"--pack with --verify: first give jaxcnn prepare {name} --verify, then --pack"
    if not options.pack:
        given = [f for f in ("out", "shorter_side", "square") if getattr(options, f)]
        if given:
            return f"{', '.join(f'--{flag}' for flag in given)}: only with --pack"
        if options.verify:
            return ""
        if options.threads:
            return "--threads: only with --pack or --verify"
        needless = f"{name} needs no preparation: train on it, or give --pack or --verify"
        return needless if base in SOURCE_KINDS else ""
    if base == "packed":
        return f"{name} is packed already; pack what it was made from"
    if options.out is None or options.shorter_side is None:
        return "--pack needs --out=DIR and --shorter_side=N, for example --shorter_side=256"
    if is_remote(options.out):
        copy = "gcloud storage cp -r DIR gs://BUCKET/..."
        return f"--out={options.out}: pack into a folder on a disk, and copy it: {copy}"
    return ""


def _prepare(name: str, data_dir: Path, options: argparse.Namespace) -> None:
    """Makes the data set `name` of TFDS, unless it is there."""
    from jaxcnn.data.preparation.imagenet import NAME as IMAGENET
    from jaxcnn.data.preparation.imagenet import prepare_imagenet
    from jaxcnn.data.sources.digits import prepare_digits
    from jaxcnn.data.sources.tfds_metadata import find_in_format

    file_format = options.file_format
    base = name.partition(":")[0]
    if base == IMAGENET:
        prepare_imagenet(
            options.tars, data_dir, checksums=options.checksums, file_format=file_format
        )
    elif base == "digits":
        prepare_digits(data_dir, file_format)
    elif find_in_format(name, data_dir, file_format) is not None:
        say(f"{name} is already prepared in {data_dir}")
    else:
        _download(name, data_dir, file_format)


def _download(name: str, data_dir: Path, file_format: str) -> None:
    from jaxcnn.data import DataError
    from jaxcnn.data.preparation.upload import prepared_in
    from jaxcnn.data.sources.tfds_metadata import TFRECORD
    from jaxcnn.data.tensorflow import load_tfds

    tfds = load_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with prepared_in(data_dir, name) as local:
                builder = tfds.builder(name, data_dir=str(local))
                builder.download_and_prepare(file_format=file_format or TFRECORD)
        except DataError:
            raise
        except Exception as error:  # unknown name, no network, no disk: TFDS explains it
            raise DataError(
                f"TFDS could not prepare {name!r}: {error}; see "
                "https://www.tensorflow.org/datasets/catalog for the names of data sets"
            ) from error


def _verify(source: str, data_dir: Path, options: argparse.Namespace) -> Iterator[Output]:
    """Yields the damaged images, then a summary."""
    from jaxcnn.data import open_data
    from jaxcnn.data.preparation.verify import verify
    from jaxcnn.data.sources.packed import PackedSource
    from jaxcnn.data.sources.packed_check import packed_problems
    from jaxcnn.training.console import Console

    data = open_data(source, str(data_dir), 0, options.train_split, options.eval_split)
    print(f"verifying {data.description}", flush=True)
    console, damaged, files, total = Console(), 0, 0, 0
    for split, images in ((options.train_split, data.train), (data.eval_split, data.evaluation)):
        for problem in packed_problems(images) if isinstance(images, PackedSource) else ():
            files += 1
            yield Output({"split": split, "problem": problem}, problem, EXIT_ERROR)
        progress = functools.partial(show_progress(console), split)
        for image in verify(images, threads=options.threads, progress=progress):
            console.end_progress()
            damaged += 1
            record = {"split": split, "image": image.name, "reason": image.reason}
            yield Output(record, f"{image.name}: {image.reason}", EXIT_ERROR)
        total += len(images)
    text = f"none of {total:,} images is damaged"
    if damaged:
        text = f"{damaged:,} of {total:,} images are damaged; copy them again, or remove them"
    record = {"source": source, "images": total, "damaged": damaged, "problems": files}
    yield Output(record, text)


def _pack(source: str, out: Path, data_dir: Path, options: argparse.Namespace) -> None:
    """Packs both splits into `out`, unless they are there."""
    from jaxcnn.data import open_data
    from jaxcnn.data.preparation.packing import pack
    from jaxcnn.training.console import Console

    kind, _, place = source.partition(":")
    if kind == "folder":
        source = f"folder:{user_path(place)}"
    data = open_data(source, str(data_dir), 0, options.train_split, options.eval_split)
    say(f"packing {data.description} into {out}")
    made = pack(
        {options.train_split: data.train, data.eval_split: data.evaluation},
        out,
        origin=source,
        shorter_side=options.shorter_side,
        square=options.square,
        threads=options.threads,
        progress=show_progress(Console()),
    )
    if not made:
        say("all of it is packed already")
