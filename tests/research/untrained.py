"""The files of a run of any net, its weights drawn in place of learnt: a second each, where training takes
half a minute of compiling."""

from functools import partial

import jax
import numpy as np

from jaxcnn import config as configs
from jaxcnn.data import pixel_statistics
from jaxcnn.models import build
from jaxcnn.training import schema
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.run_statistics import NAME
from jaxcnn.training.schema import SECTIONS
from jaxcnn.training.train_state import create_state
from tests.evaluation.small import CLASSES, NETS
from tests.training.runs import config

STEP = 7


def draw(generator, path, leaf):
    """Kernels that keep the size of what passes. Those of the classifier are small: posteriors are far from
    uniform, and not so far that all are 0 or 1. On the host: compiling JAX's draws takes longer."""
    if len(leaf.shape) == 1:
        return generator.normal(0, 0.1, leaf.shape).astype(np.float32)
    gain = 0.02 if path[0].key in ("fc8", "fc") else 1.0
    deviation = gain * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return generator.normal(0, deviation, leaf.shape).astype(np.float32)


def untrained(folder, name="vgg", *, evals=None, augment=None, **fields):
    """A run in `folder` on synthetic images of 5 classes. `fields` are the net's.

    Args:
        evals: rows; None is a centre crop at 5/4 of the net's images.
        augment: keys to change.
    """
    fields = NETS.get(name, {}) | fields
    net = build(name, num_classes=CLASSES, **fields)
    scale = 5 * net.image_size // 4
    made = config(data__source=f"synthetic:{CLASSES}")
    made["model"] = {"name": name, "num_classes": CLASSES, **fields}
    made["augment"] |= {"scale": (scale, scale), **(augment or {})}
    made["evals"] = ({"name": "centre", "scale": scale},) if evals is None else evals
    made = schema.resolve_config(made)
    folder.mkdir(parents=True)
    configs.save_config(made, folder / "config.json")
    (folder / "classes.txt").write_text("".join(f"class_{i:03}\n" for i in range(CLASSES)))
    rules = (configs.build_section(k, made[k], SECTIONS) for k in ("optim", "schedule", "average"))
    state = jax.eval_shape(partial(create_state, net, *rules), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    drawn = jax.tree_util.tree_map_with_path(partial(draw, np.random.default_rng(0)), state.params)
    state = jax.device_put(zeros.replace(step=np.int32(STEP), params=drawn))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(state, {})
    checkpoints.wait()
    checkpoints.close()
    if made["augment"]["mean"] == "per_pixel":
        image = np.random.default_rng(3).uniform(60, 190, (scale, scale, 3)).astype(np.float32)
        found = pixel_statistics.Statistics(
            image.mean((0, 1), np.float64), np.eye(3), image, {"source": "drawn", "side": scale}
        )
        pixel_statistics.save_statistics(found, folder / NAME)
    return folder
