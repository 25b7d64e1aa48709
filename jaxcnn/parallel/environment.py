"""Reading the variables that launchers set."""

from __future__ import annotations

from collections.abc import Mapping

Environment = Mapping[str, str]
# Of a `Processes`: coordinator, count, index, local_device_ids.
Found = tuple[str, int, int, tuple[int, ...] | None]


def number(environment: Environment, name: str, default: int = 1) -> int:
    """A variable as a whole number; `default` where it is not set or empty.

    Raises:
        ValueError: it is something else.
    """
    text = environment.get(name, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        raise ValueError(f"the environment variable {name} must be a whole number, got {text!r}")
    return int(text) if text else default


def may_use(environment: Environment, *platforms: str) -> bool:
    """Whether JAX_PLATFORMS leaves the choice to JAX or puts one of `platforms` first."""
    first = environment.get("JAX_PLATFORMS", "").split(",")[0].strip()
    return first in ("", *platforms)
