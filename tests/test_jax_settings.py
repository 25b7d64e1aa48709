"""JAX's settings that change numbers: pinned for programs and runs, or compared at a resume."""

import os

import flax
import jax
import jax.numpy as jnp
import pytest

from jaxcnn.cli import main as program_module
from jaxcnn.cli.exit_codes import EXIT_ERROR, exit_code
from jaxcnn.jax_settings import (
    PINNED,
    RECORDED,
    changed_settings,
    pin_environment,
    pinned_settings,
    recorded_settings,
)


def test_variables_of_pinned_settings_are_removed_and_said():
    given = {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "true",
        "JAX_DISABLE_JIT": "False",
        "JAX_PLATFORMS": "cpu",
        "FLAX_FIX_RNG_SEPARATOR": "yes",
    }
    assert pin_environment(given) == [
        "JAX_ENABLE_X64=1 is ignored: jaxcnn's numbers need False",
        "JAX_DEFAULT_PRNG_IMPL=rbg is ignored: jaxcnn's numbers need threefry2x32",
        "FLAX_FIX_RNG_SEPARATOR=yes is ignored: jaxcnn's numbers need False",
    ]
    assert given == {"JAX_PLATFORMS": "cpu"}


def test_the_program_pins_before_it_starts_a_command(monkeypatch, capsys):
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    monkeypatch.setattr(program_module, "main", len)
    with pytest.raises(SystemExit) as left:
        program_module.program(["check", "vgg_a"])
    assert left.value.code == 2
    assert "JAX_ENABLE_X64" not in os.environ
    assert "JAX_ENABLE_X64=1 is ignored" in capsys.readouterr().err


# Settings that jax 0.10 has and 0.12 has not.
REMOVED = ("jax_disable_most_optimizations", "jax_exec_time_optimization_effort")


def test_the_settings_exist_and_have_these_defaults(monkeypatch):
    """Removing one from JAX or changing its default must show here."""
    monkeypatch.setattr(jax.config, "jax_disable_most_optimizations", False, raising=False)
    for name, value in (*PINNED.items(), *RECORDED.items()):
        config = flax.config if name.startswith("flax_") else jax.config
        if hasattr(config, name) or name not in REMOVED:
            assert getattr(config, name) == value, name


def test_a_run_has_pinned_settings_and_gives_the_old_ones_back(caplog):
    changed = {
        "jax_enable_x64": True,
        "jax_default_prng_impl": "rbg",
        "jax_threefry_partitionable": False,
    }
    expected = jax.random.bits(jax.random.key(0), (5,))
    with pinned_settings():
        assert not caplog.records
    try:
        for name, value in changed.items():
            jax.config.update(name, value)
        with pinned_settings():
            assert (jax.random.bits(jax.random.key(0), (5,)) == expected).all()
            assert jnp.arange(3.0).dtype == jnp.float32
        assert {name: getattr(jax.config, name) for name in changed} == changed
    finally:
        for name in changed:
            jax.config.update(name, PINNED[name])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert "jax_enable_x64=True is set to False for this run, whose numbers need it" in said


def test_a_context_manager_around_a_run_is_an_error():
    with jax.enable_x64(True), pytest.raises(ValueError, match="block that sets jax_enable_x64"):
        pinned_settings().__enter__()
    assert not jax.config.jax_enable_x64


def test_changed_settings_are_named(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # the tests themselves may be run with some
    before = recorded_settings()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    with jax.default_matmul_precision("bfloat16"):
        now = recorded_settings()
    assert changed_settings(before, before) == []
    assert changed_settings(None, now) == []
    assert changed_settings(before, now) == [
        "XLA_FLAGS was not set at the last start and is --xla_cpu_enable_fast_math=true: results are "
        "rounded in another way",
        "jax_default_matmul_precision was not set at the last start and is bfloat16: results are rounded in "
        "another way",
    ]
    assert changed_settings(now, before)[1].startswith("jax_default_matmul_precision was bfloat16")


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize"), AssertionError()])
def test_an_absent_platform_is_one_line_with_what_there_is(monkeypatch, capsys, error):
    asked = []

    def devices():
        asked.append(jax.config.jax_platforms)
        if asked[-1] == "cuda":
            raise error
        return [type("Device", (), {"platform": "cpu"})]

    def work():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    jax.config.update("jax_platforms", "cuda")
    try:
        assert exit_code(work, kept="nothing") == EXIT_ERROR
    finally:
        jax.config.update("jax_platforms", "cpu")
    said = capsys.readouterr().err
    assert said.startswith("error: JAX_PLATFORMS=cuda cannot be used: ")
    assert ("no plugin for it is installed" in said) == isinstance(error, AssertionError)
    assert "JAX finds cpu here: unset JAX_PLATFORMS" in said
    assert said.count("\n") == 1
    with pytest.raises(type(error)):  # another error of that type, with devices that can be used
        exit_code(work, kept="nothing")
