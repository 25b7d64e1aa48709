"""jaxcnn prepare: prepares a data set for training, once."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxcnn.cli.arguments import add_json, at_least, make_parser, messages
from jaxcnn.cli.exit_codes import exit_code
from jaxcnn.data import DataError, default_data_dir, open_data
from jaxcnn.data.preparation import cifar10_subset
from jaxcnn.data.preparation.imagenet import NAME as IMAGENET
from jaxcnn.data.preparation.imagenet import VERSION, prepare_imagenet
from jaxcnn.data.preparation.packing import pack
from jaxcnn.data.sources.digits import prepare_digits
from jaxcnn.data.sources.tfds import find_prepared
from jaxcnn.data.tensorflow import load_tfds

SUBSET = "cifar10_subset"
NOTES = """names:
  imagenet2012    from the two tars of image-net.org, which you download yourself
  digits          the handwritten digits of scikit-learn, without a download
  cifar10_subset  a subset of CIFAR-10 as JPEGs: jaxcnn prepare cifar10_subset --help
  another NAME    an image data set of TFDS, such as cifar10; TFDS downloads it

--pack decodes and rescales the images once; training then reads packed:OUT. It also accepts sources that need
no preparation: tfds:NAME, folder:PATH, synthetic:K. What is already prepared or packed is kept; the same
command resumes packing that was stopped."""
# Seconds between two lines of progress.
_EVERY = 5.0


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == SUBSET:
        return _subset(arguments[1:])
    options = (command := parser()).parse_args(arguments)
    problem = _problem(options)
    if problem:
        command.error(problem)

    def work() -> None:
        name = options.name or options.source
        data_dir = (options.data_dir or default_data_dir()).expanduser().absolute()
        result: dict[str, object] = {}
        with messages(options.json):
            if not _is_source(name):
                config = _prepare(name, data_dir, options.tars, options.checksums)
                name = f"tfds:{name}"
                if not options.pack:
                    result = _finish(name, config, data_dir)
            if options.pack:
                result = _pack(name, data_dir, options)
        if options.json:
            print(json.dumps(result))

    return exit_code(work, kept="give the same command again")


def _subset(arguments: Sequence[str]) -> int:
    command = make_parser(
        f"prepare {SUBSET}",
        example=f"jaxcnn prepare {SUBSET} FOLDER --source=CIFAR-10-images --list=LIST",
    )
    command.description = cifar10_subset.__doc__
    cifar10_subset.add_arguments(command)
    options = command.parse_args(arguments)
    if (options.source is None) != (options.list is None):
        command.error("--source=SOURCE and --list=LIST go together")
    return exit_code(lambda: cifar10_subset.run(options), kept="give the same command again")


def parser() -> argparse.ArgumentParser:
    result = make_parser(
        "prepare",
        notes=NOTES,
        example="jaxcnn prepare imagenet2012 --tars=DIR --data_dir=DATA\n"
        "         jaxcnn prepare folder:PATH --pack --shorter_side=256 --square --out=DIR",
    )
    add = result.add_argument
    add("name", nargs="?", help="a name from the list below; with --pack also a source")
    add("--source", default="", help="the same as NAME")
    add("--tars", type=Path, help="folder of ImageNet's two tars")
    add(
        "--data_dir",
        type=Path,
        help="folder of prepared data sets ($TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    add("--checksums", action="store_true", help="also check the tars' SHA-256 (reads them whole)")
    add_json(result)
    add = result.add_argument_group("packing").add_argument
    add("--pack", action="store_true", help="decode and rescale the images once")
    add("--out", type=Path, help="folder of the packed data set")
    add(
        "--shorter_side",
        type=at_least(1),
        help="largest shorter side in pixels; with --square, the side",
    )
    add("--square", action="store_true", help="keep the central square only")
    add(
        "--threads",
        type=at_least(0),
        default=0,
        help="threads that decode; 0: one per core (%(default)s)",
    )
    add("--train_split", default="train", help="name of the training split (%(default)s)")
    add("--eval_split", default="", help="name of the evaluation split (as data.eval_split)")
    return result


def _problem(options: argparse.Namespace) -> str:
    """What is wrong with the command, or ''."""
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
    if not options.pack:
        given = [f for f in ("out", "shorter_side", "square", "threads") if getattr(options, f)]
        if given:
            return f"{', '.join(f'--{flag}' for flag in given)}: only with --pack"
        if _is_source(name):
            return f"{name} needs no preparation: train on it, or give --pack"
        return ""
    if base == "packed":
        return f"{name} is packed already; pack what it was made from"
    if options.out is None or options.shorter_side is None:
        return "--pack needs --out=DIR and --shorter_side=N, for example --shorter_side=256"
    return ""


def _is_source(name: str) -> bool:
    return name.partition(":")[0] in ("tfds", "folder", "packed", "synthetic")


def _prepare(name: str, data_dir: Path, tars: Path | None, checksums: bool) -> str:
    """Makes the data set `name` of TFDS; returns the config that trains on it."""
    base = name.partition(":")[0]
    if base == IMAGENET and tars is not None:
        prepare_imagenet(tars.expanduser(), data_dir, checksums=checksums)
    elif base == "digits":
        prepare_digits(data_dir)
        return "configs/quickstart.py"
    else:
        _download(name, data_dir)
    return "configs/vgg_e.py"


def _finish(source: str, config: str, data_dir: Path) -> dict[str, object]:
    """Prints what was prepared and how to train on it; returns the same for JSON."""
    # Indexes the records now, so that the first training starts at once.
    description = open_data(source, str(data_dir)).description
    print(description)
    print("train with:")
    known = source.removeprefix("tfds:").partition(":")[0] in (IMAGENET, "digits")
    flag = "" if known else f" --config.data.source={source}"
    command = f"jaxcnn train --config={config}{flag} --config.data.data_dir={data_dir}"
    print(f"  {command}")
    return {
        "source": source,
        "data_dir": str(data_dir),
        "description": description,
        "train_with": command,
    }


def _pack(source: str, data_dir: Path, options: argparse.Namespace) -> dict[str, object]:
    """Packs both splits; prints and returns as `_finish`."""
    out = options.out.expanduser().absolute()
    kind, _, place = source.partition(":")
    if kind == "folder":
        source = f"folder:{Path(place).expanduser().absolute()}"
    data = open_data(
        source, str(data_dir), train_split=options.train_split, eval_split=options.eval_split
    )
    print(f"packing {data.description} into {out}", flush=True)
    made = pack(
        {options.train_split: data.train, data.eval_split: data.evaluation},
        out,
        origin=source,
        shorter_side=options.shorter_side,
        square=options.square,
        threads=options.threads,
        progress=_progress(),
    )
    if not made:
        print("all of it is packed already")
    packed = open_data(f"packed:{out}", "", 0, options.train_split, options.eval_split)
    print(packed.description)
    size = sum(file.stat().st_size for file in out.glob("*/*"))
    print(f"{size / 1e9:.3g} GB; train with:")
    config = "configs/alexnet.py" if options.square else "configs/vgg_e.py"
    command = f"jaxcnn train --config={config} --config.data.source=packed:{out}"
    print(f"  {command}")
    return {
        "source": f"packed:{out}",
        "bytes": size,
        "description": packed.description,
        "train_with": command,
    }


def _progress() -> Callable[[str, int, int], None]:
    """Prints a line of progress every few seconds."""
    current, first, began, last = "", 0, 0.0, 0.0

    def show(split: str, done: int, total: int) -> None:
        nonlocal current, first, began, last
        now = time.monotonic()
        if split != current:
            current, first, began, last = split, done, now, now
        if now - last < _EVERY and done < total:
            return
        last = now
        speed = (done - first) / max(now - began, 1e-9)
        left = f", {(total - done) / speed / 60:.0f} minutes to go" if done < total else ""
        print(f"{split}: {done:,}/{total:,} images, {speed:.0f} a second{left}", flush=True)

    return show


def _download(name: str, data_dir: Path) -> None:
    if find_prepared(name, data_dir) is not None:
        print(f"{name} is already prepared in {data_dir}")
        return
    tfds = load_tfds()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            builder = tfds.builder(name, data_dir=str(data_dir))
            builder.download_and_prepare(file_format="tfrecord")
        except Exception as error:  # unknown name, no network, no disk: TFDS explains it
            raise DataError(
                f"TFDS could not prepare {name!r}: {error}; see "
                "https://www.tensorflow.org/datasets/catalog for the names of data sets"
            ) from error
