"""The workdir of a run: checked to belong to the same run, of the same data."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxcnn import config as configs
from jaxcnn.data import DataSplits
from jaxcnn.data.classes import difference
from jaxcnn.files import FileError, exists, read_lines, read_text, remove, write_text
from jaxcnn.parallel import ProcessGroup
from jaxcnn.paths import Path
from jaxcnn.training import run_files
from jaxcnn.training.checkpoint_files import has_state
from jaxcnn.training.data_record import (
    Fingerprints,
    changes,
    pending_changes,
    recorded_digests,
    take_fingerprints,
    write_fingerprints,
    write_pending,
)
from jaxcnn.training.imported_run import is_imported
from jaxcnn.training.schema import read_saved_config
from jaxcnn.training.workdir_lock import WorkdirError, cannot_write

# What is said at a start about a key that may differ.
_SAID = {
    "grad_accum_steps": "grad_accum_steps differs from the last start: the gradients are summed in another "
    "order, so the numbers differ by rounding from those of a run without the change",
}


def claim_workdir(
    folder: Path,
    config: Mapping[str, Any],
    data: DataSplits,
    *,
    accept_changed_data: bool = False,
    check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Makes `folder`, which `lock_workdir` has locked, the workdir of a run of `config`.

    Args:
        folder: exists.
        accept_changed_data: continue although images differ from those of the run's last start.
        check_stop: called while the data are compared; raises to leave early.

    Returns:
        JSON values: `data`, the digests of the splits by use; `accepted`, the differences of the data that
        were accepted; `changed`, what to say about keys that differ from those of the last start.

    Raises:
        WorkdirError: it holds a run of another config or of other data, or imported weights, or
            cannot be written.
        FileError: config.json or classes.txt of the run there is damaged.
    """
    if is_imported(folder):
        raise WorkdirError(
            f"{folder} holds imported weights, where nothing is trained; use another --workdir, which can "
            f"start from them: --config.init.from_run={folder}"
        )
    path, names = folder / "config.json", "".join(f"{name}\n" for name in data.class_names)
    accepted, changed, begun = [], [], has_begun(folder)
    before = _check_same_config(path, config) if begun else {}
    found = take_fingerprints(data, check_stop)
    if begun:
        changed = [text for key, text in _SAID.items() if before[key] != config[key]]
        _check_same_classes(folder, data.class_names)
        accepted = _changed_data(folder, found, data, accept_changed_data)
    digests = {use: one.digest for use, one in found.items()}
    if begun:
        accepted = [*pending_changes(folder, digests), *accepted]
    try:
        if accepted:
            write_pending(folder, digests, accepted)
        configs.save_config(config, path)
        write_text(folder / "classes.txt", names)
        write_fingerprints(folder, found)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return {"data": digests, "accepted": accepted, "changed": changed}


def has_begun(folder: Path) -> bool:
    """Whether `folder` has checkpoints from which a run continues."""
    return has_state(folder / "checkpoints")


def check_shared(folder: Path, process_group: ProcessGroup) -> None:
    """Checks that every process sees the folder that process 0 writes.

    Raises:
        WorkdirError: on every process, naming those that do not see it.
    """
    if process_group.count == 1:
        return
    token, first = process_group.gather([secrets.token_hex(8), str(folder)])[0]
    path = folder / ".shared"
    process_group.run_on_primary(lambda: write_text(path, token))
    problems = process_group.gather(_unseen(path, token))
    process_group.run_on_primary(lambda: remove(path))
    if any(problems):
        blind = ", ".join(str(i) for i, problem in enumerate(problems) if problem)
        raise WorkdirError(
            f"process {blind} does not see the workdir {first} of process 0 "
            f"({next(filter(None, problems))}); give all of them the same --workdir, in a bucket or on a "
            "file system that all machines share"
        )


def _unseen(path: Path, token: str) -> str:
    """Why this process does not see what process 0 wrote into its workdir; '' if it does."""
    try:
        return "" if read_text(path, advice="") == token else f"{path} has another content"
    except FileError as error:
        return f"{path} {error.problem}"


def _check_same_config(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of the last start."""
    saved, compared = read_saved_config(path), bool(recorded_digests(path.parent))
    if not saved["model"]["num_classes"]:  # as --print_config prints it; taken from the data
        saved["model"]["num_classes"] = config["model"]["num_classes"]
    changed = configs.forbidden_difference(saved, config, any_place=compared)
    if changed:
        place = " and the place of the data" if compared else ""
        raise WorkdirError(
            f"{path.parent} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
            f"only {', '.join(configs.MAY_DIFFER)}{place} may differ on resume; use another --workdir, "
            "or the settings of that run"
        )
    return saved


def _check_same_classes(folder: Path, names: Sequence[str]) -> None:
    path = folder / "classes.txt"
    advice = "delete it, if these are the data of the run: this command writes it again"
    before = read_lines(path, advice=advice) if exists(path) else tuple(names)
    if before == tuple(names):
        return
    differ = difference(before, names, (path.name, "the data"))
    raise WorkdirError(
        f"the classes of the data differ from {path}, so labels would not mean the same as in training: "
        f"{differ}; restore the data, or use another --workdir, "
        f"which can start from these weights: --config.init.from_run={folder}"
    )


def _changed_data(folder: Path, found: Fingerprints, data: DataSplits, accept: bool) -> list[str]:
    """The differences between the data of the run's last start and today's, if they are accepted."""
    lines = changes(folder, found, data)
    starts = run_files.read_starts(folder / "run.json")
    if (
        not lines and starts and starts[-1]["examples"] != len(data.train)
    ):  # an earlier version's run
        lines = [f"training images: {len(data.train):,}, was {starts[-1]['examples']:,}"]
    if not lines or accept:
        return lines
    held_out = ", and images that were trained on may be held out now" if data.held_out else ""
    raise WorkdirError(
        f"the data of the run in {folder} changed after its last start:\n  "
        + "\n  ".join(lines)
        + "\n"
        f"so it cannot resume exactly{held_out}. Restore the data, or use another --workdir. If the change "
        "is meant, add --accept_changed_data (train, chain): the rest of the run uses the new images, in an "
        "order of their own, results on the old ones are evaluated again, and run.json and report.json say so"
    )
