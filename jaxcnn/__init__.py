"""AlexNet, VGG A to E and GoogLeNet in JAX and Flax, with their papers' recipes and test protocols.

`build` makes a net; `load` gives what a finished run learnt. Importing this parses no flags and does not
import TensorFlow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.models import build
    from jaxcnn.training.loading import Loaded, load

__all__ = ["Loaded", "build", "load"]


def __getattr__(name: str) -> object:
    """Imports on first use: a notebook that only builds nets does not pay for checkpoints."""
    if name == "build":
        from jaxcnn.models import build

        return build
    if name in ("load", "Loaded"):
        from jaxcnn.training import loading

        return getattr(loading, name)
    raise AttributeError(f"module 'jaxcnn' has no attribute {name!r}")
