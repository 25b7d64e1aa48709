"""Workdirs of runs with random weights: a second each, where training compiles for half a minute."""

from functools import partial

import jax
import numpy as np

from jaxcnn import config as configs
from jaxcnn.data import DataSplits, pixel_statistics
from jaxcnn.models import build
from jaxcnn.training import run_files, schema
from jaxcnn.training.checkpoint import Checkpoints
from jaxcnn.training.run_statistics import STATISTICS_FILE
from jaxcnn.training.schema import SECTIONS
from jaxcnn.training.train_state import create_state
from tests.evaluation.small import CLASSES, NETS
from tests.training.runs import config

STEP = 7


def _draw(generator, path, leaf):
    """Kernels that keep the variance of activations; small ones in the classifier, so that posteriors are
    neither uniform nor all 0 and 1. On the host: JAX's draws would be compiled."""
    if len(leaf.shape) == 1:
        return generator.normal(0, 0.1, leaf.shape).astype(np.float32)
    gain = 0.02 if path[0].key in ("fc8", "fc") else 1.0
    std = gain * np.sqrt(2 / np.prod(leaf.shape[:-1]))
    return generator.normal(0, std, leaf.shape).astype(np.float32)


def untrained(
    folder, name="vgg", *, evals=None, augment=None, classes=CLASSES, seed=0, step=STEP, **fields
):
    """A run in `folder` on synthetic images. Called again with another `step`, it adds a checkpoint.

    Args:
        evals: rows; None is a centre crop at 5/4 of the net's images.
        augment: keys to change.
        fields: of the net.
    """
    fields = NETS.get(name, {}) | fields
    net = build(name, num_classes=classes, **fields)
    scale = 5 * net.image_size // 4
    made = config(data__source=f"synthetic:{classes}", seed=seed)
    made["model"] = {"name": name, "num_classes": classes, **fields}
    made["augment"] |= {"scale": (scale, scale), **(augment or {})}
    made["evals"] = ({"name": "centre", "scale": scale},) if evals is None else evals
    made = schema.resolve_config(made)
    folder.mkdir(parents=True, exist_ok=True)
    configs.save_config(made, folder / "config.json")
    (folder / "classes.txt").write_text("".join(f"class_{i:03}\n" for i in range(classes)))
    if not (folder / "report.json").exists():
        facts = {"step": step, "seconds": 1.0, "images_per_second": None}
        run_files.write_report(folder / "report.json", {"results": []}, [], **facts)
    _save_weights(net, made, folder, seed, step)
    if made["augment"]["mean"] == "per_pixel":
        image = np.random.default_rng(3).uniform(60, 190, (scale, scale, 3)).astype(np.float32)
        found = pixel_statistics.Statistics(
            image.mean((0, 1), np.float64), np.eye(3), image, {"source": "drawn", "side": scale}
        )
        pixel_statistics.save_statistics(found, folder / STATISTICS_FILE)
    return folder


def _save_weights(net, made, folder, seed, step):
    rules = (configs.build_section(k, made[k], SECTIONS) for k in ("optim", "schedule", "average"))
    state = jax.eval_shape(partial(create_state, net, *rules), jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state)
    draw = partial(_draw, np.random.default_rng(seed))
    params = jax.tree_util.tree_map_with_path(draw, state.params)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(jax.device_put(zeros.replace(step=np.int32(step), params=params)), {})
    checkpoints.wait()
    checkpoints.close()


def few_images(train, evaluation):
    """Few images in place of a run's data."""
    names = tuple(f"class_{i:03}" for i in range(CLASSES))
    return DataSplits(train, None, evaluation, "val", names, "")
