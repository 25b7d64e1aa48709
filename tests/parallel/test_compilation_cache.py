"""The persistent compilation cache: used by the next process, private to the user."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxcnn.parallel.compilation_cache import use_compilation_cache


def start(code, *arguments, **variables):
    """The output of a child process that does not inherit JAX settings."""
    own = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith("JAX_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=own | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | variables,
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


# Prints the console row; a hash of the parameters after three updates of a convolutional net; the threshold
# and how many quickly compiled programs are cached; without a threshold, whether a program is found.
START = """
import hashlib, os, sys
from jaxcnn.parallel.compilation_cache import use_compilation_cache
from jaxcnn.parallel.xla_options import compiler_options, require_determinism
print(*use_compilation_cache(os.environ, sys.argv[1]))

import jax, numpy as np
def loss(params, images):
    kernel, dense = params
    layout = "NHWC", "HWIO", "NHWC"
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
    x = jax.lax.reduce_window(jax.nn.relu(x), -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return jax.nn.logsumexp(x.reshape(len(x), -1) @ dense, axis=1).mean()
random = np.random.default_rng(0)
params = [random.standard_normal(s, np.float32) / 100 for s in ((3, 3, 3, 32), (8192, 50))]
images = random.standard_normal((16, 32, 32, 3), np.float32)
require_determinism()
step = jax.jit(
    lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p, images)),
    compiler_options=compiler_options(jax.devices()[0]),
)
for _ in range(3):
    params = step(params)
print(hashlib.sha256(b"".join(x.tobytes() for x in jax.device_get(params))).hexdigest())

kept = len(os.listdir(sys.argv[1]))
jax.jit(lambda x: x + 1)(1.0)
print(jax.config.jax_persistent_cache_min_compile_time_secs, len(os.listdir(sys.argv[1])) - kept)

hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x @ x)(jax.numpy.ones((8, 8)))
print(hits.count("/jax/compilation_cache/cache_hits") > 0)
"""


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """(folder, its number of programs after the first start, output of each start)."""
    folder = tmp_path_factory.mktemp("cache") / "new" / "programs"
    first = start(START, folder).splitlines()
    return folder, len(list(folder.glob("*-cache"))), first, start(START, folder).splitlines()


def test_a_second_start_loads_programs_from_the_cache(starts):
    folder, kept, first, second = starts
    owner = "users who can write there can run code here"
    assert first[0] == f"cache {folder}, 0 compiled programs; {owner}"
    assert kept > 0
    assert second[0] == f"cache {folder}, {kept} compiled programs; {owner}"
    assert (first[3], second[3]) == ("False", "True")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_quickly_compiled_programs_are_not_cached(starts):
    assert [printed[2] for printed in starts[2:]] == ["1.0 0", "1.0 0"]


def test_a_convolutional_step_gives_the_same_bits_in_two_processes(starts):
    """Both compile it, unless that took the first a second or more."""
    first, second = starts[2:]
    assert len(first[1]) == 64
    assert first[1] == second[1]


def test_jax_compilation_cache_dir_takes_precedence(tmp_path):
    name, text = use_compilation_cache(
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, str(tmp_path / "new")
    )
    assert name == "cache"
    assert text.startswith("/elsewhere, from JAX_COMPILATION_CACHE_DIR")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_a_cache_that_others_can_write_to_is_an_error(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(ValueError, match=f"type: chmod 700 {tmp_path}"):
        use_compilation_cache({}, str(tmp_path))


def test_a_cache_of_another_user_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ValueError, match="belongs to another user"):
        use_compilation_cache({}, str(tmp_path))


def test_a_path_that_is_not_a_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="name another"):
        use_compilation_cache({}, str(tmp_path / "file"))
    with pytest.raises(ValueError, match="JAX_COMPILATION_CACHE_DIR"):
        use_compilation_cache({}, "gs://bucket/programs")
