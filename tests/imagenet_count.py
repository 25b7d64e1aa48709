"""ImageNet at its true count: tars with the true names, prepared, opened, read and streamed, and its figures.

python -m tests.imagenet_count FOLDER FORMAT [BUCKET] uses what it finds prepared in FOLDER, and prints a JSON
object. 10 GB of disk and ten minutes a format, on two cores.
"""

import functools
import itertools
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from jaxcnn import object_store
from jaxcnn.cli.main import main
from jaxcnn.data import Sampling, TrainLoader, class_table, open_data
from jaxcnn.data.decode import load_decoders
from jaxcnn.data.loader import available_cores, processor_name
from jaxcnn.data.preparation import imagenet
from jaxcnn.data.sources.tfds_metadata import find_prepared
from jaxcnn.data.tensorflow import load_tfds
from jaxcnn.paths import user_path
from tests.imagenet_tars import TRAIN_IMAGES, VAL_IMAGES, name_in, write_tars

_BATCH, _SIDE = 256, 48
_SOURCE = "tfds:imagenet2012"


class Figures(dict):
    def time(self, name, work, per=0):
        """Notes the seconds that `work` takes, or how many of `per` pass in one; returns its result."""
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        self[name] = round(per / seconds) if per else round(seconds, 2)
        print(f"{name}: {self[name]}", file=sys.stderr, flush=True)
        return result


def measure(folder, file_format, bucket=None):
    """Returns the figures. Seconds to open `first` are those without an index; reads are by one thread."""
    figures = Figures()
    if find_prepared("imagenet2012", folder) is None:
        _prepare(folder, file_format, figures)
    prepared = folder / "imagenet2012" / imagenet.VERSION
    for index in prepared.glob("jaxcnn-index-*"):
        index.unlink()
    load_tfds()
    load_decoders()
    before = _resident()
    for when in ("first", "later"):
        data = figures.time(f"seconds to open {when}", lambda: open_data(_SOURCE, str(folder)))
    figures["MB to open"] = round((_resident() - before) / 1e6)
    assert (len(data.train), len(data.evaluation)) == (TRAIN_IMAGES, VAL_IMAGES)
    for split, source in (("train", data.train), ("validation", data.evaluation)):
        work = functools.partial(_check_records, source)
        figures.time(f"reads a second, {split}", work, len(source))
    seen = figures.time("images a second", lambda: _epoch_ids(data.train), TRAIN_IMAGES)
    assert (seen == 1).all()
    if bucket is not None:
        _from_bucket(prepared, bucket, data.train, figures)
    return figures


def _prepare(folder, file_format, figures):
    """By the command, which expects the sizes of these tars instead of the true ones."""
    tars = folder / "tars"
    tars.mkdir(parents=True)
    sizes = write_tars(tars)
    imagenet.prepare_imagenet = functools.partial(imagenet.prepare_imagenet, expected=sizes)
    command = ["prepare", "imagenet2012", f"--tars={tars}", f"--data_dir={folder}"]
    command.append(f"--file_format={file_format}")
    assert figures.time("seconds to prepare", lambda: main(command)) == 0
    shutil.rmtree(tars)


def _check_records(source):
    """Reads every record: each has the label of its own name, and no two have the same name."""
    classes, names = {row.wnid: row.index for row in class_table()}, set()
    for i in range(len(source)):
        data, label = source.read(i)
        name = name_in(data)
        names.add(name)
        assert name.startswith("ILSVRC2012_val_") or classes[name.partition("_")[0]] == label
    assert len(names) == len(source)


def _stream(source):
    sampling = Sampling(scale=(_SIDE, _SIDE))
    return TrainLoader(source, seed=0, batch_size=_BATCH, image_size=_SIDE, sampling=sampling)


def _epoch_ids(source):
    """How often each id is in the batches of the first epoch."""
    steps = -(-len(source) // _BATCH)
    seen = np.zeros(len(source), np.int64)
    with _stream(source) as batches:
        for batch in itertools.islice(batches, steps):
            np.add.at(seen, batch["id"][batch["epoch"] == 0], 1)
            assert batch["mask"].all()
    return seen


def _from_bucket(prepared, bucket, local, figures):
    """Copies the data set into the bucket; its batches are those from the disk."""
    for path in prepared.iterdir():
        if not path.name.startswith("jaxcnn-index"):
            copy = bucket / "imagenet2012" / prepared.name / path.name
            object_store.write(copy, path.read_bytes())
    for when in ("first", "later"):
        name = f"seconds to open {when}, bucket"
        remote = figures.time(name, lambda: open_data(_SOURCE, str(bucket))).train
    with _stream(local) as here, _stream(remote) as there:
        for one, other in itertools.islice(zip(here, there, strict=True), 20):
            assert all(np.array_equal(one[key], other[key]) for key in one)
        here.close()
        batches = 80
        work = functools.partial(list, itertools.islice(there, batches))
        figures.time("images a second, bucket", work, batches * _BATCH)


def _resident():
    """Bytes of memory that this process holds."""
    return 4096 * int(Path("/proc/self/statm").read_text("ascii").split()[1])


if __name__ == "__main__":
    place, kind, *rest = sys.argv[1:]
    found = measure(user_path(place), kind, *map(user_path, rest))
    machine = f"{available_cores()} cores of {processor_name()}"
    print(json.dumps({"format": kind, "machine": machine, **found}))
