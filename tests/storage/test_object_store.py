"""Objects in a bucket: ranges, generations, and what errors become."""

import errno
import logging

import pytest

from jaxcnn import object_store, retries
from jaxcnn.files import FileError, read_json, set_aside, write_text
from jaxcnn.paths import is_remote, local_path, user_path


def test_ranges(bucket):
    path = bucket / "folder" / "object"
    object_store.write(path, bytes(range(100)))
    assert object_store.read(path) == bytes(range(100))
    assert object_store.read(path, 10, 20) == bytes(range(10, 20))
    assert object_store.read(path, 90, 120) == bytes(range(90, 100))
    assert object_store.read(path, 200, 300) == b""
    assert path.stat().length == 100


def test_a_write_of_another_generation_is_refused(bucket):
    path = bucket / "object"
    first = object_store.write(path, b"a", object_store.NONE)
    with pytest.raises(object_store.Changed):
        object_store.write(path, b"b", object_store.NONE)
    second = object_store.write(path, b"c", first)
    with pytest.raises(object_store.Changed):
        object_store.write(path, b"d", first)
    with pytest.raises(object_store.Changed):
        object_store.delete(path, first)
    assert object_store.read_content(path) == (b"c", second)
    object_store.delete(path, second)
    with pytest.raises(FileNotFoundError):
        object_store.read(path)


@pytest.mark.parametrize(("status", "code"), [(403, errno.EACCES), (401, errno.EACCES)])
def test_no_permission(bucket, bucket_proxy, status, code):
    bucket_proxy.status = status
    for request in (lambda p: object_store.read(p), lambda p: object_store.write(p, b"")):
        with pytest.raises(OSError, match="refused by the proxy") as caught:
            request(bucket / "object")
        assert caught.value.errno == code


@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_that_may_pass_are_tried_again(bucket, bucket_proxy, monkeypatch, caplog, status):
    object_store.write(bucket / "object", b"content")
    monkeypatch.setattr(retries, "PAUSES", (0.0, 0.0))
    answers = iter([status, status, 0])
    bucket_proxy.wrong = lambda *_: next(answers)
    with caplog.at_level(logging.WARNING):
        assert object_store.read_again(bucket / "object") == b"content"
    assert caplog.text.count("trying again") == 2
    bucket_proxy.status = status
    with pytest.raises(retries.StillFailing, match="3 times"):
        object_store.read_again(bucket / "object")


def test_no_answer_is_an_error_of_time(bucket, bucket_proxy, monkeypatch):
    monkeypatch.setattr(object_store, "TIMEOUT_SECONDS", 0.05)
    bucket_proxy.answers.clear()
    with pytest.raises(OSError, match="did not answer") as caught:
        object_store.read(bucket / "object")
    assert caught.value.errno in retries.TRANSIENT


@pytest.mark.usefixtures("bucket_proxy")
def test_no_such_bucket():
    path = user_path("gs://jaxcnn-no-such-bucket/object")
    with pytest.raises(FileNotFoundError):
        object_store.read(path)
    with pytest.raises(FileNotFoundError):
        object_store.write(path, b"")


def test_small_files(bucket):
    path = bucket / "run" / "a.json"
    with pytest.raises(FileError, match="is missing"):
        read_json(path, advice="")
    write_text(path, '{"a": 1}')
    assert read_json(path, {"a": int}, advice="") == {"a": 1}
    for name in ("a.json.damaged", "a.json.damaged-2"):
        assert set_aside(path) == path.with_name(name)
        assert not path.exists()
        write_text(path, '{"a": 1}')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://bucket/run", "s3:// is not served.*Orbax.*gs://BUCKET"),
        ("http://host/run", "http:// is not served.*gs://BUCKET"),
        ("file:///tmp/run", "without file://"),
        ("gs:/bucket/run", "two slashes"),
        ("gs:///run", "two slashes"),
        ("gs://b/run", "names no bucket: 'b'"),
        ("gs://", "names no bucket: ''"),
        ("gs://bucket/run*", r"'\*', which clients .* take for patterns"),
        ("gs://bucket/run[1]", r"'\[' '\]'"),
        ("gs://bucket/../run", r"no '\.' and '\.\.'"),
    ],
)
def test_paths_that_are_not_served(text, message):
    with pytest.raises(ValueError, match=message):
        user_path(text)


def test_paths_in_buckets():
    path = user_path("gs://bucket//runs/first/")
    assert is_remote(path)
    assert str(path) == "gs://bucket/runs/first"
    assert not is_remote(user_path("~/gs/s3"))
    with pytest.raises(ValueError, match="a cache cannot be in a bucket"):
        local_path("gs://bucket/cache", "a cache")
