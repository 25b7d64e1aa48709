"""Flags before JAX starts: the table's and the user's, what jaxlib does not know, the cache of programs."""

import json
import os
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from jaxcnn.parallel import gpus, xla_options
from jaxcnn.parallel.compilation_cache import use_compilation_cache
from jaxcnn.parallel.xla_options import ROWS, Row, compiler_options, guess_platform, prepare

HERE = version("jaxlib")
OVERLAP = "--xla_gpu_enable_latency_hiding_scheduler=true"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
FAST_MATH = "--xla_cpu_enable_fast_math=false"


def start(code, *arguments, **variables):
    """A child process without this one's JAX settings."""
    own = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS" and not k.startswith("JAX_")}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=own | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"} | variables,
        cwd=Path(__file__).parent.parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    """What it printed; it must have ended well."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


def prepared(environment, platform="gpu", version=HERE, deterministic=False, **more):
    return prepare(
        environment, platform=platform, version=version, deterministic=deterministic, **more
    )


@pytest.fixture
def no_child(monkeypatch):
    """Asking jaxlib in a child process is an error."""
    monkeypatch.setattr(xla_options, "subprocess", None)


# The table.


@pytest.mark.parametrize(
    ("platform", "deterministic", "expected"),
    [
        ("gpu", False, OVERLAP),
        ("gpu", True, f"{OVERLAP} {DETERMINISTIC}"),
        ("cpu", False, None),
        ("cpu", True, None),
        ("tpu", False, None),
        ("somebody's", True, None),
    ],
)
@pytest.mark.usefixtures("no_child")
def test_what_is_set_where_the_user_sets_nothing(platform, deterministic, expected):
    environment = {}
    done = prepared(environment, platform, deterministic=deterministic)
    assert environment.get("XLA_FLAGS") == expected
    assert done.flags == tuple((expected or "").split())
    assert bool(done.lines()) == bool(expected or deterministic)
    promised = deterministic and platform in ("gpu", "cpu")
    assert promised == any("the same bits" in t or "ruled out" in t for _, t in done.lines())


def test_every_flag_of_the_table_is_known_to_this_jaxlib():
    now = [row for row in ROWS if row.platform != "tpu" and xla_options._holds(row, HERE)]
    assert {row.flag for row in now} >= {OVERLAP[2:-5], DETERMINISTIC[2:-5]}
    words = " ".join(f"--{row.flag}={row.value}" for row in now)
    ended(start("import jax; jax.devices()", XLA_FLAGS=words))


@pytest.mark.usefixtures("no_child")
def test_a_child_of_a_run_asks_no_more():
    environment = {}
    first = prepared(environment, deterministic=True)
    text = environment["XLA_FLAGS"]
    assert prepared(environment, deterministic=True) == first
    assert environment["XLA_FLAGS"] == text


@pytest.mark.parametrize(
    ("this", "holds"),
    [
        ("0.9.3", False),
        ("0.10", True),
        ("0.10.0", True),
        ("0.10.2.dev20260601", True),
        ("0.10.12rc1", True),
        ("0.11.0", False),
        ("0.11.0rc1", False),
        ("1.0", False),
    ],
)
def test_versions_outside_the_table_are_left_out_and_told(this, holds):
    environment = {}
    done = prepared(environment, version=this)
    assert ("XLA_FLAGS" in environment) == holds
    assert ("not set: xla_gpu_enable_latency" in done.lines()[0][1]) == (not holds)
    assert holds or this in done.lines()[0][1]
    promise = prepared({}, version=this, deterministic=True).lines()[-1][1]
    assert ("warning: nothing was set" in promise) == (not holds)


@pytest.mark.parametrize("platform", ["tpu", "cpu"])
def test_rows_of_a_cpu_or_tpu_are_options_of_each_compilation(platform):
    import jax

    rows = (Row(platform, "xla_cpu_enable_fast_math", "False", "0.10", "0.11", "a stand-in"),)
    environment = {}
    assert prepared(environment, platform, rows=rows).flags == ()
    assert environment == {}
    ask = partial(compiler_options, environment={}, rows=rows)
    options = ask(platform, version="0.10.2")
    assert options == {"xla_cpu_enable_fast_math": "False"}
    assert ask("gpu", version="0.10.2") == {}
    assert ask(platform, version="0.11.0") == {}
    own = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    assert compiler_options(platform, version="0.10.2", environment=own, rows=rows) == {}
    jax.jit(lambda x: x + 1).lower(1).compile(compiler_options=options)


def test_truth_is_written_as_each_place_reads_it():
    truths = {"cpu": ("True", "False"), "gpu": ("true", "false"), "tpu": ("True", "False")}
    assert all(r.value in truths[r.platform] for r in ROWS if r.value.lower() in ("true", "false"))


def test_a_cpu_computes_convolutions_by_xla_itself():
    import jax

    from jaxcnn.parallel import make_placement

    placement = make_placement(jax.devices()[:1])
    x = jax.ShapeDtypeStruct((2, 16, 16, 64), "float32")
    kernel = jax.ShapeDtypeStruct((5, 5, 64, 64), "float32")
    layout = ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    for options, library in ((None, True), (placement.compiler_options, False)):
        text = jax.jit(convolve, compiler_options=options).lower(x, kernel).compile().as_text()
        assert ("ynn_fusion" in text) == library


# The user's own.


def test_the_users_flags_win():
    environment = {"XLA_FLAGS": "--xla_gpu_enable_latency_hiding_scheduler=false"}
    done = prepared(environment)
    assert environment["XLA_FLAGS"] == "--xla_gpu_enable_latency_hiding_scheduler=false"
    assert done.added == {}
    assert done.lines() == [("flags", f"from XLA_FLAGS: {environment['XLA_FLAGS']}")]

    environment = {"XLA_FLAGS": "--xla_gpu_deterministic_ops=false"}
    done = prepared(environment, deterministic=True)
    assert environment["XLA_FLAGS"] == f"{OVERLAP} --xla_gpu_deterministic_ops=false"
    assert done.lines()[-1][1].startswith("deterministic: warning: nothing was set for it")


def test_unknown_flags_are_dropped_with_a_warning():
    unknown = ["--xla_gpu_graph_level=0", "--xla_odd='--a b'", "--xla_tpu_odd=1", "-xla_odd"]
    environment = {"XLA_FLAGS": " ".join([unknown[0], FAST_MATH, *unknown[1:]])}
    done = prepared(environment, "cpu")
    assert environment["XLA_FLAGS"] == FAST_MATH
    assert list(done.dropped) == unknown
    assert "LIBTPU_INIT_ARGS" in done.dropped["--xla_tpu_odd=1"]
    assert "LIBTPU_INIT_ARGS" not in done.dropped["-xla_odd"]
    (_, first), *more = done.lines()
    assert first == f"from XLA_FLAGS: {FAST_MATH}"
    assert [text.split(": ")[:2] for _, text in more] == [
        ["warning", f"dropped {flag}"] for flag in unknown
    ]
    assert json.loads(json.dumps(done.record())) == {
        "platform": "cpu",
        "deterministic": False,
        "xla_flags": [FAST_MATH],
        "dropped": unknown,
    }


SURVIVE = """
import os, sys
from jaxcnn.parallel.flags import prepare
for name, text in prepare(os.environ, platform="cpu", version="0.10.2", deterministic=False).lines():
    print(name, text)
import jax
print(jax.numpy.arange(4).sum())
"""


def test_a_run_outlives_a_flag_that_jaxlib_does_not_know():
    without, with_it = (
        start(code, XLA_FLAGS=f"--xla_nonsense=1 {FAST_MATH}")
        for code in ("import jax; jax.devices()", SURVIVE)
    )
    said = ended(with_it).splitlines()
    assert said[0] == f"flags from XLA_FLAGS: {FAST_MATH}"
    assert said[1].startswith(" warning: dropped --xla_nonsense=1: ")
    assert said[2] == "6"
    assert "Unknown flag" in without.communicate()[1]
    assert without.returncode != 0


def test_what_xla_leaves_unread_is_told():
    environment = {"XLA_FLAGS": f" {FAST_MATH}  threads=1 --xla_nonsense "}
    done = prepared(environment, "gpu")
    assert environment["XLA_FLAGS"] == f"{OVERLAP} {FAST_MATH}"
    assert list(done.dropped) == ["threads=1 --xla_nonsense"]


@pytest.mark.parametrize("text", ["", "  "])
@pytest.mark.usefixtures("no_child")
def test_empty_flags_are_none(text):
    environment = {"XLA_FLAGS": text}
    assert prepared(environment, "cpu").lines() == []
    assert environment == {"XLA_FLAGS": ""}


def test_quotes_are_kept():
    words = ('--a="x \\" y"', "--b='x \" y'", "--c", "--d=", '--e=x"y')
    assert xla_options._split("  ".join(words)) == (words, {})


def test_flags_in_a_file(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text(f"{FAST_MATH}\n--xla_nonsense\n")
    environment = {"XLA_FLAGS": str(file)}
    done = prepared(environment, "gpu")
    assert environment["XLA_FLAGS"] == f"{OVERLAP} {FAST_MATH}"
    assert list(done.dropped) == ["--xla_nonsense"]


def test_what_jaxlib_does_not_take_is_an_error():
    with pytest.raises(ValueError, match="type XLA_FLAGS=--xla_gpu_deterministic_ops=true"):
        prepared({"XLA_FLAGS": "xla_gpu_deterministic_ops=true"})
    environment = {"XLA_FLAGS": "--xla_gpu_autotune_level=high"}
    with pytest.raises(
        ValueError, match=r"=high: Couldn't interpret value high for flag.*unset XLA_FLAGS"
    ):
        prepared(environment)
    assert environment == {"XLA_FLAGS": "--xla_gpu_autotune_level=high"}


# The platform.


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "cpu"),
        ({"JAX_PLATFORMS": ""}, "cpu"),
        ({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}, "cpu"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, "gpu"),
        ({"JAX_PLATFORMS": "ROCm"}, "gpu"),
        ({"JAX_PLATFORMS": "tpu"}, "tpu"),
        ({"JAX_PLATFORMS": "other"}, "other"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "gpu"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, "cpu"),
    ],
)
def test_the_platform_by_the_environment(environment, expected):
    assert guess_platform(environment) == expected


def test_the_platform_by_device_files(tmp_path):
    (tmp_path / "accel0").touch()
    assert guess_platform({}) == "cpu"
    assert guess_platform({"TPU_LIBRARY_PATH": __file__}) == "tpu"
    (gpus.DEVICE_FILES / "nvidia0").touch()
    assert guess_platform({}) == "gpu"


# Determinism.

STEP = """
import hashlib, os, sys
from jaxcnn.parallel.flags import prepare
prepare(os.environ, platform="cpu", version="0.10.2", deterministic=True)
import jax, numpy as np
def loss(params, images):
    kernel, dense = params
    layout = "NHWC", "HWIO", "NHWC"
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=layout)
    x = jax.nn.relu(x)
    x = jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
    return jax.nn.logsumexp(x.reshape(len(x), -1) @ dense, axis=1).mean()
random = np.random.default_rng(0)
params = [random.standard_normal(s, np.float32) / 100 for s in ((3, 3, 3, 32), (8192, 50))]
images = random.standard_normal((16, 32, 32, 3), np.float32)
step = jax.jit(lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p, images)))
for _ in range(3):
    params = step(params)
print(hashlib.sha256(b"".join(x.tobytes() for x in jax.device_get(params))).hexdigest())
"""


def test_a_convolutional_step_gives_the_same_bits_in_two_processes():
    first, second = start(STEP), start(STEP)
    assert ended(first) == ended(second)


# The cache.

CACHED = """
import os, sys
from jaxcnn.parallel.cache import cache
print(*cache(os.environ, sys.argv[1]))
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
    first = ended(start(CACHED, folder, 0, **brief)).splitlines()
    assert first == [
        f"cache {folder}, 0 compiled programs; whoever writes there runs code here",
        "False",
    ]
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = len(list(folder.glob("*-cache")))
    assert kept > 0
    second = ended(start(CACHED, folder, 0, **brief)).splitlines()
    assert f", {kept} compiled programs" in second[0]
    assert second[1] == "True"


def test_only_what_takes_a_second_to_compile_is_cached(tmp_path):
    ended(start(CACHED, tmp_path, 1))
    assert not list(tmp_path.glob("*-cache"))


def test_a_cache_that_is_set_already_is_left_alone(tmp_path):
    name, text = use_compilation_cache(
        {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}, str(tmp_path / "new")
    )
    assert name == "cache"
    assert text.startswith("/elsewhere, by JAX_COMPILATION_CACHE_DIR")
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
