"""AlexNet, VGG A to E and GoogLeNet in JAX and Flax, with their papers' recipes and test protocols.

`build` makes a net; `load` loads a trained net from a workdir. Importing this module parses no flags and does
not import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.models import build
    from jaxcnn.training.load_run import Loaded, load

__all__ = ["Loaded", "build", "load"]


def __getattr__(name: str) -> object:
    """Imports on first use, so that a program that only builds nets does not import Orbax."""
    if name == "build":
        from jaxcnn.models import build

        return build
    if name in ("load", "Loaded"):
        from jaxcnn.training import load_run

        return getattr(load_run, name)
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")
