"""What must be set before JAX starts: XLA's flags, by a small table.

XLA reads XLA_FLAGS once, when the first backend starts, and ends the process at a name that it does not
know. Nothing here imports JAX before it has to.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.parallel import gpus, tpus
from jaxcnn.parallel.environment import Environment


class Row(NamedTuple):
    """A flag that is set unless the user sets it, from jaxlib `first` to below `last`; beyond, nobody looked.

    A GPU's row goes to XLA_FLAGS, where truth is 'true'; another's is an option of each compilation, where it
    is 'True'. A `deterministic` one is for runs that ask for determinism.
    """

    platform: str
    flag: str
    value: str
    first: str
    last: str
    why: str
    deterministic: bool = False


# Not here, for a reason:
# - xla_gpu_all_reduce_combine_threshold_bytes: at XLA's 30 MiB fc6 and fc7 of AlexNet and VGG are each a
#   bucket of their own, sent while the convolutions go backward; larger buckets would wait for those.
# - xla_gpu_exclude_nondeterministic_ops, xla_gpu_autotune_level=0: xla_gpu_deterministic_ops includes both.
ROWS = (
    # Empty is none. XLA:CPU's own convolutions take a quarter to a half of the time for kernels' gradients:
    # VGG D, 8 images of 224: 1.31 images a second instead of 0.54, two cores of an AMD EPYC. Such fusions
    # also crash for arrays of rank 7 and more (jax #39257) and are wrong in one public case (jax #39103).
    Row(
        "cpu", "xla_cpu_experimental_ynn_fusion_type", "", "0.10", "0.11",
        "XLA's own convolutions and products, not YNNPACK's",
    ),
    # What a step keeps besides state and batch, as compiled, 224 pixels, with neither, with the first, with
    # both: AlexNet, 16 images, 0.76, 0.49, 0.31 GB; GoogLeNet, 16, 1.47, 1.02, 0.99 GB; VGG D, 8, 1.99, 1.20,
    # 0.88 GB; as fast or faster. The usual order of programs is made for many that run at once.
    Row(
        "cpu", "xla_cpu_scheduler_type", "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED", "0.10", "0.11",
        "programs in an order that needs less memory",
    ),
    Row(
        "cpu", "xla_cpu_copy_insertion_use_region_analysis", "True", "0.10", "0.11",
        "fewer copies of parameters and momentum",
    ),
    Row(
        "gpu", "xla_gpu_enable_latency_hiding_scheduler", "true", "0.10", "0.11",
        "gradients are summed over devices while the backward pass goes on",
    ),
    Row(
        "gpu", "xla_gpu_deterministic_ops", "true", "0.10", "0.11",
        "no atomic additions, no algorithm chosen by its measured time", deterministic=True,
    ),
    # Neither of the first two does anything without the other (libtpu 0.0.42).
    Row(
        "tpu", "xla_enable_async_all_reduce", "True", "0.10", "0.11",
        "gradients of one array are summed while other programs run",
    ),
    Row(
        "tpu", "xla_tpu_enable_async_collective_fusion_fuse_all_reduce", "True", "0.10", "0.11",
        "and convolutions of the backward pass carry them",
    ),
    Row(
        "tpu", "xla_tpu_enable_async_collective_fusion_fuse_kloop_fusions", "True", "0.10", "0.11",
        "and so do elementwise operations",
    ),
)  # fmt: skip

_FLAG = re.compile(r"""\s*(-[\w-]*(?:="(?:\\.|[^"\\])*"?|='[^']*'?|\S*))""", re.ASCII)
_UNKNOWN = re.compile(r"Unknown flags? in XLA_FLAGS: (.*)")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """XLA_FLAGS as a run has them.

    Attributes:
        flags: what is set in the end, '--name=value' each: the table's, then the user's.
        added: the table's among them, with the reason.
        dropped: the user's that are not set, with the reason.
        absent: rows of the table for other versions of jaxlib than this one.
    """

    platform: str
    version: str
    deterministic: bool
    flags: tuple[str, ...]
    added: dict[str, str]
    dropped: dict[str, str]
    absent: tuple[Row, ...]

    def lines(self) -> list[tuple[str, str]]:
        """(name, text) rows for a person; none where nothing is set and nothing was asked for."""
        own = " ".join(flag for flag in self.flags if flag not in self.added)
        rows = [
            *(f"{flag}: {why}" for flag, why in self.added.items()),
            *([f"from XLA_FLAGS: {own}"] if own else []),
            *(f"warning: dropped {flag}: {why}" for flag, why in self.dropped.items()),
            *(f"not set: {row.flag}, {self._age(row)}" for row in self.absent),
            *([f"deterministic: {self._promise()}"] if self.deterministic else []),
        ]
        return [("" if i else "flags", text) for i, text in enumerate(rows)]

    def _age(self, row: Row) -> str:
        return f"looked at for jaxlib {row.first} to below {row.last}, this is {self.version}"

    def _promise(self) -> str:
        """What --deterministic comes to, no more than is known."""
        if self.platform == "cpu":
            return "on one machine, with as many cores, the same program gives the same bits anyway"
        rules = {row.flag for row in ROWS if row.deterministic}
        if any(_name(flag) in rules for flag in self.added):
            return "operations whose bits depend on timing are ruled out"
        return f"warning: nothing was set for it on the {self.platform}, so nothing is promised"

    def record(self) -> dict[str, Any]:
        """For run.json."""
        chosen = {"platform": self.platform, "deterministic": self.deterministic}
        return chosen | {"xla_flags": list(self.flags), "dropped": list(self.dropped)}


def prepare(
    environment: MutableMapping[str, str],
    *,
    platform: str,
    version: str,
    deterministic: bool,
    rows: Sequence[Row] = ROWS,
) -> Prepared:
    """Puts the table's flags into XLA_FLAGS, beside the user's, which win; drops those jaxlib lacks.

    Args:
        environment: os.environ; its XLA_FLAGS is rewritten.
        platform: 'cpu', 'gpu' or 'tpu', see `guess_platform`.
        version: of jaxlib, as importlib.metadata says it.
        deterministic: take the rows for determinism too.

    Raises:
        ValueError: XLA_FLAGS names a file that cannot be read, or holds a value that jaxlib refuses.
    """
    mine = [row for row in rows if row.platform == platform == "gpu"]
    mine = [row for row in mine if deterministic or not row.deterministic]
    reasons = {f"--{row.flag}={row.value}": row.why for row in mine if _holds(row, version)}
    words, dropped = _split(_text(environment))
    # Asking takes a process: not for what a parent of this process set by the same table.
    if any(word not in reasons for word in words):
        words, unknown = _accepted(words, version, environment)
        dropped = unknown | dropped
    taken = {_name(word) for word in words if word not in reasons}
    added = {word: why for word, why in reasons.items() if _name(word) not in taken}
    flags = (*added, *(word for word in words if word not in added))
    if flags or "XLA_FLAGS" in environment:
        environment["XLA_FLAGS"] = " ".join(flags)
    absent = tuple(row for row in mine if not _holds(row, version))
    return Prepared(platform, version, deterministic, flags, added, dropped, absent)


def compiler_options(
    platform: str, *, version: str, environment: Environment, rows: Sequence[Row] = ROWS
) -> dict[str, str]:
    """The rows of a CPU or TPU, for `jax.jit(..., compiler_options=...)`, where an option that the compiler
    does not know is an exception. What the user's XLA_FLAGS name is the user's."""
    given = _text(environment)
    mine = (row for row in rows if row.platform == platform != "gpu" and _holds(row, version))
    return {row.flag: row.value for row in mine if row.flag not in given}


def guess_platform(environment: Environment) -> str:
    """What JAX will most likely run on, before it starts: 'gpu', 'tpu', 'cpu', or the first name of
    JAX_PLATFORMS. Where the guess is wrong, flags are set that nothing reads."""
    named = environment.get("JAX_PLATFORMS", "").split(",")[0].strip().lower()
    if named:
        return {"cuda": "gpu", "rocm": "gpu"}.get(named, named)
    if gpus.visible(environment):
        return "gpu"
    return "tpu" if tpus.has_tpu(environment) else "cpu"


def _text(environment: Environment) -> str:
    """XLA_FLAGS; where it is the name of a file, which XLA allows, what is in it."""
    text = environment.get("XLA_FLAGS", "").strip()
    if not text or text.startswith("-"):
        return text
    try:
        return Path(text).read_text()
    except OSError as error:
        raise ValueError(
            f"XLA_FLAGS={text} does not begin with --, so it is the name of a file with flags, which "
            f"cannot be read ({error}); if it is a flag, type XLA_FLAGS=--{text}"
        ) from error


def _split(text: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The flags as XLA reads them, quotes kept, and what it leaves unread."""
    words, at = [], 0
    while found := _FLAG.match(text, at):
        words.append(found[1])
        at = found.end()
    rest = text[at:].strip()
    return tuple(words), {rest: "XLA reads no further than a word without --"} if rest else {}


def _accepted(
    words: tuple[str, ...], version: str, environment: Environment
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The flags that jaxlib knows, and the others with the reason. Asked of jaxlib in a child process, about
    0.15 s, as this one would not outlive the answer."""
    dropped: dict[str, str] = {}
    while words:
        done = subprocess.run(
            [
                sys.executable,
                "-P",
                "-c",
                "from jaxlib import xla_client; xla_client.CompileOptions()",
            ],
            env={**environment, "XLA_FLAGS": " ".join(words)},
            capture_output=True,
            text=True,
            check=False,
        )
        if not done.returncode:
            break
        said = _UNKNOWN.search(done.stderr)
        names = re.findall(r"(?:^| )(-[\w-]*)", said[1]) if said else []
        unknown = [word for word in words if word.partition("=")[0] in names]
        if not unknown:
            why = re.sub(r"^\S+ .*?\] ", "", done.stderr.strip().partition("\n")[0])
            raise ValueError(
                f"jaxlib {version} does not take XLA_FLAGS={' '.join(words)}: {why or done.returncode}; "
                "correct it, or type: unset XLA_FLAGS"
            )
        for word in unknown:
            hint = "; flags of a TPU go to LIBTPU_INIT_ARGS" if "xla_tpu" in word else ""
            dropped[word] = f"jaxlib {version} does not know it and would end the process{hint}"
        words = tuple(word for word in words if word not in dropped)
    return words, dropped


def _name(word: str) -> str:
    return word.partition("=")[0].lstrip("-")


def _holds(row: Row, version: str) -> bool:
    # 0.10.2.dev3 counts as 0.10.2
    first, this, last = (
        [int(part) for part in re.findall(r"(?:^|(?<=\d\.))\d+", text)]
        for text in (row.first, version, row.last)
    )
    return first <= this < last
