"""Evaluates a finished run by further protocols; results go into its report, posteriors into its folder."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxcnn import config as configs
from jaxcnn.data import DataSplits
from jaxcnn.data.fingerprint import take_fingerprint
from jaxcnn.evaluation import Forward, Protocol, ProtocolRun, check_fits, ensemble, evaluate
from jaxcnn.files import exists
from jaxcnn.folders import check_writable
from jaxcnn.parallel import make_placement
from jaxcnn.paths import Path, user_path
from jaxcnn.training import report, run_files, schema
from jaxcnn.training.console import Compiler, Console, duration
from jaxcnn.training.data_record import recorded_digests
from jaxcnn.training.evaluator import open_splits
from jaxcnn.training.load_run import Loaded, loaded
from jaxcnn.training.stored_run import find_run
from jaxcnn.weights.choices import Choices

FOLDER = "posteriors"


@dataclasses.dataclass(eq=False)
class FinishedRun:
    """A run with a checkpoint, or imported weights. Data, weights and programs are loaded when they are first
    used.

    Attributes:
        folder: its workdir; a folder of imported weights; or a weights file, for which nothing is written.
        chosen_step: which checkpoint; None for the newest.
        overrides: of the config's `data` section, `data.KEY=VALUE`, for data that moved or another split.
        batch_size: crops per batch.
        console: for messages.
        check_stop: called before each image and batch, and while the disk is read; raises to leave early.
        choices: what a weights file does not say itself.

    Raises:
        FileNotFoundError, CheckpointError: there is no run in `folder`, or it has no checkpoint.
        FileError: the run's config or the weights file cannot be read.
        ConfigError: an override of another section, or of an unknown key.
    """

    folder: Path
    chosen_step: int | None = None
    overrides: Sequence[str] = ()
    batch_size: int = 32
    console: Console = dataclasses.field(default_factory=Console)
    check_stop: Callable[[], None] = lambda: None
    choices: Choices = dataclasses.field(default_factory=Choices)

    def __post_init__(self) -> None:
        self.folder = user_path(self.folder)
        self.stored = find_run(self.folder, self.choices)
        self.trained_config = self.stored.config
        wrong = [text for text in self.overrides if not text.startswith("data.")]
        if wrong:
            raise configs.ConfigError(
                f"{', '.join(wrong)}: only data can be overridden in a trained run: data.KEY=VALUE"
            )
        self.config = schema.resolve_config(self.trained_config, self.overrides)
        self.stored.check_step(self.chosen_step)
        self.step = self.stored.steps[-1] if self.chosen_step is None else self.chosen_step

    @property
    def image_size(self) -> int:
        """Side of the net's images in pixels."""
        return self.config["model"]["image_size"]

    @functools.cached_property
    def loaded(self) -> Loaded:
        """The net and its weights."""
        return loaded(self.stored, self.step)

    @functools.cached_property
    def data(self) -> DataSplits:
        """The data.

        Raises:
            DataError: the data is missing, or its classes differ from those of the run.
        """
        return open_splits(self.config["data"], self.check_stop, self.stored.classes)

    @functools.cached_property
    def images(self) -> str:
        """The digest of the fingerprint of the evaluated images."""
        return take_fingerprint(self.data.evaluation, self.check_stop).digest

    @functools.cached_property
    def forward(self) -> Forward:
        """The forward passes, on all devices."""
        placement = make_placement()
        batch_size = -(-self.batch_size // placement.devices) * placement.devices
        net, mean = self.loaded.net, self.loaded.mean
        return Forward(net, mean, placement, batch_size, Compiler(self.console))

    @functools.cached_property
    def params(self) -> Any:
        """The weights on the devices of `forward`."""
        return self.forward.placement.put_replicated(self.loaded.variables["params"])

    def release(self) -> None:
        """Frees weights and programs, before another run is evaluated."""
        for name in ("loaded", "forward", "params"):
            self.__dict__.pop(name, None)

    def label(self, protocol: Protocol) -> str:
        """The name of `protocol` in results."""
        return protocol.label(self.image_size)

    def posteriors_path(self, protocol: Protocol) -> Path:
        """The file for posteriors by `protocol`."""
        other = self.images if self._has_other_images() else ""
        name = ensemble.file_name(self.label(protocol), self.data.eval_split, self.step, other)
        return self.folder / FOLDER / name

    def known_result(self, protocol: Protocol) -> dict[str, Any] | None:
        """The result in its report for these weights and images, or None."""
        if self.stored.is_file or self._has_other_images():
            return None
        label, same = self.label(protocol), ("", self.images)
        rows = (row for row in self._reported() if row.get("images", "") in same)
        return next((row for row in rows if row["protocol"] == label), None)

    def saved_posteriors(self, protocol: Protocol) -> ensemble.Posteriors | None:
        """The posteriors in its folder for these weights and images, or None."""
        path = self.posteriors_path(protocol)
        if self.stored.is_file or not exists(path):
            return None
        found = ensemble.load_posteriors(path)
        kept, wanted = (
            (found.facts.get("step"), len(found.ids)),
            (self.step, len(self.data.evaluation)),
        )
        if images := found.facts.get("images"):
            same = images == self.images
        else:  # written by an earlier version
            same = found.facts.get("source") == self.config["data"]["source"]
        return found if kept == wanted and same else None

    def evaluate(self, protocol: Protocol, *, keep: bool = False) -> dict[str, Any]:
        """Evaluates the run by `protocol`, writes the result into report.json and, with `keep`, saves the
        posteriors. Returns the result as a row of report.json.

        Raises:
            ValueError: the protocol does not fit the net. DataError: the data cannot be used.
            OSError: a file cannot be written.
        """
        check_fits(self.forward, protocol)
        if keep:
            self._check_writable()
        # Posteriors that are saved stay those of the result.
        keep = keep or (not self.stored.is_file and exists(self.posteriors_path(protocol)))
        label, split = self.label(protocol), self.data.eval_split
        if self._has_other_images():
            self.console.line(f"{self.folder.name}: the images of {split} are not those of the run")

        def progress(done: int, total: int) -> None:
            self.console.progress(f"{self.folder.name}: {label} of {split}: {done:,}/{total:,}")

        began = time.perf_counter()
        evaluation = evaluate(
            self.forward,
            self.params,
            self.data.evaluation,
            protocol,
            split=split,
            threads=self.config["data"]["threads"],
            keep=keep,
            check_stop=self.check_stop,
            progress=progress,
        )
        result = dataclasses.replace(evaluation.result, images=self.images)
        evaluation = dataclasses.replace(evaluation, result=result)
        row = {"step": self.step, **dataclasses.asdict(result)}
        seconds = duration(time.perf_counter() - began)
        self.console.line(f"{self.folder.name}: {report.result_text(row)}  in {seconds}")
        self._write(protocol, evaluation, row)
        return row

    def _write(self, protocol: Protocol, evaluation: ProtocolRun, row: Mapping[str, Any]) -> None:
        if self.stored.is_file:
            return
        try:
            self._check_writable()
        except OSError as error:
            self.console.line(f"not written: {error}")
            return
        if evaluation.posteriors is not None:
            facts = {**row, "run": self.folder.name, "net": self.config["model"]}
            facts["source"] = self.config["data"]["source"]
            path = self.posteriors_path(protocol)
            ensemble.save_posteriors(dataclasses.replace(evaluation.posteriors, facts=facts), path)
            self.console.line(f"posteriors of {row['n']:,} images in {path}")
        path = self.folder / "report.json"
        before = run_files.read_report(path)
        if self.stored.is_imported and not exists(path):
            before |= {"step": self.step, "seconds": 0.0, "images_per_second": None}
        if before.get("step") != self.step or self._has_other_images():
            self.console.line(f"not written to {path}: it is for other weights or other images")
            return
        results = [(self.step, evaluation.result)]
        corrupt = sorted({*before.get("unreadable_images", ()), *evaluation.corrupt})
        run_files.write_report(path, before, results, step=self.step, unreadable_images=corrupt)

    def _check_writable(self) -> None:
        """Raises:
        OSError: there is no folder, or it is not writable.
        """
        self.stored.check_folder()
        try:
            check_writable(self.folder)
        except OSError as error:
            raise OSError(
                f"{self.folder} cannot be written to ({error.strerror}); copy the run elsewhere"
            ) from error

    def _reported(self) -> list[dict[str, Any]]:
        """The rows of the report for the evaluated split at the chosen step."""
        rows = run_files.read_report(self.folder / "report.json")["results"]
        wanted = self.data.eval_split, self.step
        return [row for row in rows if (row["split"], row["step"]) == wanted]

    def _has_other_images(self) -> bool:
        """Whether the evaluated images are not those of the results in the report, or of the run's data."""
        if self.stored.is_file:
            return False
        rows, now, trained = self._reported(), self.config["data"], self.trained_config["data"]
        known = {row["images"] for row in rows if row.get("images")}
        own = recorded_digests(self.folder).get("evaluation")
        if own and now["eval_split"] == trained["eval_split"]:
            known = {own}
        if (
            known or self.stored.is_imported
        ):  # the images first evaluated are those of imported weights
            return bool(known) and self.images not in known
        counts = {row["n"] for row in rows} | {len(self.data.evaluation)}
        return now["source"] != trained["source"] or len(counts) > 1
