"""The persistent compilation cache: used by the next process, private to the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.parallel.compilation_cache import use_compilation_cache


def start(code, *arguments, **variables):
    """What a child process without this one's JAX settings prints."""
    own = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=own | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | variables,
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


CACHED = """
import os, sys
from jaxcnn.parallel.compilation_cache import use_compilation_cache
print(*use_compilation_cache(os.environ, sys.argv[1]))
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
assert jax.config.jax_persistent_cache_min_compile_time_secs == float(sys.argv[2])
jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8)))
print(hits.count("/jax/compilation_cache/cache_hits") > 0)
"""


def test_a_second_start_takes_programs_from_the_cache(tmp_path):
    folder = tmp_path / "new" / "programs"
    brief = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    first = start(CACHED, folder, 0, **brief).splitlines()
    assert first == [
        f"cache {folder}, 0 compiled programs; users who can write there can run code here",
        "False",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = len(list(folder.glob("*-cache")))
    assert kept > 0
    second = start(CACHED, folder, 0, **brief).splitlines()
    assert f", {kept} compiled programs" in second[0]
    assert second[1] == "True"


def test_a_cache_that_is_set_already_is_left_alone(tmp_path):
    name, text = use_compilation_cache(
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, str(tmp_path / "new")
    )
    assert name == "cache"
    assert text.startswith("/elsewhere, from JAX_COMPILATION_CACHE_DIR")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_cache_that_others_can_write_to_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(ValueError, match=f"type: chmod 700 {tmp_path}"):
        use_compilation_cache({}, str(tmp_path))


def test_a_cache_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        use_compilation_cache({}, str(tmp_path))


def test_a_cache_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="name another"):
        use_compilation_cache({}, str(tmp_path / "file"))
    with pytest.raises(ValueError, match="JAX_COMPILATION_CACHE_DIR"):
        use_compilation_cache({}, "gs://bucket/programs")
