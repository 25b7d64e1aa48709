"""The callable behind each config section: the single table of everything that can be configured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxcnn import config as configs
from jaxcnn.data import SOURCE_KINDS
from jaxcnn.data.splits import source_path
from jaxcnn.evaluation import PROTOCOLS, Protocol
from jaxcnn.files import FileError
from jaxcnn.losses import Objective
from jaxcnn.models import NETS
from jaxcnn.parallel import Parallelism
from jaxcnn.paths import Path, local_path, user_path
from jaxcnn.preprocessing import Augment
from jaxcnn.training.ema import WeightAverage
from jaxcnn.training.metrics_writer import LogConfig
from jaxcnn.training.optimizer import OPTIMIZERS
from jaxcnn.training.retention import CheckpointConfig
from jaxcnn.training.schedules import SCHEDULES
from jaxcnn.training.train_state import InitConfig


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Source and order of the examples.

    Attributes:
        source: `tfds:NAME`, `folder:PATH`, `packed:DIR`, `synthetic` or `synthetic:CLASSES`.
        data_dir: folder of prepared TFDS datasets; '' is the default of TFDS.
        held_out: number of training examples that are not trained on. They choose the best checkpoint,
            because the reported split must not.
        train_split: split or folder to train on. A split of tfds may be a slice: `train[:80%]`.
        eval_split: split to report on; '' is `validation`, else `test` (tfds), or `val` (folder).
        image_key: the feature that holds the images (tfds); '' is the data set's own, or `image`.
        label_key: the feature that holds the labels (tfds); '' is the data set's own, or `label`.
        seed: seed of the order of examples and of augmentation; -1 takes the config's `seed`.
        threads: threads that read and decode. 0: one per core, plus one in training, because one may
            wait for the disk.
        prefetch: batches decoded ahead.
        readers: threads that only read, apart from those that decode. 0: none for a disk, 64 for a bucket,
            where each read waits for the network.
        cache_dir: local folder in which shards of prepared data sets in buckets are kept, so that they are
            read from there from the second epoch on; '' keeps none.
        cache_gb: what `cache_dir` may hold, in 10^9 bytes; 0: nine tenths of what is free.
    """

    source: str
    data_dir: str = ""
    held_out: int = 0
    train_split: str = "train"
    eval_split: str = ""
    image_key: str = ""
    label_key: str = ""
    seed: int = -1
    threads: int = 0
    prefetch: int = 2
    readers: int = 0
    cache_dir: str = ""
    cache_gb: float = 0.0

    def __post_init__(self) -> None:
        kind = self.source.partition(":")[0]
        if kind not in SOURCE_KINDS:
            raise ValueError(
                "source must be tfds:NAME, folder:PATH, packed:DIR or synthetic, got "
                f"{self.source!r}"
            )
        if (self.image_key or self.label_key) and kind != "tfds":
            raise ValueError(f"image_key and label_key are for tfds:NAME, not for {self.source!r}")
        for name in ("held_out", "threads", "readers", "cache_gb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.cache_dir:
            local_path(self.cache_dir, "cache_dir")
        if self.prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {self.prefetch}")


SECTIONS: configs.Sections = {
    "model": NETS,
    "data": DataConfig,
    "augment": Augment,
    "init": InitConfig,
    "loss": Objective,
    "optim": OPTIMIZERS,
    "schedule": SCHEDULES,
    "average": WeightAverage,
    "checkpoint": CheckpointConfig,
    "mesh": Parallelism,
    "log": LogConfig,
}


def resolve_config(config: Any, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A checked config with every key present (see `jaxcnn.config.resolve`).

    Raises:
        ConfigError: all errors at once.
    """
    config = configs.plain(config)
    if isinstance(config.get("model"), dict) and config["model"].get("num_classes") == 0:
        del config["model"]["num_classes"]
    resolved = configs.resolve(config, overrides, SECTIONS, PROTOCOLS)
    typed = {text.partition("=")[0] for text in overrides}
    if "num_classes" not in config.get("model", {}) and "model.num_classes" not in typed:
        resolved["model"]["num_classes"] = 0  # `with_classes` fills in that of the source
    if errors := [*_scale_errors(resolved), *_held_out_errors(resolved)]:
        raise configs.ConfigError("\n".join(errors))
    return resolved


def run_protocols(config: Mapping[str, Any]) -> list[Protocol]:
    """The test protocols that the rows of a config's `evals` name."""
    return [configs.build_section("evals", row, {"evals": PROTOCOLS}) for row in config["evals"]]


def _scale_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Errors of scales that are too small for the net's images, or do not match a mean image."""
    model, augment = config["model"], config["augment"]
    side, (scale, *_) = model["image_size"], augment["scale"]
    if augment["sampling"] != "random_resized_crop" and scale < side:
        yield (
            f"augment.scale {augment['scale']} must not start below model.image_size {side}: the crop "
            "would not fit"
        )
    fields = {key: value for key, value in model.items() if key != "num_classes"}
    dense = configs.build_section("model", fields, SECTIONS).supports_dense()
    for i, protocol in enumerate(run_protocols(config)):
        try:
            protocol.check(side)
        except ValueError as error:
            yield f"evals[{i}]: {error}"
        if protocol.dense and not dense:
            yield (
                f"evals[{i}]: {config['evals'][i]['name']} evaluates images of any size, but model.name="
                f"{model['name']} with these keys accepts only {side} x {side}"
            )
        scales = protocol.all_scales()
        if augment["mean"] == "per_pixel" and protocol.in_square and scales != (scale,):
            yield (
                f"evals[{i}].scale is {scales[0]}, but augment.mean='per_pixel' holds means of "
                f"squares of side {scale}: give that scale, or augment.mean='rgb'"
            )


def _held_out_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Errors of held-out images that are missing or never evaluated, and of an average that never begins."""
    held_out, evaluated = config["data"]["held_out"], bool(config["evals"])
    if config["schedule"]["name"] == "plateau" and not (held_out and evaluated):
        yield (
            "schedule.name=plateau drops the learning rate when held-out top-1 stops improving: set "
            "data.held_out, a number of training images (50000 for ImageNet), and a row in evals"
        )
    elif held_out and not evaluated:
        yield "data.held_out needs a row in evals: the first one evaluates the held-out images"
    average, epochs = config["average"], config["epochs"]
    if average["kind"] != "off" and 0 < epochs <= average["from_epoch"]:  # 0 epochs: evaluates only
        yield (
            f"average.from_epoch {average['from_epoch']:g} is not below epochs {epochs:g}: nothing would "
            "be averaged"
        )


def read_saved_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run's config.json. Old names are migrated; keys that are missing in
    configs of earlier versions get their defaults.

    Raises:
        FileError: it is missing, damaged, or not a valid config.
    """
    try:
        return resolve_config(configs.load_config(path))
    except configs.ConfigError as error:
        advice = configs.config_advice(path)
        raise FileError(path, f"is not the config of a run: {error}", advice) from error


def read_resolved(path: str, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the config of the file, the resolved config) of a config file and overrides.

    Raises:
        ConfigError: all errors at once, those of paths too.
    """
    given = configs.read_config(configs.find_config(path))
    resolved = resolve_config(given, overrides)
    if errors := [*_path_errors(resolved)]:
        raise configs.ConfigError("\n".join(errors))
    return given, resolved


def _path_errors(config: Mapping[str, Any]) -> Iterator[str]:
    """Errors of the paths in a config that is used here; that of a finished run may name places of another
    machine."""
    for key in ("data.source", "data.data_dir", "init.from_run", "augment.statistics"):
        section, name = key.split(".")
        text = config[section][name]
        try:
            if key == "data.source":
                source_path(text)
            elif text:
                user_path(text)
        except ValueError as error:
            yield f"{key}: {error}"
