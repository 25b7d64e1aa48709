"""Loading of a trained net from a workdir, for notebooks and other programs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxcnn import config as configs
from jaxcnn.data import pixel_statistics
from jaxcnn.files import user_path
from jaxcnn.preprocessing import Augment, make_preprocess, subtract_mean
from jaxcnn.printable import shell_quote
from jaxcnn.training.builder import net_and_rules
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints
from jaxcnn.training.run_files import read_classes
from jaxcnn.training.run_statistics import STATISTICS_FILE
from jaxcnn.training.schema import SECTIONS, read_saved_config, run_protocols
from jaxcnn.training.train_state import TrainState, create_state


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
    """

    net: Any
    variables: dict[str, Any]
    classes: tuple[str, ...]
    step: int
    config: dict[str, Any]
    mean: np.ndarray

    def probabilities(self, views: UInt8[np.ndarray | Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Softmax posteriors float32[B,K] of uint8 images of side `net.image_size`.

        A mean image is center-cropped, which matches the crops of `preprocess`.
        """
        return self._forward(self.variables, views)

    @functools.cached_property
    def _forward(self) -> Any:
        side = self.net.image_size
        edge = (self.mean.shape[0] - side) // 2 if self.mean.ndim == 3 else 0

        def forward(variables: Any, views: Any) -> Array:
            box = jnp.broadcast_to(jnp.array([edge, edge, side, side]), (views.shape[0], 4))
            views = subtract_mean(jnp.asarray(views), self.mean, box)
            return jax.nn.softmax(self.net.apply(variables, views, train=False)[0])

        return jax.jit(forward)

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


def load(workdir: str | Path, step: int | None = None) -> Loaded:
    """Loads the net of the run in `workdir`, with averaged weights if the run averages.

    Args:
        workdir: a run's folder.
        step: which checkpoint; None takes the newest.

    Raises:
        FileNotFoundError: no run there.
        CheckpointError: no checkpoint there, none of that step, or a damaged one: no other is taken for it.
        FileError: a damaged file of the run.
    """
    folder = user_path(workdir)
    config, net, state = read_run(folder, step)
    params = {n: leaves for n, leaves in state.evaluated.items() if not n.startswith("aux_")}
    classes = read_classes(folder, net.num_classes)
    augment: Augment = configs.build_section("augment", config["augment"], SECTIONS)
    path = folder / STATISTICS_FILE
    statistics = pixel_statistics.load_statistics(path) if augment.needs_statistics else None
    mean = make_preprocess(augment, statistics).mean
    return Loaded(net, {"params": params}, classes, int(state.step), config, mean)


def read_run(folder: Path, step: int | None = None) -> tuple[dict[str, Any], Any, TrainState]:
    """(resolved config, net, state on the first device) of the run in `folder`; raises as `load`."""
    config = read_run_config(folder)
    net, *rules = net_and_rules(config)
    shapes = jax.eval_shape(partial(create_state, net, *rules), jax.random.key(0))
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    with contextlib.closing(Checkpoints(folder / "checkpoints", read_only=True)) as checkpoints:
        steps = checkpoints.steps()
        if step is not None and step not in steps:
            raise CheckpointError(f"{folder} has no checkpoint {step}; there are {steps}")
        found = checkpoints.restore(like, step)
    if found is None:
        raise CheckpointError(
            f"{folder} has no checkpoint yet; train first: jaxcnn train "
            + shell_quote(f"--workdir={folder}")
        )
    return config, net, found[0]


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints of the run in `folder`, in ascending order."""
    if not (folder / "checkpoints").is_dir():
        return []
    with contextlib.closing(Checkpoints(folder / "checkpoints", read_only=True)) as checkpoints:
        return checkpoints.steps()


def read_run_config(folder: Path) -> dict[str, Any]:
    """The config of the run in `folder`.

    Raises:
        FileNotFoundError: no run there.
        FileError: the config cannot be read.
    """
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} holds no run (no config.json); give the workdir of a run that has a checkpoint"
        )
    return read_saved_config(path)
