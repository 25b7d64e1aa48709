"""Threads that only read, apart from those that decode."""

import threading

import numpy as np
import pytest

from jaxcnn.data import DataError, Sampling, TrainLoader
from jaxcnn.data.errors import CorruptImage
from jaxcnn.data.eval_crops import center_crop
from jaxcnn.data.eval_loader import EvalLoader
from jaxcnn.data.threads import PoolClosed, ThreadPool

_TRAIN = {"seed": 0, "batch_size": 16, "image_size": 8, "sampling": Sampling(scale=(8, 9))}


def square(height, width):
    return [center_crop(height, width, 10, 8)]


@pytest.fixture
def images(listed, smooth_image, encoded):
    """A source of 32 images, of which one is corrupt and one cannot be decoded."""
    results = [(encoded(smooth_image(12, 12 + i, i)), i % 2) for i in range(32)]
    results[5], results[20] = CorruptImage("no bytes", 1), (b"no image", 0)
    return listed(results)


def waiting(source, count):
    """Makes `source.read` wait until `count` reads are in flight."""
    barrier, read = threading.Barrier(count), source.read

    def together(index):
        barrier.wait(60)
        return read(index)

    source.read = together


def test_equal_batches_and_reads_in_flight(images):
    def take():
        with TrainLoader(images, **_TRAIN, threads=1, readers=readers) as loader:
            return [next(loader) for _ in range(4)], sorted(loader.corrupt)

    readers = 0
    expected, corrupt = take()
    assert corrupt == ["listed#20", "listed#5"]
    readers = 8
    waiting(images, 8)  # one thread alone would wait for ever
    found, names = take()
    assert names == corrupt
    for one, other in zip(expected, found, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_equal_images_of_an_evaluation(images):
    with EvalLoader(images, square, threads=1) as loader:
        expected = list(loader)
    waiting(images, 16)
    with EvalLoader(images, square, threads=1, ahead=1, readers=16) as loader:
        found = list(loader)
    for one, other in zip(expected, found, strict=True):
        assert (one.position, one.label, one.problem) == (
            other.position,
            other.label,
            other.problem,
        )
        for key in one.pixels:
            np.testing.assert_array_equal(one.pixels[key], other.pixels[key])


def test_an_error_of_a_read_is_that_of_its_batch(images):
    images.results[3] = DataError("the bucket is away")
    with TrainLoader(images, **_TRAIN | {"batch_size": 32}, readers=4) as loader:
        with pytest.raises(DataError, match="the bucket is away"):
            next(loader)
        assert loader.corrupt == []


def test_closing_does_not_wait_for_reads_that_hang(images):
    begun, never = threading.Semaphore(0), threading.Event()

    def hang(_):
        begun.release()
        never.wait()
        raise DataError("late")

    images.read = hang
    loader = TrainLoader(images, **_TRAIN, readers=4)
    for _ in range(4):
        assert begun.acquire(timeout=60)
    threading.Timer(0.1, loader.close).start()
    with pytest.raises(PoolClosed):
        next(loader)
    assert not begun.acquire(blocking=False)  # no further read was begun
    never.set()


def test_work_after_other_work():
    pool, readers = ThreadPool(1, "decodes"), ThreadPool(2, "reads")
    first = [readers.submit(lambda i=i: i) for i in range(5)]
    after = pool.submit_after(first, lambda reads: sum(one.result() for one in reads), first)
    assert pool.wait_for(after) == 10
    readers.close()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.submit_after(first, int)


def test_negative(images):
    with pytest.raises(DataError, match="expected 0 or more"):
        TrainLoader(images, **_TRAIN, readers=-1)
    with pytest.raises(DataError, match="readers=-1: expected 0 or more"):
        EvalLoader(images, square, readers=-1)
