"""XLA options by platform, passed to each compilation as `compiler_options`.

Options unknown to the installed jaxlib are omitted and reported. Options named in the user's XLA_FLAGS are
omitted too: XLA reads that variable when the first backend starts.
"""

from __future__ import annotations

import functools
import os
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh, SingleDeviceSharding


class Option(NamedTuple):
    """An option that is set unless the user sets it; `deterministic`: only after `require_determinism`."""

    platform: str
    name: str
    value: str
    deterministic: bool = False


# Omitted on purpose:
# - xla_gpu_all_reduce_combine_threshold_bytes: at XLA's 30 MiB, fc6 and fc7 of AlexNet and VGG each fill a
#   bucket, which is sent during the backward pass of the convolutions; larger buckets would be sent after it.
# - xla_gpu_exclude_nondeterministic_ops, xla_gpu_autotune_level=0: xla_gpu_deterministic_ops includes both.
OPTIONS = (
    # An empty value turns YNNPACK off. XLA:CPU's convolutions take a quarter to a half of the time for kernel
    # gradients: VGG D, 8 images of 224 pixels: 1.31 images per second instead of 0.54, two cores of an AMD
    # EPYC. YNNPACK fusions also crash on arrays of rank 7 and more (jax #39257) and are wrong in one public
    # case (jax #39103).
    Option("cpu", "xla_cpu_experimental_ynn_fusion_type", ""),
    # Temporary memory of a compiled step at 224 pixels, with neither of the next two, with the first, and
    # with both: AlexNet, 16 images, 0.76, 0.49, 0.31 GB; GoogLeNet, 16, 1.47, 1.02, 0.99 GB; VGG D, 8, 1.99,
    # 1.20, 0.88 GB; as fast or faster. The default schedule favours running many operations concurrently; the
    # second option saves copies of parameters and momentum.
    Option("cpu", "xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"),
    Option("cpu", "xla_cpu_copy_insertion_use_region_analysis", "True"),
    # Gradients are summed over devices during the backward pass.
    Option("gpu", "xla_gpu_enable_latency_hiding_scheduler", "True"),
    # No atomic additions, and no algorithm chosen by its measured time.
    Option("gpu", "xla_gpu_deterministic_ops", "True", deterministic=True),
    # The gradient of one array is summed while convolutions of the backward pass run, and with the third also
    # elementwise operations. The first two have an effect only together (libtpu 0.0.42).
    Option("tpu", "xla_enable_async_all_reduce", "True"),
    Option("tpu", "xla_tpu_enable_async_collective_fusion_fuse_all_reduce", "True"),
    Option("tpu", "xla_tpu_enable_async_collective_fusion_fuse_kloop_fusions", "True"),
)

_deterministic = False


def require_determinism(required: bool = True) -> None:
    """Makes later compilations of this process exclude operations whose results depend on timing."""
    global _deterministic  # process-wide, like jax.config
    _deterministic = required


def compiler_options(device: Any) -> dict[str, str]:
    """The options for programs on `device`, for `jax.jit(..., compiler_options=...)`.

    Args:
        device: a device of this process, or one of a topology description.
    """
    chosen = _chosen(device.platform)
    return {option.name: option.value for option in _known(chosen, device)} if chosen else {}


def option_lines(device: Any) -> list[tuple[str, str]]:
    """(name, text) rows for the console: XLA_FLAGS, omitted options, and what determinism means on this
    platform. Empty if there is nothing to report."""
    chosen = _chosen(device.platform)
    known = compiler_options(device)
    rows = [f"from XLA_FLAGS: {flags}"] if (flags := _user_flags()) else []
    if missing := [option.name for option in chosen if option.name not in known]:
        rows.append(f"not set, unknown to jaxlib {version('jaxlib')}: {', '.join(missing)}")
    if _deterministic and device.platform == "cpu":
        rows.append("deterministic: a CPU with the same number of cores always gives the same bits")
    elif _deterministic and any(option.deterministic and option.name in known for option in chosen):
        rows.append("deterministic: operations whose bits depend on timing are excluded")
    elif _deterministic:
        rows.append(f"deterministic: warning: no option was set for it on {device.platform}")
    return [("" if i else "xla", text) for i, text in enumerate(rows)]


def _user_flags() -> str:
    return os.environ.get("XLA_FLAGS", "").strip()


def _chosen(platform: str) -> tuple[Option, ...]:
    return tuple(
        option
        for option in OPTIONS
        if option.platform == platform
        and (_deterministic or not option.deterministic)
        and option.name not in _user_flags()
    )


@functools.cache
def _known(options: tuple[Option, ...], device: Any) -> tuple[Option, ...]:
    """The options that the compiler of `device` accepts, found by compiling an empty program."""
    argument = jax.ShapeDtypeStruct((), "int32", sharding=SingleDeviceSharding(device))
    with jax.set_mesh(Mesh([device], ("device",))):  # whatever mesh the caller has set
        lowered = jax.jit(lambda x: x).lower(argument)

    def is_known(*tried: Option) -> bool:
        try:
            lowered.compile(compiler_options={option.name: option.value for option in tried})
        except jax.errors.JaxRuntimeError as error:
            if "INVALID_ARGUMENT" not in str(error):  # an unknown option name or value
                raise
            return False
        return True

    return options if is_known(*options) else tuple(o for o in options if is_known(o))
