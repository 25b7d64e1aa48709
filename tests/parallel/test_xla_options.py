"""XLA options of each compilation: the table, the user's flags, and options unknown to this jaxlib."""

import jax
import pytest

from jaxcnn.parallel import make_placement, xla_options
from jaxcnn.parallel.xla_options import OPTIONS, Option, compiler_options, option_lines

OVERLAP = "xla_gpu_enable_latency_hiding_scheduler"
DETERMINISTIC = "xla_gpu_deterministic_ops"
FAST_MATH = Option("cpu", "xla_cpu_enable_fast_math", "False")


@pytest.fixture(autouse=True)
def no_user_flags(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    yield
    xla_options.require_determinism(False)


@pytest.fixture
def device():
    return jax.devices()[0]


def with_options(monkeypatch, *options):
    monkeypatch.setattr(xla_options, "OPTIONS", options)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.name)
def test_this_jaxlib_knows_the_options_for_cpus_and_gpus(option, device):
    """XLA has one table of options for all platforms; libtpu has additional ones."""
    if option.platform != "tpu":
        assert xla_options._known((option,), device) == (option,)


def test_booleans_are_capitalised_as_compiler_options_need():
    truths = ("True", "False")
    assert all(o.value in truths for o in OPTIONS if o.value.lower() in ("true", "false"))


@pytest.mark.parametrize(
    ("platform", "deterministic", "names"),
    [("gpu", False, [OVERLAP]), ("gpu", True, [OVERLAP, DETERMINISTIC]), ("another", True, [])],
)
def test_options_of_a_platform(platform, deterministic, names):
    xla_options.require_determinism(deterministic)
    assert [option.name for option in xla_options._chosen(platform)] == names


def test_an_unknown_option_is_omitted_and_reported(monkeypatch, device):
    unknown = Option("cpu", "xla_nonsense", "1")
    with_options(monkeypatch, unknown, FAST_MATH)
    options = compiler_options(device)
    assert options == {FAST_MATH.name: "False"}
    jax.jit(lambda x: x + 1).lower(1).compile(compiler_options=options)
    ((name, text),) = option_lines(device)
    assert name == "xla"
    assert text == f"not set, unknown to jaxlib {jax.lib.__version__}: xla_nonsense"


def test_an_unknown_value_is_omitted(monkeypatch, device):
    with_options(monkeypatch, Option("cpu", "xla_cpu_scheduler_type", "NONSENSE"))
    assert compiler_options(device) == {}


def test_the_users_flags_take_precedence_and_are_reported(monkeypatch, device):
    with_options(monkeypatch, FAST_MATH)
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    assert compiler_options(device) == {}
    assert option_lines(device) == [("xla", "from XLA_FLAGS: --xla_cpu_enable_fast_math=true")]


def test_nothing_is_printed_if_all_options_are_set(device):
    assert option_lines(device) == []


def test_what_determinism_means_on_a_cpu(device):
    xla_options.require_determinism()
    ((_, text),) = option_lines(device)
    assert "the same number of cores always gives the same bits" in text


def test_options_do_not_depend_on_the_mesh_that_is_set(device):
    placement = make_placement()
    xla_options._known.cache_clear()
    with jax.set_mesh(placement.mesh):
        assert placement.compiler_options == compiler_options(device)


def test_cpu_convolutions_do_not_use_ynnpack(device):
    placement = make_placement([device])
    x = jax.ShapeDtypeStruct((2, 16, 16, 64), "float32")
    kernel = jax.ShapeDtypeStruct((5, 5, 64, 64), "float32")
    layout = ("NHWC", "HWIO", "NHWC")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)

    text = jax.jit(convolve, compiler_options=placement.compiler_options).lower(x, kernel)
    assert "ynn_fusion" not in text.compile().as_text()
