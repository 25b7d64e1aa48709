"""What a run leaves behind: run.json, report.json, curves.png and the closing lines."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn.evaluation import Result

PACKAGES = (
    "jaxcnn", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint",
    "tensorflow-datasets", "tensorflow-cpu", "clu", "numpy", "pillow",
)  # fmt: skip


def add_start(path: Path, said: Mapping[str, Any], done: Mapping[str, Any]) -> None:
    """Appends this start to run.json, with versions, commit and devices.

    Args:
        said: what was typed and set, from which step it goes on, on how many examples.
        done: what follows from it: plan, mesh, what a fresh run took from another.
    """
    starts = read_starts(path)
    starts.append(
        {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            **said,
            "versions": {"python": platform.python_version(), **_versions()},
            "git_commit": _git("rev-parse", "HEAD"),
            "git_modified": bool(_git("status", "--porcelain", "--untracked-files=no")),
            "devices": [f"{d.device_kind} ({d.platform})" for d in jax.devices()],
            "processes": jax.process_count(),
            **done,
        }
    )
    _write(path, {"starts": starts})


def read_starts(path: Path) -> list[dict[str, Any]]:
    """The starts that run.json lists, oldest first."""
    return json.loads(path.read_text())["starts"] if path.exists() else []


def read_report(path: Path) -> dict[str, Any]:
    """report.json, or an empty report.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return json.loads(path.read_text()) if path.exists() else {"results": []}
    except ValueError as error:
        raise ValueError(
            f"{path} is not readable as JSON ({error}); move it away, and the run's command makes it anew"
        ) from error


def write_report(
    path: Path, report: Mapping[str, Any], results: Sequence[tuple[int, Result]], **facts: Any
) -> dict[str, Any]:
    """Writes report.json with `results`, as (step, result), added to those of `report`.

    A report is of one state: results of another step than `facts["step"]` are dropped.
    """
    rows = [{"step": step, **dataclasses.asdict(result)} for step, result in results]
    again = {(r["protocol"], r["split"]) for r in rows}
    kept = [
        r
        for r in report["results"]
        if (r["protocol"], r["split"]) not in again and r["step"] == facts["step"]
    ]
    whole = {**report, **facts, "results": [*kept, *rows]}
    _write(path, whole)
    return whole


def result_text(row: Mapping[str, Any]) -> str:
    """`top-1 98.9 %  top-5 100.0 %  (error 1.1 / 0.0 %)  loss 0.0402  n=360  centre(56->56)  test`."""
    return (
        f"top-1 {row['top1']:.2%}  top-5 {row['top5']:.2%}  (error {1 - row['top1']:.2%} / "
        f"{1 - row['top5']:.2%})  loss {row['loss']:.4f}  n={row['n']}  {row['protocol']}  {row['split']}"
    )


def draw_curves(events: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Loss, top-1 and learning rate against epochs, as a PNG."""
    from matplotlib.figure import Figure  # imported late: a second of start-up

    train = [e for e in events if e["kind"] == "train"]
    evals: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["kind"] == "eval":
            evals.setdefault(f"{event['split']}, {event['protocol']}", []).append(event)
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    figure.suptitle(title)
    loss, top1, rate = figure.subplots(1, 3)
    for axes, key, scale in ((loss, "loss", 1), (top1, "top1", 100)):
        axes.plot(
            [e["epoch"] for e in train], [scale * e[key] for e in train], label="training", lw=1
        )
        for name, rows in evals.items():
            axes.plot(
                [e["epoch"] for e in rows], [scale * e[key] for e in rows], "o-", ms=3, label=name
            )
    loss.set(xlabel="epoch", ylabel="loss (nats)", ylim=(0, None))
    top1.set(xlabel="epoch", ylabel="top-1 (%)", ylim=(0, 100))
    rate.plot([e["epoch"] for e in train], [e["learning_rate"] for e in train], lw=1)
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    if train or evals:
        top1.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _write(path: Path, content: Mapping[str, Any]) -> None:
    whole = path.with_suffix(".tmp")
    whole.write_text(json.dumps(content, indent=2) + "\n")
    whole.replace(path)  # a kill leaves the old file or the new one, never half of one
