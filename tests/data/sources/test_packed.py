"""A packed data set gives the batches of its source; damage is an error that says what to do."""

import collections
import fcntl
import itertools
import json
import logging
import os
import shutil

import numpy as np
import pytest

from jaxcnn.data import (
    CorruptImage,
    DataError,
    EvalCrop,
    EvalLoader,
    Sampling,
    TrainLoader,
    fingerprint,
    open_data,
    resize,
)
from jaxcnn.data.crops import rescaled_crop, rescaled_size, square_corner
from jaxcnn.data.decode import peek
from jaxcnn.data.eval_crops import five_crops, whole_image_crop
from jaxcnn.data.eval_loader import decode_eval_crops
from jaxcnn.data.preparation import packing as packing_module
from jaxcnn.data.preparation.packing import pack
from jaxcnn.data.sources import packed_record
from jaxcnn.data.sources.packed_check import checked_in_background, packed_problems
from jaxcnn.data.sources.packed_files import partial_folder
from jaxcnn.data.sources.packed_record import PackedImage, read_record

# The fixture's images are of 40..44 x 40..52 pixels: 32 shrinks all, 42 some, 64 would enlarge all.
SQUARE, WHOLE = Sampling("random_crop_in_square", (32, 32)), Sampling("random_crop", (32, 32))


@pytest.fixture
def packer(image_folder, tmp_path):
    """Packs the folder's images and opens the result."""

    def run(shorter_side=32, out="packed", **options):
        data = open_data(f"folder:{image_folder}")
        pack(
            {"train": data.train, "val": data.evaluation},
            tmp_path / out,
            origin=f"folder:{image_folder}",
            shorter_side=shorter_side,
            **options,
        )
        return open_data(f"packed:{tmp_path / out}")

    return run


def take(source, sampling, count=8):
    stream = {"seed": 3, "batch_size": 5, "image_size": 24, "sampling": sampling}
    with TrainLoader(source, **stream) as batches:
        found = list(itertools.islice(batches, count))
    return {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}


def differences(image_folder, packed, sampling):
    """Grey levels between batches of the folder and of its packed form, all else being equal."""
    plain, other = (
        take(data.train, sampling) for data in (open_data(f"folder:{image_folder}"), packed)
    )
    for key in ("label", "id", "epoch", "box", "mask"):
        assert np.array_equal(plain[key], other[key]), key
    return np.abs(plain["image"].astype(int) - other["image"])


@pytest.mark.parametrize(("square", "sampling"), [(True, SQUARE), (False, WHOLE), (False, SQUARE)])
def test_batches_at_the_packed_scale(image_folder, packer, monkeypatch, square, sampling):
    packed = packer(square=square)
    want = take(open_data(f"folder:{image_folder}").train, sampling)
    monkeypatch.setattr(resize, "bilinear", lambda *_: pytest.fail("it is a copy"))
    seen = take(packed.train, sampling)
    for key in ("label", "id", "epoch", "box", "mask"):
        assert np.array_equal(want[key], seen[key]), key
    assert np.abs(want["image"].astype(int) - seen["image"]).max() <= 1


@pytest.mark.parametrize(
    ("interpolation", "most"), [("bilinear", 1.0), ("area", 4.0), ("nearest", 6.0), ("cubic", 1.0)]
)
def test_crops_below_the_packed_scale_are_rescaled_twice(image_folder, packer, interpolation, most):
    sampling = Sampling("random_crop", (24, 36), interpolation=(interpolation,))
    far = differences(image_folder, packer(36), sampling)
    # Bounds for smooth images; docs/data.md has the figures of photographs.
    assert 0 < far.mean() < most


def test_smaller_images_keep_their_size(image_folder, packer):
    """With a cap that all are under, every crop equals that of the image itself."""
    packed = packer(64)
    for sampling in (
        Sampling("random_crop", (24, 90)),
        Sampling("random_resized_crop"),
        Sampling("random_crop_in_square", (50, 50)),
    ):
        assert differences(image_folder, packed, sampling).max() <= 1
    size = {i: (40 + i % 5, 52 - 3 * (i % 5)) for i in range(15)}
    for i in range(15):
        assert read_record(packed.train.read(i)[0])[1].shape[:2] == size[i]
    some = packer(42, "some").train
    shorter = [min(read_record(some.read(i)[0])[1].shape[:2]) for i in range(15)]
    assert shorter == [min(42, *size[i]) for i in range(15)]


def test_squares_have_exactly_the_given_side(image_folder, packer):
    """Krizhevsky et al. 2012, section 2: small images are enlarged."""
    packed = packer(64, square=True)
    for i in range(15):
        assert read_record(packed.train.read(i)[0])[1].shape == (64, 64, 3)
    assert differences(image_folder, packed, Sampling("random_crop_in_square", (64, 64))).max() <= 1


def test_ids_names_labels_and_held_out_equal_those_of_the_source(image_folder, tmp_path, packer):
    packed, plain = packer(), open_data(f"folder:{image_folder}", held_out=4)
    again = open_data(f"packed:{tmp_path / 'packed'}", held_out=4)
    assert packed.class_names == plain.class_names
    assert packed.eval_split == "val"
    for one, other in (
        (plain.train, again.train),
        (plain.held_out, again.held_out),
        (plain.evaluation, again.evaluation),
    ):
        assert np.array_equal(one.ids, other.ids)
        for i in range(len(one)):
            assert (one.name(i), one.read(i)[1]) == (other.name(i), other.read(i)[1])
    metadata = packed.train.metadata
    assert (metadata["shorter_side"], metadata["square"], metadata["filter"]) == (
        32,
        False,
        "bilinear",
    )
    assert metadata["source"] == f"folder:{image_folder}"
    assert f"from folder:{image_folder}, shorter side at most 32" in packed.description


def test_corrupt_images_stay_corrupt(image_folder, packer, caplog):
    (image_folder / "train" / "bee" / "2.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    with caplog.at_level(logging.WARNING):
        packed = packer()
    assert "bee/2.jpg: truncated JPEG" in caplog.text
    assert packed.train.metadata["unreadable"] == 1
    plain = open_data(f"folder:{image_folder}").train
    with pytest.raises(CorruptImage, match="truncated JPEG") as caught:
        packed.train.read(7)
    assert caught.value.label == 1
    with TrainLoader(packed.train, seed=0, batch_size=15, image_size=24, sampling=WHOLE) as seen:
        batch = next(seen)
        assert seen.corrupt == [plain.name(7)]
    assert batch["mask"].tolist() == (batch["id"] != 7).tolist()
    assert np.array_equal(batch["label"], batch["id"] // 5)


def test_too_many_corrupt_images_stop_the_packing(listed, tmp_path):
    source = listed([CorruptImage("gone", 1)] * 40)
    with pytest.raises(DataError, match=r"10 of the first 10 images are corrupt"):
        pack({"train": source}, tmp_path / "out", origin="listed", shorter_side=32)
    assert not (tmp_path / "out" / "train").exists()


def test_protocols_get_the_same_pixels(image_folder, packer):
    whole, squares = packer(), packer(out="squares", square=True)
    plain = open_data(f"folder:{image_folder}").evaluation

    def dense(height, width):
        return [whole_image_crop(height, width, 32)]

    def five(height, width):
        return five_crops(height, width, 32, 24)

    def resized(height, width):
        corner = square_corner(height, width, 32)
        return [EvalCrop(32, (*corner, 32, 32), 24)]

    for choose, sources in (
        (dense, [whole]),
        (five, [whole, squares]),
        (resized, [whole, squares]),
    ):
        for source in sources:
            with EvalLoader(plain, choose) as one, EvalLoader(source.evaluation, choose) as other:
                for a, b in zip(one, other, strict=True):
                    assert (a.label, a.size, a.pixels.keys()) == (b.label, b.size, b.pixels.keys())
                    for crop in a.pixels:
                        assert np.abs(a.pixels[crop].astype(int) - b.pixels[crop]).max() <= 1
    record = squares.evaluation.read(0)[0]
    with pytest.raises(
        DataError, match=r"only the central square is packed; use .*sampling=random_crop_in_square"
    ):
        decode_eval_crops(record, peek(record), dense(*peek(record)))


@pytest.mark.parametrize("sampling", [WHOLE, Sampling("random_resized_crop")])
def test_crops_outside_the_square_are_an_error(packer, sampling):
    with pytest.raises(DataError, match=r"columns .* rows .* of an image of .*without --square"):
        take(packer(square=True).train, sampling)


def test_crops_in_the_square_at_any_scale_lie_in_the_packed_square():
    """Rounding to whole pixels moves it by at most one pixel of the crop and one of the packed image."""
    random = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(n) for n in random.integers(20, 700, 2))
        packed, scale = (int(n) for n in random.integers(16, 300, 2))
        side = int(random.integers(1, scale + 1))
        top, left = (int(n) for n in random.integers(0, scale - side + 1, 2))
        rescaled = rescaled_size(height, width, packed)
        box = (*square_corner(height, width, packed), packed, packed)
        crop = rescaled_crop(height, width, scale=scale, top=top, left=left, side=side, square=True)
        placed = PackedImage((height, width), rescaled, box).place(crop)
        x0, y0, x1, y1 = placed.region
        assert 0 <= x0 < x1 <= packed
        assert 0 <= y0 < y1 <= packed
        ideal = np.array([left, top, left + side, top + side]) * packed / scale
        assert np.abs(np.array(placed.region) - ideal).max() <= 1.5 * (1 + packed / scale)


def test_enlarging_is_logged_once(packer, caplog):
    packed_record._warn_of_enlarging.cache_clear()
    packed = packer()
    with caplog.at_level(logging.WARNING):
        take(packed.train, Sampling("random_crop", (24, 32)))
        assert not caplog.records
        take(packed.train, Sampling("random_crop", (32, 64)))
        take(packed.train, Sampling("random_crop", (64, 64)))
    assert [record.getMessage()[:60] for record in caplog.records] == [
        "crops enlarge images that were packed with shorter side 32, "
    ]


class Stop(Exception):
    pass


def test_packing_continues_after_an_interruption(image_folder, tmp_path, packer):
    whole = packer(per_shard=4)
    seen = []

    def stop(split, done, total):
        seen.append((split, done, total))
        if done == 10:
            raise Stop

    with pytest.raises(Stop):
        packer(out="stopped", per_shard=4, progress=stop)
    assert seen == [("train", i, 15) for i in range(1, 11)]
    with pytest.raises(DataError, match=r"packing of .*stopped is not complete: .*same command"):
        open_data(f"packed:{tmp_path / 'stopped'}")
    with pytest.raises(
        DataError, match=r"partial was packed with other settings \(shorter_side: 32, now 30\)"
    ):
        packer(30, "stopped", per_shard=4)
    # Two shards were complete; their images are not read again.
    shutil.rmtree(image_folder / "train" / "ant")
    (image_folder / "train" / "ant").mkdir()
    for i in range(5):
        (image_folder / "train" / "ant" / f"{i}.jpg").write_bytes(b"changed")
    seen.clear()
    again = packer(out="stopped", per_shard=4, progress=lambda *now: seen.append(now))
    assert seen[0] == ("train", 9, 15)
    for one, other in ((whole.train, again.train), (whole.evaluation, again.evaluation)):
        assert [len(shard) for shard in one.shards] == [len(shard) for shard in other.shards]
        assert all(one.read(i) == other.read(i) for i in range(len(one)))
        assert np.array_equal(one.index, other.index)
        assert one.metadata == other.metadata
    names = sorted(path.name for path in (tmp_path / "stopped" / "train").iterdir())
    assert names == [*(f"0000{k}.rgb" for k in range(4)), "index.npy", "split.json"]


def test_complete_splits_are_not_packed_again(image_folder, tmp_path, packer):
    packer()
    data = open_data(f"folder:{image_folder}")
    command = {"out": tmp_path / "packed", "origin": f"folder:{image_folder}"}
    splits = {"train": data.train, "val": data.evaluation}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*")}
    assert pack(splits, **command, shorter_side=32) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(
        DataError, match=r"train was packed with other settings \(square: false, now true\)"
    ):
        pack(splits, **command, shorter_side=32, square=True)
    shutil.rmtree(tmp_path / "packed" / "val")
    assert pack(splits, **command, shorter_side=32) == ["val"]


def test_two_processes_do_not_pack_into_one_folder(tmp_path, packer):
    partial = partial_folder(tmp_path / "packed", "train")
    partial.mkdir(parents=True)
    other = os.open(partial, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another process packs into"):
        packer()
    os.close(other)
    packer()


def test_no_room(packer, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(packing_module.shutil, "disk_usage", lambda _: usage(0, 0, 70_000))
    # 24 squares of 32 x 32 x 3 and their headers.
    with pytest.raises(DataError, match=r"7e-05 GB free, .*about 7.47e-05 GB; .*--out=DIR"):
        packer(square=True)
    assert not list((tmp_path / "packed").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file.*: .*--out=DIR"):
        packer(out="file/packed")


def test_impossible_side(packer):
    with pytest.raises(DataError, match="shorter_side=0"):
        packer(0)


def spoil_metadata(folder, **changes):
    path = folder / "split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), r"no folder .*packed; pack with: .*--out=.*packed"),
        (lambda d: shutil.rmtree(d / "train"), r"no packed split train, it holds val"),
        (lambda d: shutil.rmtree(d / "val"), r"no packed split to evaluate on, it holds train"),
        (
            lambda d: cut_short(d / "val" / "00000.rgb"),
            r"00000.rgb has 33,479 bytes, expected 33,480",
        ),
        (lambda d: (d / "val" / "00000.rgb").unlink(), r"val cannot be read .*No such.*00000.rgb"),
        (
            lambda d: cut_short(d / "train" / "index.npy"),
            r"index.npy does not have the recorded SHA-256",
        ),
        (lambda d: spoil_metadata(d / "train", format=2), r"in format 2; .* reads format 1"),
        (
            lambda d: cut_short(d / "train" / "split.json"),
            r"train/split.json is cut short",
        ),
        (
            lambda d: spoil_metadata(d / "val", class_names=["ant", "bee"]),
            r"the classes of train \(3\) and val \(2\) in packed .* differ: only in train: cat; only in val: "
            r"none; they were packed from two data sets \(folder:.*pack with: jaxcnn prepare",
        ),
    ],
)
def test_damage_is_detected_on_opening(packer, tmp_path, damage, message):
    packer()
    damage(tmp_path / "packed")
    with pytest.raises(DataError, match=message):
        open_data(f"packed:{tmp_path / 'packed'}")


def test_several_splits_must_be_named(packer, tmp_path):
    packer()
    shutil.copytree(tmp_path / "packed" / "val", tmp_path / "packed" / "dev")
    with pytest.raises(
        DataError, match=r"no packed split to evaluate on, it holds dev, train, val"
    ):
        open_data(f"packed:{tmp_path / 'packed'}")
    data = open_data(f"packed:{tmp_path / 'packed'}", train_split="dev", eval_split="val")
    assert (len(data.train), len(data.evaluation), data.eval_split) == (9, 9, "val")


def test_damaged_records(packer):
    record = bytes(packer().train.read(0)[0])
    for damaged in (record[:20], record[:-1], record[:8] + bytes(len(record) - 8)):
        with pytest.raises(CorruptImage, match="damaged record"):
            peek(damaged)


def test_record_header():
    stored = PackedImage((300, 400), (32, 43), (0, 5, 32, 32))
    data = stored.header() + bytes(32 * 32 * 3)
    assert peek(data) == (300, 400)
    crop = rescaled_crop(300, 400, scale=32, top=0, left=6, side=24)
    assert crop.region == pytest.approx((6 * 400 / 43, 0, 30 * 400 / 43, 24 * 300 / 32))
    found, _ = read_record(data)
    placed = crop._replace(image_height=32, image_width=32, region=(1.0, 0.0, 25.0, 24.0))
    assert found.place(crop) == placed


def test_the_same_images_packed_elsewhere_have_the_same_fingerprint(packer, image_folder, tmp_path):
    first = packer(out="a")
    copy = shutil.copytree(image_folder / "train", tmp_path / "copy" / "train").parent
    shutil.copytree(image_folder / "val", copy / "val")
    data = open_data(f"folder:{copy}")
    splits = {"train": data.train, "val": data.evaluation}
    pack(splits, tmp_path / "b", origin=f"folder:{copy}", shorter_side=32)
    second = open_data(f"packed:{tmp_path / 'b'}")
    assert second.fingerprint() == first.fingerprint()
    assert first.train.records().names[:2].tolist() == [b"train/ant/0.jpg", b"train/ant/1.jpg"]
    assert (
        fingerprint.take_fingerprint(second.train).digest
        == fingerprint.take_fingerprint(first.train).digest
    )
    other = packer(shorter_side=24, out="c")
    lines = fingerprint.differences(
        *map(fingerprint.take_fingerprint, (first.train, other.train)), other.class_names
    )
    assert lines[0].startswith("train/ant/0.jpg: ")
    assert "bytes, was" in lines[0]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_checksums_find_every_flipped_shard_and_changed_metadata(packer, tmp_path):
    packer(per_shard=4)
    folder = tmp_path / "packed" / "train"

    def problems():
        return list(packed_problems(open_data(f"packed:{tmp_path / 'packed'}").train))

    assert problems() == []
    flip(folder / "00002.rgb")
    (folder / "00009.rgb").write_bytes(b"")
    extra, damaged = problems()
    assert extra.startswith(f"{folder}/00009.rgb belongs to no packed data set")
    assert f"{folder}/00002.rgb does not have the recorded SHA-256; pack or copy" in damaged
    flip(folder / "00002.rgb")
    (folder / "00009.rgb").unlink()
    spoil_metadata(folder, shorter_side=33)
    assert ["split.json does not have" in problem for problem in problems()] == [True]
    metadata = json.loads((folder / "split.json").read_text())
    del metadata["shard_sha256"], metadata["sha256"]
    (folder / "split.json").write_text(json.dumps(metadata))  # as earlier versions wrote it
    assert ["has no checksums" in problem for problem in problems()] == [True]


def test_a_flipped_shard_ends_reading_in_the_background(packer, tmp_path):
    packed = packer(per_shard=4)
    flip(tmp_path / "packed" / "train" / "00001.rgb")
    with checked_in_background([packed.train, None, packed.evaluation], 1, 2) as thread:
        thread.join(60)
    with pytest.raises(DataError, match=r"train/00001.rgb does not have the recorded SHA-256"):
        packed.train.read(0)
    assert packed.evaluation.read(0)
    other = open_data(f"packed:{tmp_path / 'packed'}").train
    with checked_in_background([other], 0, 2) as thread:  # another process checks the odd shards
        thread.join(60)
    assert other.read(0)


@pytest.mark.parametrize("name", ["00000.rgb", "index.npy"])
def test_a_file_that_is_cut_short_in_use_is_an_error(packer, tmp_path, name):
    packed = packer()
    os.truncate(tmp_path / "packed" / "train" / name, 100)
    with pytest.raises(DataError, match=rf"{name} was cut short while it was in use: 100 bytes"):
        packed.train.read(0)
