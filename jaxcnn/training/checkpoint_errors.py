"""What is said about checkpoints that cannot be written, read or used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxcnn.paths import Path
from jaxcnn.training.disk_errors import short, write_advice


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or used with this net; the message says what to do."""


def unreadable(folder: Path, failures: Mapping[int, str], steps: Sequence[int]) -> CheckpointError:
    """None of the checkpoints that were tried can be read.

    Args:
        failures: problem by step.
        steps: those of all complete checkpoints, in ascending order.
    """
    lines = "\n".join(f"  step {step}: {problem}" for step, problem in failures.items())
    others = [step for step in steps if step not in failures]
    if others:
        return CheckpointError(
            f"a checkpoint in {folder} cannot be read:\n{lines}\nNothing was changed. There are others, "
            f"{others}: give --step={others[-1]} (jaxcnn.load: step={others[-1]}), or start the training in "
            "this workdir again, which continues from the newest good one"
        )
    return CheckpointError(
        f"no checkpoint in {folder} can be read:\n{lines}\ncheck the disk, and compare the installed "
        "versions with run.json; or train in another --workdir. Nothing was changed"
    )


def not_for_this_process(what: str, error: BaseException) -> CheckpointError:
    """The process lacks rights, memory or descriptors to read `what`, or a network disk does not answer."""
    return CheckpointError(
        f"{what} cannot be read by this process: {short(error)}\nNothing was changed; see the rights, the "
        "free memory and `ulimit -a`; if a network disk or object storage does not answer, give the "
        "same command again later"
    )


def not_written(what: str, error: BaseException, steps: Sequence[int] | None) -> CheckpointError:
    """`what` says that a save failed; `steps` are those of the complete checkpoints, None if the object
    storage does not say."""
    left = f"the last complete one is step {steps[-1]}" if steps else "there is no complete one"
    if steps is None:
        left = "the complete ones that are there stay"
    return CheckpointError(
        f"{what}: {short(error)}\n{left}; {write_advice(error)}, then run the same command again to resume"
    )


def other_net(
    what: str, old: Mapping[str, str], new: Mapping[str, str], ignored: tuple[str, ...]
) -> CheckpointError | None:
    """The error if the arrays of `what` are not those that the net needs.

    Args:
        old, new: dtype and shape by name.
        ignored: starts of names that are not compared.
    """
    lines = [
        f"  {name}: checkpoint has {old.get(name, 'nothing')}, the config's net needs "
        f"{new.get(name, 'nothing')}"
        for name in sorted({*old, *new}, key=lambda name: (name.startswith("opt_state"), name))
        if old.get(name) != new.get(name) and not name.startswith(ignored)
    ]
    if not lines:
        return None
    more = [f"  and {len(lines) - 8} more"] if len(lines) > 8 else []
    return CheckpointError(
        f"{what} belongs to another net:\n"
        + "\n".join(lines[:8] + more)
        + "\nuse the config that it was trained with, or another --workdir"
    )
