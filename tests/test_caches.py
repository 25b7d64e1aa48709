"""Caches without a home folder: temporary, or none."""

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from jaxcnn import caches
from jaxcnn.data import open_data, resize
from jaxcnn.data.sources import digits, tfrecord_index
from jaxcnn.parallel.compilation_cache import use_compilation_cache
from jaxcnn.paths import user_path

NAMES = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "KERAS_HOME", "TFDS_DATA_DIR", "HOME")


@pytest.fixture
def no_home(tmp_path, monkeypatch):
    """No HOME, and a user without an entry among the system's users; temporary folders are in tmp_path."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name in NAMES:  # what the code under test sets is removed at the end
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    caches.temporary_folder.cache_clear()
    yield tmp_path
    caches.temporary_folder.cache_clear()


def test_a_home_that_can_be_written_is_used(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "new"))
    caches.use_writable_caches.__wrapped__()
    assert (tmp_path / "new" / ".cache").is_dir()
    assert not {"XDG_CACHE_HOME", "MPLCONFIGDIR"} & os.environ.keys()
    assert not caplog.records


def test_without_a_home_caches_are_temporary_and_said_once(no_home, monkeypatch, caplog):
    monkeypatch.chdir(no_home)
    caches.use_writable_caches.__wrapped__()
    (folder,) = no_home.glob("jaxcnn-*")
    assert os.environ["XDG_CACHE_HOME"] == str(folder)
    assert os.environ["MPLCONFIGDIR"] == str(folder / "matplotlib")
    assert os.environ["KERAS_HOME"] == str(folder / "keras")
    (record,) = caplog.records
    assert f"they are in {folder} until this process ends" in record.getMessage()
    assert "XDG_CACHE_HOME=DIR" in record.getMessage()
    assert not (no_home / "~").exists()


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_cannot_be_made_is_as_none(no_home, monkeypatch, name, caplog):
    (no_home / "file").touch()
    monkeypatch.setenv("HOME", str(no_home))
    monkeypatch.setenv(name, str(no_home / "file" / "home"))
    caches.use_writable_caches.__wrapped__()
    assert Path(os.environ["MPLCONFIGDIR"]).parent.parent == no_home
    assert os.environ["XDG_CACHE_HOME"] == str(Path(os.environ["MPLCONFIGDIR"]).parent)
    assert len(caplog.records) == 1


def test_with_no_place_to_write_there_are_no_caches(no_home, monkeypatch, caplog):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    caches.use_writable_caches.__wrapped__()
    assert "there are none" in caplog.records[0].getMessage()
    assert "XDG_CACHE_HOME" not in os.environ
    monkeypatch.setattr(caches, "use_writable_caches", lambda: None)
    assert tfrecord_index.cache_places(no_home, "a") == [no_home / "jaxcnn-index-a.npz"]


@pytest.mark.usefixtures("no_home")
def test_the_temporary_folder_is_removed_by_its_own_process():
    folder = caches.temporary_folder()
    assert folder is not None
    assert folder.stat().st_mode & 0o777 == 0o700
    caches._remove(str(folder), os.getpid() + 1)
    assert folder.is_dir()
    caches._remove(str(folder), os.getpid())
    assert not folder.exists()


def test_the_resize_is_compiled_without_a_cache_that_fails(monkeypatch, caplog):
    tried = []

    def compile_(cache):
        tried.append(cache)
        if cache:
            raise RuntimeError("cannot cache function '_rescale': no locator available")

    monkeypatch.setattr(resize, "_compile", compile_)
    resize.compile_kernels.__wrapped__()
    assert tried == [True, False]
    assert "no locator available" in caplog.records[-1].getMessage()


@pytest.mark.usefixtures("no_home")
def test_a_path_with_a_tilde_needs_a_home():
    with pytest.raises(ValueError, match=r"~ of '~/x' cannot be expanded.*give the whole path"):
        user_path("~/x")
    with pytest.raises(ValueError, match="~ of '~/tensorflow_datasets' cannot be"):
        open_data("tfds:mnist")


def test_without_a_home_the_digits_are_prepared_in_a_temporary_folder(no_home, monkeypatch):
    prepared = []
    monkeypatch.setattr("jaxcnn.data.splits.prepare_digits", lambda d: prepared.append(d) or d)
    with pytest.raises(ValueError, match="not prepared under"):
        open_data("tfds:digits")
    assert prepared == [caches.temporary_folder() / "tensorflow_datasets"]
    (no_home / "file").touch()
    monkeypatch.setattr("jaxcnn.data.splits.prepare_digits", digits.prepare_digits)
    monkeypatch.setenv("TFDS_DATA_DIR", str(no_home / "file" / "data"))
    with pytest.raises(ValueError, match=f"cannot make the folder {no_home}/file/data"):
        open_data("tfds:digits")


def test_a_compilation_cache_that_cannot_be_written_is_none(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    found = use_compilation_cache({}, str(tmp_path / "new"))
    text = "cannot be used (Read-only file system); each start compiles"
    assert found == ("cache", f"none: {tmp_path / 'new'} {text}")
