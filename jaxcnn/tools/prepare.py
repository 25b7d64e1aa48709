"""Prepares a data set for training, once: python -m jaxcnn.tools.prepare NAME [options].

  imagenet2012  from the two tars of image-net.org, which you download yourself:
                python -m jaxcnn.tools.prepare imagenet2012 --tars=DIR [--data_dir=DIR]
  digits        the handwritten digits of scikit-learn; nothing is downloaded:
                python -m jaxcnn.tools.prepare digits
  another NAME  an image data set of TFDS, which downloads it:
                python -m jaxcnn.tools.prepare cifar10

What is already prepared is left as it is. Exit codes: 0 done, 1 error, 2 usage.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.data import DataError, default_data_dir, open_data
from jaxcnn.data.digits import prepare_digits
from jaxcnn.data.imagenet import NAME as IMAGENET
from jaxcnn.data.imagenet import VERSION, prepare_imagenet
from jaxcnn.data.prepared import find_prepared, load_tfds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m jaxcnn.tools.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="imagenet2012, digits, or another image data set of TFDS")
    parser.add_argument("--tars", type=Path, help="folder of ImageNet's two tars")
    parser.add_argument(
        "--data_dir",
        type=Path,
        help="where prepared data sets lie (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--checksums", action="store_true", help="also check the tars' SHA-256 (reads them whole)"
    )
    options = parser.parse_args(arguments)
    base = options.name.partition(":")[0]
    if base == IMAGENET and options.tars is None:
        parser.error(
            "imagenet2012 needs --tars=DIR, the folder that holds ILSVRC2012_img_train.tar and "
            "ILSVRC2012_img_val.tar"
        )
    if base == IMAGENET and options.name not in (IMAGENET, f"{IMAGENET}:{VERSION}"):
        parser.error(f"only version {VERSION} of imagenet2012 is prepared, not {options.name}")
    if base != IMAGENET and (options.tars is not None or options.checksums):
        parser.error(f"--tars and --checksums are for imagenet2012, not for {options.name}")
    data_dir = (options.data_dir or default_data_dir()).expanduser().absolute()
    try:
        return _prepare(options.name, data_dir, options.tars, options.checksums)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _prepare(name: str, data_dir: Path, tars: Path | None, checksums: bool) -> int:
    config = "configs/vgg_e.py"
    base = name.partition(":")[0]
    if base == IMAGENET and tars is not None:
        prepare_imagenet(tars.expanduser(), data_dir, checksums=checksums)
    elif base == "digits":
        prepare_digits(data_dir)
        config = "configs/quickstart.py"
    else:
        _download(name, data_dir)
    # Indexes the records now, so that the first training starts at once.
    print(open_data(f"tfds:{name}", str(data_dir)).description)
    print("train with:")
    source = "" if base in (IMAGENET, "digits") else f" --config.data.source=tfds:{name}"
    print(f"  python main.py --config={config}{source} --config.data.data_dir={data_dir}")
    return 0


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
