"""Settings of JAX and Flax that change numbers: pinned, or recorded and compared at the next start.

JAX reads JAX_NAME from the environment when it is imported, and afterwards keeps `jax.config.jax_name`. All
its settings were gone through, of jax 0.10; jax 0.12 lacks two of these. The others choose devices, caches,
messages and checks, or do not apply to what jaxcnn computes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

PRNG = "threefry2x32"
# jaxcnn's numbers are defined for these values, the defaults. Another random generator or order of its bits
# gives other weights, dropout masks and flips; 64 bits give other dtypes; without jit there are no programs.
PINNED: Mapping[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": PRNG,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_disable_jit": False,
    "jax_no_execution": False,
    "flax_fix_rng_separator": False,
    "flax_return_frozendict": False,
}
# These may be chosen: they change precision, or the program and with it the rounding. With the defaults.
RECORDED: Mapping[str, Any] = {
    "jax_default_matmul_precision": None,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    "jax_softmax_custom_jvp": False,
    "jax_use_direct_linearize": True,
    "jax_use_shardy_partitioner": True,
    "jax_enable_pgle": False,
}
# Read by XLA, by a TPU's and a GPU's libraries, and by models/kernels/dispatch.py.
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE", "JAXCNN_KERNELS")
_FALSE = ("0", "n", "no", "f", "false", "off", "")


def pin_environment(environment: MutableMapping[str, str]) -> list[str]:
    """Removes the variables of pinned settings, for a program that has not imported JAX yet.

    Returns:
        A line for each that had another value.
    """
    lines = []
    for name, value in PINNED.items():
        text = environment.pop(name.upper(), None)
        same = (str(value).lower(), *(_FALSE if value is False else ("1", "y", "yes", "t", "on")))
        if text is not None and text.lower() not in same:
            lines.append(f"{name.upper()}={text} is ignored: jaxcnn's numbers need {value}")
    return lines


@contextlib.contextmanager
def pinned_settings() -> Iterator[None]:
    """Holds the settings at their values in the block, for a program that may have changed them; says so.

    Raises:
        ValueError: one is changed by a context manager around the block.
    """
    import flax
    import jax

    with contextlib.ExitStack() as stack:
        for name, value in PINNED.items():
            config: Any = flax.config if name.startswith("flax_") else jax.config
            before = getattr(config, name, value)  # versions differ in what they have
            if str(getattr(before, "value", before)) != str(value):
                logging.getLogger(__name__).warning(
                    "%s=%s is set to %s for this run, whose numbers need it", name, before, value
                )
                config.update(name, value)
                if str(getattr(config, name)) != str(value):
                    raise ValueError(f"call this outside of the block that sets {name} to {before}")
                stack.callback(config.update, name, before)
        yield


def recorded_settings() -> dict[str, str]:
    """The settings that a run records and compares at its next start; those at their default are left out."""
    import jax

    values = {name: os.environ.get(name, "") for name in VARIABLES}
    for name, default in RECORDED.items():
        value = getattr(jax.config, name, default)
        values[name] = "" if value == default else str(value)
    return {name: value for name, value in values.items() if value}


def changed_settings(before: object, now: Mapping[str, str]) -> list[str]:
    """A line for each setting that differs from the start before; none if that recorded no settings."""
    if not isinstance(before, Mapping):
        return []
    return [
        f"{name} was {before.get(name) or 'not set'} at the last start and is {now.get(name) or 'not set'}: "
        "results are rounded in another way"
        for name in sorted({*before, *now})
        if before.get(name, "") != now.get(name, "")
    ]


def missing_platform() -> str:
    """What is wrong with JAX_PLATFORMS, after an error, and which devices there are; '' if nothing is."""
    import jax

    wanted: str | None = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if not wanted:
        return ""
    try:
        jax.devices()
        return ""
    except (RuntimeError, AssertionError) as error:  # the second without text, for cuda
        reason = str(error).partition(" (set JAX_PLATFORMS")[0].partition("\n")[0]
    jax.config.update("jax_platforms", None)
    try:
        found = f"JAX finds {jax.devices()[0].platform} here"
    except RuntimeError:
        found = "JAX finds no devices here"
    return (
        f"JAX_PLATFORMS={wanted} cannot be used: {reason or 'no plugin for it is installed'}. {found}: unset "
        "JAX_PLATFORMS to use that, or install what is missing (pip install 'jaxcnn[cuda12]', cuda13 or tpu)"
    )
