"""Loading of a net with weights, for notebooks and other programs: `jaxcnn.load`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from jaxcnn.evaluation.features import layer_output
from jaxcnn.paths import Path
from jaxcnn.preprocessing import subtract_mean
from jaxcnn.training.schema import run_protocols
from jaxcnn.training.stored_run import StoredRun, find_run
from jaxcnn.weights.choices import Choices


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained net.

    Attributes:
        net: the Linen module.
        variables: {'params': ...}, without auxiliary heads, on the first device.
        classes: class names by label.
        step: updates done.
        config: the run's resolved config.
        mean: what is subtracted from images: float32[3], or a mean image float32[S,S,3].
        origin: where imported weights come from and what was done to them, as in origin.json; None for a run.
    """

    net: Any
    variables: dict[str, Any]
    classes: tuple[str, ...]
    step: int
    config: dict[str, Any]
    mean: np.ndarray
    origin: dict[str, Any] | None = None

    def probabilities(self, views: UInt8[np.ndarray | Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Softmax posteriors float32[B,K] of uint8 images of side `net.image_size`.

        A mean image is center-cropped, which matches the crops of `preprocess`.
        """
        return self._forward(self.variables, views)

    def features(
        self, views: UInt8[np.ndarray | Array, "B H W 3"], layer: str
    ) -> Float32[Array, "B ..."]:
        """The output of a layer, after its activation, of the same images: [B,h,w,C] or [B,C].

        Raises:
            ValueError: the net has no such layer; the message lists those that it has.
        """
        return self._features(self.variables, views, layer)

    @functools.cached_property
    def _forward(self) -> Any:
        def forward(variables: Any, views: Any) -> Array:
            return jax.nn.softmax(self.net.apply(variables, self._centred(views), train=False)[0])

        return jax.jit(forward)

    @functools.cached_property
    def _features(self) -> Any:
        def features(variables: Any, views: Any, layer: str) -> Array:
            return layer_output(self.net, variables, self._centred(views), layer)

        return jax.jit(features, static_argnums=2)

    def _centred(self, views: Any) -> Array:
        side = self.net.image_size
        edge = (self.mean.shape[0] - side) // 2 if self.mean.ndim == 3 else 0
        box = jnp.broadcast_to(jnp.array([edge, edge, side, side]), (views.shape[0], 4))
        return subtract_mean(jnp.asarray(views), self.mean, box)

    def preprocess(self, path: str | Path) -> UInt8[np.ndarray, "1 H W 3"]:
        """The center crop of an image file at the first scale of the run's first protocol. Imports
        TensorFlow.

        Raises:
            DataError: the file is missing or not an image.
        """
        from jaxcnn.data import preprocess

        rows, square = run_protocols(self.config), self.mean.ndim == 3
        scale = rows[0].all_scales()[0] if rows else self.config["augment"]["scale"][0]
        scale = self.mean.shape[0] if square else scale
        return preprocess(path, scale=scale, image_size=self.net.image_size, square=square)


def load(
    path: str | Path,
    step: int | None = None,
    *,
    source: str = "",
    net: str = "",
    classes: Sequence[str] = (),
    drop_background: bool = False,
) -> Loaded:
    """Loads the net of a run, with averaged weights if the run averages, or imported weights.

    Args:
        path: a run's folder, a folder of `jaxcnn import`, or a weights file of another program.
        step: which checkpoint of a run; None takes the newest.
        source, net, classes, drop_background: of a weights file, as in `jaxcnn import`.

    Raises:
        FileNotFoundError: nothing there.
        CheckpointError: no checkpoint there, none of that step, or a damaged one: no other is taken for it.
        FileError: a damaged file, or one that does not say what its net reads.
    """
    choices = Choices(
        source=source, net=net, classes=tuple(classes), drop_background=drop_background
    )
    return loaded(find_run(path, choices), step)


def loaded(run: StoredRun, step: int | None = None) -> Loaded:
    """The net of a stored run, for inference; see `load`."""
    stored = run.read(step)
    params = {n: leaves for n, leaves in stored.params.items() if not n.startswith("aux_")}
    params = jax.device_put(params, jax.local_devices()[0])
    variables = {"params": params}
    return Loaded(stored.net, variables, run.classes, stored.step, run.config, run.mean, run.origin)
