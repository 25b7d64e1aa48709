"""jaxcnn prepare: data sets of TFDS, packing, and what cannot be prepared."""

import contextlib
import io
import json
import tarfile
from collections import namedtuple

import pytest
from PIL import Image

from jaxcnn.cli.main import main
from jaxcnn.data import DataError, class_table, open_data
from jaxcnn.data.preparation import imagenet as imagenet_module
from jaxcnn.data.preparation import packing
from jaxcnn.data.preparation.imagenet import TARS, Tar, check_disk, check_tars, prepare_imagenet

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(data_dir, output) of `jaxcnn prepare digits`."""
    data_dir, shown = tmp_path_factory.mktemp("digits"), io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["prepare", "digits", f"--data_dir={data_dir}"]) == 0
    return data_dir, shown.getvalue()


def test_digits_by_the_command(digits):
    data_dir, shown = digits
    assert "10 classes, 1442 train, 355 validation" in shown
    expected = f"jaxcnn train --config=configs/quickstart.py --config.data.data_dir={data_dir}"
    assert shown.splitlines()[-1].strip() == expected
    assert (data_dir / "digits" / "1.0.0" / "jaxcnn-index-train.npz").is_file()


def test_usage_errors(capsys):
    for arguments, message in (
        ([], "required: name (or --source)"),
        (["imagenet2012"], "imagenet2012 needs --tars=DIR"),
        (["imagenet2012:5.0.0", "--tars=x"], "only version 5.1.0 of imagenet2012 is prepared"),
        (["digits", "--tars=x"], "--tars and --checksums are for imagenet2012, not for digits"),
        (["digits", "--source=folder:x"], "both digits and --source=folder:x are given"),
        (["folder:x"], "folder:x needs no preparation: train on it, or give --pack or"),
        (["digits", "--square", "--shorter_side=9"], "--shorter_side, --square: only with --pack"),
        (["packed:x", "--pack", "--out=y", "--shorter_side=9"], "packed:x is packed already"),
        (["digits", "--pack", "--out=x"], "--pack needs --out=DIR and --shorter_side=N"),
        (["digits", "--pack", "--shorter_side=9"], "--pack needs --out=DIR and --shorter_side=N"),
    ):
        assert main(["prepare", *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["prepare", "digits", "--pack", "--out=x", "--shorter_side=0"])
    assert stop.value.code == 2
    assert "--shorter_side: must be 1 or more" in capsys.readouterr().err


def test_missing_tars_are_named_with_exit_code_1(tmp_path, capsys):
    assert main(["prepare", "imagenet2012", f"--tars={tmp_path}", f"--data_dir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert f"no file {tmp_path / TRAIN}; no file {tmp_path / VAL}" in message
    assert "https://image-net.org/download-images" in message
    assert "--tars=DIR" in message


def test_public_sizes_of_the_tars():
    assert {name: tar.size for name, tar in TARS.items()} == {
        TRAIN: 147_897_477_120,
        VAL: 6_744_924_160,
    }


def test_size_and_checksum_of_the_tars(tmp_path):
    (tmp_path / "one.tar").write_bytes(b"short")
    (tmp_path / "two.tar").write_bytes(b"whole")
    expected = {"one.tar": Tar(6, ""), "two.tar": Tar(5, "not this")}
    with pytest.raises(DataError, match=r"one.tar has 5 bytes, expected 6") as caught:
        check_tars(tmp_path, expected, checksums=False)
    assert "two.tar has" not in str(caught.value)
    with pytest.raises(DataError, match=r"two.tar has the right size but not the SHA-256"):
        check_tars(tmp_path, expected, checksums=True)


def test_disk_must_suffice(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(imagenet_module.shutil, "disk_usage", lambda _: usage(0, 0, 20 * 10**9))
    check_disk(tmp_path / "not" / "yet", 19 * 10**9)
    with pytest.raises(DataError, match=r"20 GB free, .* needs 155 GB .*--data_dir=DIR"):
        check_disk(tmp_path / "not" / "yet", 154_600_000_000)


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (50, 40), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.fixture
def image_folder(tmp_path):
    """PATH with train/ and val/ of two classes, three images each."""
    for k, name in enumerate(("ant", "bee")):
        for split in ("train", "val"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(3):
                (folder / f"{i}.jpg").write_bytes(jpeg((100 * k, 20 * i, 0)))
    return tmp_path / "images"


@pytest.fixture
def small_tars(tmp_path):
    """Two tars laid out as ImageNet's, of a few images."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for k, wnid in enumerate(("n01440764", "n01443537")):
        members = {f"{wnid}_{i}.JPEG": jpeg((100 * k, 20 * i, 0)) for i in range(3)}
        write_tar(tmp_path / f"{wnid}.tar", members)
    inner = {f"{w}.tar": (tmp_path / f"{w}.tar").read_bytes() for w in ("n01440764", "n01443537")}
    write_tar(folder / TRAIN, inner)
    write_tar(folder / VAL, {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg("red") for i in (1, 2)})
    sizes = {name: Tar((folder / name).stat().st_size, "") for name in (TRAIN, VAL)}
    return folder, sizes


def test_imagenet_end_to_end(small_tars, tmp_path, capsys):
    tars, sizes = small_tars
    data_dir = tmp_path / "data"
    (data_dir / "imagenet2012" / "5.1.0.incompleteAB").mkdir(parents=True)
    folder = prepare_imagenet(tars, data_dir, sizes)
    assert folder == data_dir / "imagenet2012" / "5.1.0"
    out = capsys.readouterr().out
    assert "5.1.0.incompleteAB was left by an interrupted run" in out
    assert "GB of disk traffic" in out
    data = open_data("tfds:imagenet2012", str(data_dir))
    assert data.class_names == tuple(row.wnid for row in class_table())
    assert sorted(data.train.read(i)[1] for i in range(6)) == [0, 0, 0, 1, 1, 1]
    # Validation images 1 and 2 are a sea snake and an alp.
    assert sorted(data.evaluation.read(i)[1] for i in range(2)) == [65, 970]
    assert prepare_imagenet(tars, data_dir, sizes) == folder
    assert "imagenet2012 is already prepared in" in capsys.readouterr().out
    # What is prepared needs its tars no more; the command ends with how to train.
    arguments = ["imagenet2012", f"--tars={tmp_path}", f"--data_dir={data_dir}"]
    assert main(["prepare", *arguments]) == 0
    last = capsys.readouterr().out.splitlines()[-1].strip()
    command = f"jaxcnn train --config=configs/vgg_e.py --config.data.data_dir={data_dir}"
    assert last == command
    assert main(["prepare", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "source": "tfds:imagenet2012",
        "data_dir": str(data_dir),
        "description": data.description,
        "train_with": command,
    }


def test_pack_by_the_command(digits, tmp_path, capsys):
    """Both splits of a prepared data set."""
    data_dir, out = digits[0], tmp_path / "packed"
    command = ["digits", f"--data_dir={data_dir}", "--pack", "--square", "--shorter_side=48"]
    assert main(["prepare", *command, f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    expected = f"jaxcnn train --config=configs/alexnet.py --config.data.source=packed:{out}"
    assert printed.splitlines()[-1].strip() == expected
    assert "train: 1,442/1,442 images" in printed
    assert "validation: 355/355 images" in printed
    assert "from tfds:digits, central squares of 48): 10 classes, 1442 train, 355" in printed
    plain = open_data("tfds:digits", str(data_dir)).evaluation
    data = open_data(f"packed:{out}")
    assert data.eval_split == "validation"
    assert data.evaluation.name(3) == plain.name(3)
    assert [data.evaluation.read(i)[1] for i in range(9)] == [plain.read(i)[1] for i in range(9)]


def test_pack_a_source(image_folder, tmp_path, capsys, monkeypatch):
    (image_folder / "val").rename(image_folder / "test")
    monkeypatch.chdir(image_folder.parent)
    out = tmp_path / "packed"
    arguments = [f"--source=folder:{image_folder.name}", "--pack", "--shorter_side=30"]
    arguments += [f"--out={out}", "--eval_split=test", "--threads=1"]
    for last in ("test: 6/6 images", "all of it is packed already"):
        assert main(["prepare", *arguments]) == 0
        printed = capsys.readouterr().out
        assert last in printed
        assert f"packed:{out}" in printed.splitlines()[-1]
    assert main(["prepare", *arguments, "--json"]) == 0
    result, shown = capsys.readouterr()
    assert "all of it is packed already" in shown
    result = json.loads(result)
    assert result["source"] == f"packed:{out}"
    assert result["bytes"] == sum(file.stat().st_size for file in out.glob("*/*"))
    assert result["train_with"].endswith(f"--config.data.source=packed:{out}")
    # Where it came from is kept whole.
    assert open_data(f"packed:{out}").train.metadata["source"] == f"folder:{image_folder}"
    assert main(["prepare", *arguments, "--square"]) == 1
    assert (
        "train was packed with other settings (square: false, now true)" in capsys.readouterr().err
    )
    assert main(["prepare", "folder:none", *arguments[1:]]) == 1
    assert "no folder" in capsys.readouterr().err


def test_ctrl_c(image_folder, tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "pack", stop)
    arguments = [f"folder:{image_folder}", "--pack", "--shorter_side=30", f"--out={tmp_path}"]
    assert main(["prepare", *arguments]) == 130
    assert "give the same command again" in capsys.readouterr().err
