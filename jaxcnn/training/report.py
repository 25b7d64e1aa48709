"""What a run records and draws at its start and end, and its first and last lines on the console."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax

from jaxcnn.caches import use_writable_caches
from jaxcnn.files import remove, write_figure
from jaxcnn.jax_settings import changed_settings, recorded_settings
from jaxcnn.models.summary import summarise
from jaxcnn.models.summary_text import format_table
from jaxcnn.parallel import describe_devices, plan_lines
from jaxcnn.paths import Path
from jaxcnn.printable import shell_quote
from jaxcnn.training.console import duration
from jaxcnn.training.data_record import PENDING_FILE
from jaxcnn.training.metrics_file import recover_events
from jaxcnn.training.run_files import add_start, read_starts, recover_report, write_report

if TYPE_CHECKING:
    from jaxcnn.training.run_setup import Run

PACKAGES = (
    "jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
    "tensorflow-datasets", "tensorflow-cpu", "clu", "numpy", "pillow",
)  # fmt: skip


def announce(run: Run, step: int) -> None:
    """Prints the net and the settings of `run`, which has done `step` updates before this start."""
    experiment, progress = run.experiment, run.progress
    config, side = experiment.config, experiment.net.image_size
    per_device = config["batch_size"] // experiment.placement.devices
    began = f"resumed at step {step:,}" if step else "new run"
    steps = progress.examples / config["batch_size"]
    rows = [
        ("devices", describe_devices()),
        *experiment.placement.option_lines,
        *plan_lines(experiment.plan, experiment.grad_reduce, experiment.comm_mb),
        ("data", run.data.description),
        ("batch", f"{config['batch_size']} ({per_device} per device), images {side} x {side}"),
        ("length", f"{progress.epochs:g} epochs of {steps:.1f} steps = {progress.total:,} steps"),
        ("workdir", f"{run.folder}, {began}"),
        *(run.warm_start.lines() if run.warm_start else []),
        *experiment.augment.lines(),
        *experiment.average.lines(),
        *(("changed", text) for text in run.claim.get("changed", ())),
        *(("data", f"changed: {text}") for text in run.claim.get("accepted", ())),
    ]
    if step > progress.total:
        rows.append(("", f"the run is past its {progress.total:,} steps already: evaluation only"))
    run.console.line(format_table(summarise(experiment.net)) + "\n")
    for name, text in [*rows, *(("WARNING", notice) for notice in run.checkpoints.notices)]:
        run.console.line(f"{name:<8} {text}")


def record_start(run: Run, step: int, command: Sequence[str]) -> None:
    """Appends this start, after `step` updates, to run.json, with versions, commit and devices. Prints which
    settings of JAX changed since the last start."""
    path, experiment, settings = run.folder / "run.json", run.experiment, recorded_settings()
    starts = read_starts(path)
    if step and starts:
        for line in changed_settings(starts[-1].get("settings"), settings):
            run.console.line(f"warning  {line}")
    start = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "settings": settings,
        "step": step,
        "seed": experiment.config["seed"],
        "examples": run.progress.examples,
        "data": run.claim.get("data", {}),
        "versions": {"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        **_git_state(),
        "devices": [f"{d.device_kind} ({d.platform})" for d in jax.devices()],
        "processes": jax.process_count(),
        "plan": experiment.plan.name,
        "mesh": dict(experiment.placement.mesh.shape),
        "compiler_options": dict(experiment.compiler_options),
        **({"started_from": run.warm_start.record()} if run.warm_start else {}),
        **({"accepted_changes": accepted} if (accepted := run.claim.get("accepted")) else {}),
    }
    add_start(path, start)
    remove(run.folder / PENDING_FILE)


def conclude(run: Run, step: int, best: Mapping[str, Any] | None) -> dict[str, Any]:
    """Writes report.json and curves.png after `step` updates, prints the results and the next command.

    Args:
        best: step and top-1 of the best checkpoint on the held-out images.
    """
    folder, evaluator, config = run.folder, run.evaluator, run.experiment.config
    path, seconds = folder / "report.json", run.step_metrics.seconds()
    before, events = recover_report(path), recover_events(folder / "metrics.jsonl")
    before["results"] = [row for row in before["results"] if evaluator.is_current(row)]
    accepted = _accepted_changes(folder / "run.json")
    reported = {(row["protocol"], row["split"], row["step"]) for row in before["results"]}
    rates = [e["images_per_second"] for e in events if e["kind"] == "train"]
    report = write_report(
        path,
        before,
        [
            result
            for key, result in evaluator.results.items()
            # A row that jaxcnn evaluate wrote later stays: its posteriors may be saved.
            if result[0] == step and not (key in evaluator.restored and (*key, step) in reported)
        ],
        net=config["model"],
        source=config["data"]["source"],
        step=step,
        epochs=run.progress.epoch(step),
        parameters=summarise(run.experiment.net).parameters,
        images_per_second=statistics.median(rates) if rates else None,
        seconds=seconds,
        compile_seconds=run.compiler.seconds or before.get("compile_seconds", 0.0),
        best=best,
        unreadable_images=sorted(evaluator.corrupt),
        **({"accepted_changes": accepted} if accepted else {}),
    )
    title = f"{config['model']['name']} on {config['data']['source']}"
    draw_curves(events, folder / "curves.png", title)
    run.console.line("\n".join(_last_lines(run, report, step, best)))
    return report


def _accepted_changes(path: Path) -> list[dict[str, Any]]:
    """The changes of the data that starts of the run accepted, with their steps."""
    return [
        {"step": start.get("step", 0), "changes": start["accepted_changes"]}
        for start in read_starts(path)
        if start.get("accepted_changes")
    ]


def _last_lines(
    run: Run, report: Mapping[str, Any], step: int, best: Mapping[str, Any] | None
) -> list[str]:
    """Results, what was unusual, and the next command."""
    folder, corrupt = run.folder, run.evaluator.corrupt
    lines = ["", *(result_text(row) for row in report["results"])]
    if best:
        lines.append(f"best on held-out images: step {best['step']:,}, top-1 {best['top1']:.2%}")
    lines += [
        f"the data changed at step {one['step']:,}, which was accepted: {'; '.join(one['changes'])}"
        for one in report.get("accepted_changes", ())
    ]
    if corrupt:
        lines.append(f"{len(corrupt)} corrupt images (report.json names them)")
    short = (
        folder.relative_to(pathlib.Path.cwd())
        if folder.is_relative_to(pathlib.Path.cwd())
        else folder
    )
    workdir = shell_quote(f"--workdir={short}")
    return [
        *lines,
        f"step {step:,} in {duration(report['seconds'])}; report.json, metrics.jsonl and curves.png are in "
        f"{folder}",
        f"Next: classify an image\n  jaxcnn predict {workdir} IMAGE.jpg",
    ]


def result_text(row: Mapping[str, Any]) -> str:
    """`top-1 98.9 %  top-5 100.0 %  (error 1.1 / 0.0 %)  loss 0.0402  n=360  centre(56->56)  test`."""
    return (
        f"top-1 {row['top1']:.2%}  top-5 {row['top5']:.2%}  (error {1 - row['top1']:.2%} / "
        f"{1 - row['top5']:.2%})  loss {row['loss']:.4f}  n={row['n']}  {row['protocol']}  {row['split']}"
    )


def draw_curves(events: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss, top-1 and learning rate against epochs, as a PNG."""
    use_writable_caches()
    from matplotlib.figure import Figure  # takes a second to import

    train = [e for e in events if e["kind"] == "train"]
    evals: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            evals.setdefault(f"{event['split']}, {event['protocol']}", []).append(event)
    figure = Figure(figsize=(11, 3.6))
    figure.suptitle(title)
    loss, top1, rate = figure.subplots(1, 3)
    # Fixed margins, because a layout engine draws the figure twice.
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.14, top=0.89, wspace=0.36)
    lines = [("training", train, {"lw": 1})]
    lines += [(name, rows, {"marker": "o", "ms": 3}) for name, rows in evals.items()]
    for axes, key, scale in ((loss, "loss", 1), (top1, "top1", 100)):
        for name, rows, style in lines:
            epochs, values = [e["epoch"] for e in rows], [scale * e[key] for e in rows]
            axes.plot(epochs, values, label=name, **style)
    loss.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    top1.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(0, 100))
    rate.plot([e["epoch"] for e in train], [e["learning_rate"] for e in train], lw=1)
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    if train or evals:
        top1.legend(fontsize=8)
    write_figure(path, figure, dpi=110)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git_state() -> dict[str, Any]:
    """The commit of a clone that runs, and whether files differ from it; '' and False for an installed
    package, also where it lies in another project's repository."""
    if not _git("ls-files", pathlib.Path(__file__).name):
        return {"git_commit": "", "git_modified": False}
    modified = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"git_commit": _git("rev-parse", "HEAD"), "git_modified": modified}


def _git(*arguments: str) -> str:
    """The output of a git command in the folder of this file; '' if it fails."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), *arguments]
    # A git hook sets these to its own repository.
    of_hook = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    environment = {k: v for k, v in os.environ.items() if k not in of_hook}
    try:
        return subprocess.check_output(
            command, text=True, stderr=subprocess.DEVNULL, timeout=10, env=environment
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return ""
