"""Prepares a data set for training, once: python -m jaxcnn.cli.prepare NAME [options].

  imagenet2012  from the two tars of image-net.org, which you download yourself:
                python -m jaxcnn.cli.prepare imagenet2012 --tars=DIR [--data_dir=DIR]
  digits        the handwritten digits of scikit-learn; nothing is downloaded:
                python -m jaxcnn.cli.prepare digits
  another NAME  an image data set of TFDS, which downloads it:
                python -m jaxcnn.cli.prepare cifar10

With --pack its images are then decoded and rescaled once, for training to read as packed:OUT. That also takes
what needs no preparing: tfds:NAME, folder:PATH, synthetic:K.

  python -m jaxcnn.cli.prepare folder:PATH --pack --shorter_side=256 --square --out=DIR

What is already prepared or packed is left as it is; packing that was stopped goes on by the same command.
Exit codes: 0 done, 1 error, 2 usage, 130 stopped by Ctrl-C.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxcnn.data import DataError, default_data_dir, open_data
from jaxcnn.data.preparation.imagenet import NAME as IMAGENET
from jaxcnn.data.preparation.imagenet import VERSION, prepare_imagenet
from jaxcnn.data.preparation.packing import pack
from jaxcnn.data.sources.digits import prepare_digits
from jaxcnn.data.sources.tfds import find_prepared
from jaxcnn.data.tensorflow import load_tfds

# Seconds from one line of progress to the next.
_EVERY = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    problem = _problem(options)
    if problem:
        parser.error(problem)
    name = options.name or options.source
    data_dir = (options.data_dir or default_data_dir()).expanduser().absolute()
    try:
        if not _is_source(name):
            config = _prepare(name, data_dir, options.tars, options.checksums)
            name = f"tfds:{name}"
            if not options.pack:
                _finish(name, config, data_dir)
        if options.pack:
            _pack(name, data_dir, options)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; give the same command again", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.cli.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", help="imagenet2012, digits, another image data set of TFDS, or a source"
    )
    parser.add_argument("--source", default="", help="the same as NAME")
    parser.add_argument("--tars", type=Path, help="folder of ImageNet's two tars")
    parser.add_argument(
        "--data_dir",
        type=Path,
        help="where prepared data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--checksums", action="store_true", help="also check the tars' SHA-256 (reads them whole)"
    )
    packing = parser.add_argument_group("a packed form")
    packing.add_argument("--pack", action="store_true", help="decode and rescale the images once")
    packing.add_argument("--out", type=Path, help="folder of the packed form")
    packing.add_argument(
        "--shorter_side", type=int, help="the most that it has in pixels; with --square, exactly"
    )
    packing.add_argument("--square", action="store_true", help="keep the central square alone")
    packing.add_argument("--threads", type=int, default=0, help="0 for one a core (%(default)s)")
    packing.add_argument("--train_split", default="train", help="(%(default)s)")
    packing.add_argument("--eval_split", default="", help="as data.eval_split")
    return parser


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
            return f"{name} needs no preparing: train with it as it is, or give --pack"
        return ""
    if base == "packed":
        return f"{name} is packed already; pack what it was made from"
    if options.out is None or options.shorter_side is None:
        return "--pack needs --out=DIR and --shorter_side=N, for example --shorter_side=256"
    if options.shorter_side < 1 or options.threads < 0:
        return (
            f"--shorter_side={options.shorter_side} --threads={options.threads}: expected 1 or more "
            "pixels, 0 or more threads"
        )
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


def _finish(source: str, config: str, data_dir: Path) -> None:
    # Indexes the records now, so that the first training starts at once.
    print(open_data(source, str(data_dir)).description)
    print("train with:")
    known = source.removeprefix("tfds:").partition(":")[0] in (IMAGENET, "digits")
    flag = "" if known else f" --config.data.source={source}"
    print(f"  python main.py --config={config}{flag} --config.data.data_dir={data_dir}")


def _pack(source: str, data_dir: Path, options: argparse.Namespace) -> None:
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
    print(f"  python main.py --config={config} --config.data.source=packed:{out}")


def _progress() -> Callable[[str, int, int], None]:
    """Prints a line now and then."""
    current, first, began, last = "", 0, 0.0, 0.0

    def tell(split: str, done: int, total: int) -> None:
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

    return tell


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
        except Exception as error:  # unknown name, no network, no disk: TFDS's own messages say it
            raise DataError(
                f"TFDS could not prepare {name!r}: {error}; see "
                "https://www.tensorflow.org/datasets/catalog for the names of data sets"
            ) from error


if __name__ == "__main__":
    sys.exit(main())
