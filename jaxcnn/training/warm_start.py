"""Initialization of a fresh run from another run's or program's weights, layer by layer, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxcnn import config as configs
from jaxcnn.files import FileError
from jaxcnn.parallel import put
from jaxcnn.training.checkpoint import CheckpointError
from jaxcnn.training.experiment import Experiment
from jaxcnn.training.start_differences import OtherMeanError, differences, net_options
from jaxcnn.training.stored_run import find_run
from jaxcnn.training.train_state import InitConfig, TrainState, draw_params

# Parameters by path: 'conv1_1/kernel', 'inception_3a/conv1x1/bias'.
Leaves = Mapping[str, Any]
# What run.json records of the origin of imported weights.
_ORIGIN = ("file", "sha256", "source", "title", "known_by")


class WarmStartError(ValueError):
    """The weights of the other run cannot be used; the message lists every problem, one per line."""


@dataclasses.dataclass
class WarmStart:
    """The layers that a fresh run copies from another (Simonyan & Zisserman 2014, section 3.1).

    Attributes:
        path: workdir of the other run, folder of imported weights, or weights file, as in the config.
        step: updates done there.
        averaged: whether the weights are averaged ones.
        kept: layers copied.
        new: layers initialized at random.
        resized: layers of `new` that were not copied because the number of classes differs.
        arrays: the parameters of `kept`, float32; emptied when a state takes them.
        origin: where imported weights come from; None for a run.
        notes: what differs in this run from what the weights were trained for, (name, text).
    """

    path: str
    step: int
    averaged: bool
    kept: tuple[str, ...]
    new: tuple[str, ...]
    resized: tuple[str, ...]
    arrays: dict[str, np.ndarray]
    origin: dict[str, Any] | None = None
    notes: tuple[tuple[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """The entry in run.json."""
        record = {k: getattr(self, k) for k in ("path", "step", "averaged", "kept", "new")}
        if self.origin is not None:
            record["origin"] = {k: self.origin[k] for k in _ORIGIN if k in self.origin}
        return record

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) rows for the console."""
        whose = f", step {self.step:,}{', averaged weights' if self.averaged else ''}"
        if self.origin is not None:
            whose = f" ({self.origin.get('title', 'imported weights')})"
        kept = " ".join(self.kept) if self.new else "every layer"
        rows = [("start", f"{self.path}{whose}: {kept}")]
        if self.new:
            rows.append(("", f"at random: {' '.join(self.new)}"))
        if self.resized:
            rows.append(("", f"another number of classes: {' '.join(self.resized)} cannot be kept"))
        return [*rows, *self.notes]


def read_warm_start(experiment: Experiment) -> WarmStart | None:
    """Reads the weights that `init.from_run` names; None if it is ''.

    Raises:
        WarmStartError: no such run, no checkpoint in it, a weights file that cannot be read, or layers that
            do not fit.
    """
    init = InitConfig(**experiment.config["init"])
    if not init.from_run:
        return None
    wanted = _flat(experiment.abstract_state().params)
    layers = tuple(dict.fromkeys(map(_layer, wanted)))  # in order
    chosen, problems = _chosen(init.layers, layers)
    try:
        run = find_run(init.from_run)
        stored = run.read()
    except (OSError, FileError, CheckpointError) as error:
        lines = [f"init.from_run: {error}", *problems]
        if "--source" in str(error):
            lines.append(
                "options for a weights file go to jaxcnn import; init.from_run takes its folder"
            )
        raise WarmStartError("\n".join(lines)) from error
    saved, net = _flat(stored.params), experiment.net
    if run.is_imported and not init.layers:
        chosen = _without_absent_heads(chosen, saved)
    resizable = classifiers(net) if stored.net.num_classes != net.num_classes else set()
    kept, resized = [], []
    for layer in chosen:
        misfits, only_outputs = _misfits(layer, wanted, saved)
        if not misfits:
            kept.append(layer)
        elif only_outputs and layer in resizable:
            resized.append(layer)
        else:
            problems += misfits
    if problems or not kept:
        text = _explain(init, problems, grouped(kept, layers))
        raise WarmStartError("\n".join([text, *net_options(experiment.config, run)]))
    try:
        notes = differences(experiment.config, run, kept)
    except OtherMeanError as error:
        raise WarmStartError(f"init.from_run={init.from_run}: {error}") from error
    return WarmStart(
        path=init.from_run,
        step=stored.step,
        averaged=stored.averaged,
        kept=grouped(kept, layers),
        new=grouped([layer for layer in layers if layer not in kept], layers),
        resized=grouped(resized, layers),
        arrays={p: np.asarray(saved[p]) for p in wanted if _layer(p) in kept},
        origin=run.origin,
        notes=notes,
    )


def first_state(experiment: Experiment, warm_start: WarmStart | None) -> TrainState:
    """A fresh state with the parameters of `warm_start`.

    Only parameters are copied: the optimizer state is new, and every layer has the full learning rate.
    """
    state = experiment.fresh_state()
    if warm_start is None:
        return state
    arrays, shardings = warm_start.arrays, experiment.state_shardings
    places = _flat(shardings.params)
    taken = {path: put(arrays.pop(path), places[path]) for path in list(arrays)}
    params = unflatten_dict({**_flat(state.params), **taken}, sep="/")
    start = jax.jit(experiment.average.start, out_shardings=shardings.average)
    return dataclasses.replace(state, params=params, average=start(params))


def classifiers(net: Any) -> set[str]:
    """The layers whose shapes depend on the number of classes, found by adding a class."""
    one, other = (
        _flat(jax.eval_shape(partial(draw_params, n), jax.random.key(0)))
        for n in (net, net.clone(num_classes=net.num_classes + 1))
    )
    return {_layer(path) for path in one if one[path].shape != other[path].shape}


def grouped(layers: Iterable[str], everything: Iterable[str]) -> tuple[str, ...]:
    """`layers`, with the name of a module in place of its layers if all of them are present."""
    layers, everything = list(layers), list(everything)

    def name(layer: str) -> str:
        module = layer.partition("/")[0]
        siblings = {other for other in everything if other.partition("/")[0] == module}
        return module if siblings <= set(layers) else layer

    return tuple(dict.fromkeys(name(layer) for layer in layers))


def _chosen(names: Sequence[str], layers: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the layers that `names` select, all if there are no names; problems with the names)."""
    inside = lambda layer, name: f"{layer}/".startswith(f"{name}/")  # noqa: E731
    chosen = [layer for layer in layers if not names or any(inside(layer, n) for n in names)]
    problems = []
    for name in names:
        if not any(inside(layer, name) for layer in layers):
            hint = configs.did_you_mean(name, [*layers, *grouped(layers, layers)], "{!r}")
            problems.append(f"{name}: named in init.layers, but this net has no such layer{hint}")
    return chosen, problems


def _without_absent_heads(chosen: Sequence[str], saved: Leaves) -> list[str]:
    """`chosen` without auxiliary heads that the weights lack: most programs drop them after training."""
    there = {path.partition("/")[0] for path in saved}
    return [c for c in chosen if not c.startswith("aux_") or c.partition("/")[0] in there]


def _flat(tree: Any) -> dict[str, Any]:
    return flatten_dict(tree, sep="/")  # pyright: ignore[reportReturnType]


def _layer(path: str) -> str:
    """The layer of a parameter: 'conv1_1', 'inception_3a/conv1x1'."""
    return path.rpartition("/")[0]


def _misfits(layer: str, wanted: Leaves, saved: Leaves) -> tuple[list[str], bool]:
    """(mismatches between a layer of the run and of this net; whether only the last axis differs)."""
    paths = [path for path in wanted if _layer(path) == layer]
    if not any(path in saved for path in paths):
        return [f"{layer}: the run's net has no such layer"], False
    misfits, only_outputs = [], True
    for path in paths:
        old, new = saved.get(path), wanted[path]
        if old is not None and (old.shape, old.dtype) == (new.shape, new.dtype):
            continue
        has = "nothing" if old is None else f"{old.dtype}{list(old.shape)}"
        misfits.append(f"{path}: the run has {has}, this net needs {new.dtype}{list(new.shape)}")
        only_outputs &= old is not None and old.shape[:-1] == new.shape[:-1]
    return misfits, only_outputs


def _explain(init: InitConfig, problems: Sequence[str], fit: Sequence[str]) -> str:
    lines = [f"init.from_run={init.from_run} does not fit this net:"]
    lines += [f"  {problem}" for problem in problems[:12]]
    lines += [f"  and {len(problems) - 12} more"] if len(problems) > 12 else []
    advice = "no layer fits: give a run of another net, or leave init.from_run out"
    if fit:
        advice = f'keep the layers that fit: --config.init.layers="{fit!r}"'
    return "\n".join([*lines, advice])
