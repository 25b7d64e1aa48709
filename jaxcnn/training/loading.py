"""What a run learnt, for a notebook or another program."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8

from jaxcnn import config as configs
from jaxcnn import models
from jaxcnn.pixels import centred
from jaxcnn.training.checkpoint import CheckpointError, Checkpoints, abstract
from jaxcnn.training.sections import SECTIONS
from jaxcnn.training.state import create


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A trained net.

    Attributes:
        net: the Linen module.
        variables: {'params': ...}, without auxiliary heads, on the first device.
        classes: names, by label.
        step: updates done.
        config: the run's resolved config.
    """

    net: Any
    variables: dict[str, Any]
    classes: tuple[str, ...]
    step: int
    config: dict[str, Any]

    def probabilities(self, views: UInt8[np.ndarray | Array, "B H W 3"]) -> Float[Array, "B K"]:
        """Softmax posteriors of uint8 views of side `net.image_size`, float32[B,K]."""
        return self._forward(self.variables, views)

    @functools.cached_property
    def _forward(self) -> Any:
        mean = self.config["augment"]["mean"]

        def forward(variables: Any, views: Any) -> Array:
            return jax.nn.softmax(self.net.apply(variables, centred(views, mean), train=False)[0])

        return jax.jit(forward)

    def preprocess(self, path: str | Path) -> UInt8[np.ndarray, "1 H W 3"]:
        """An image file as the uint8 view that the run's first protocol takes. Imports TensorFlow.

        Raises:
            DataError: the file is missing or no image.
        """
        from jaxcnn.data import preprocess

        rows = self.config["evals"]
        scale = rows[0]["scale"] if rows else self.config["augment"]["scale"][0]
        return preprocess(path, scale=scale, image_size=self.net.image_size)


def load(workdir: str | Path, step: int | None = None) -> Loaded:
    """The net that the run in `workdir` trained.

    Args:
        workdir: a run's folder.
        step: which checkpoint; None takes the newest.

    Raises:
        FileNotFoundError: no run there.
        CheckpointError: no checkpoint there, or none of that step.
    """
    folder = Path(workdir).absolute()
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no run (no config.json); give a --workdir of main.py"
        )
    config = configs.load(folder / "config.json")
    net = models.build(**config["model"])
    tx = configs.build("optim", config["optim"], SECTIONS)
    like = abstract(
        jax.eval_shape(lambda key: create(net, tx, key), jax.random.key(0)),
        jax.sharding.SingleDeviceSharding(jax.local_devices()[0]),
    )
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        if step is not None and step not in checkpoints.steps():
            raise CheckpointError(
                f"{folder} has no checkpoint {step}; there are {checkpoints.steps()}"
            )
        found = checkpoints.restore(like, step)
    finally:
        checkpoints.close()
    if found is None:
        raise CheckpointError(
            f"{folder} has no checkpoint yet; train first: python main.py --workdir={workdir}"
        )
    state = found[0]
    params = {name: leaves for name, leaves in state.params.items() if not name.startswith("aux_")}
    classes = tuple((folder / "classes.txt").read_text().splitlines())
    return Loaded(net, {"params": params}, classes, int(state.step), config)
