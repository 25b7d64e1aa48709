"""Which net a weights file holds, by the names and shapes of its arrays alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxcnn.files import FileError
from jaxcnn.models import Net, build, net_fields
from jaxcnn.models.window import min_input_size
from jaxcnn.weights.choices import net_text, read_net
from jaxcnn.weights.kernel_layout import stored_axes
from jaxcnn.weights.misfits import misshapen, shown
from jaxcnn.weights.names import FORMS, by_order
from jaxcnn.weights.naming import Form, Place
from jaxcnn.weights.net_weights import param_shapes
from jaxcnn.weights.tensors import WeightsFile

# Fields of a net that its weights do not depend on, or that are found from shapes.
FREE = ("num_classes", "width", "image_size", "dtype", "dropout", "aux_dropout", "remat")


@dataclasses.dataclass(frozen=True)
class Match:
    """A net whose parameters are all in a file, with the right shapes.

    Attributes:
        form: the net as the program stores it; `places` without auxiliary heads that the file lacks.
        model: the net's fields, as in `NetWeights`.
        shapes: of its parameters here, by path.
        dropped: tensors that are left out, with the reason.
    """

    form: Form
    model: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    dropped: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Candidate:
    form: Form
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    dropped: dict[str, str]

    @property
    def score(self) -> tuple[int, int]:
        """The better, the larger: arrays that fit, less those that do not."""
        return len(tensor_names(self.form.places)) - len(self.missing), -len(self.extra)


def match(file: WeightsFile, net: str = "", known: Mapping[str, Any] | None = None) -> Match:
    """The net in `file`.

    Args:
        net: 'NAME KEY=VALUE ...', where the user says which.
        known: fields that a fingerprint shows.

    Raises:
        FileError: no net fits, with all missing, extra and misshapen arrays; or several do.
        ConfigError: `net` cannot be read.
    """
    wanted = read_net(net) if net else {}
    candidates = sorted((_candidate(form, file) for form in FORMS), key=lambda c: c.score)
    whole = _whole(candidates, file)
    if not whole:
        others = [_candidate(form, file) for form in by_order.forms(file.facts.get("reads", ()))]
        whole = _whole(others, file)
    for fields in (known or {}, wanted):
        agreeing = [c for c in whole if not disagreements(c.form, fields)]
        whole = agreeing if agreeing or fields is wanted else whole
    if len(whole) == 1:
        return _with_shapes(file, whole[0], wanted)
    raise FileError(file.path, *_explain(file, candidates, whole, wanted))


def _whole(candidates: Sequence[_Candidate], file: WeightsFile) -> list[_Candidate]:
    return [c for c in candidates if not c.missing and not c.extra and _in_order(c.form, file)]


def disagreements(form: Form, fields: Mapping[str, Any]) -> list[str]:
    """Which of `fields` are not those of the form's net, such as 'branch5x5=5'."""
    if fields and fields["name"] != form.model["name"]:
        return [str(fields["name"])]
    defaults = {key: field.default for key, field in net_fields(form.model["name"]).items()}
    own = {**defaults, **form.model}
    return [f"{k}={v}" for k, v in fields.items() if k not in FREE and own.get(k) != v]


def tensor_names(places: Iterable[Place]) -> dict[str, None]:
    """The names of all arrays that places need, in order."""
    names: dict[str, None] = {}
    for place in places:
        norm = place.norm[:4] if place.norm else ()
        names |= dict.fromkeys(name for name in (place.tensor, *norm) if name)
    return names


def _candidate(form: Form, file: WeightsFile) -> _Candidate:
    absent = {_module(p) for p in form.places if p.leaf.startswith("aux_")}
    absent -= {_module(p) for p in form.places if p.tensor in file.tensors}
    places = tuple(p for p in form.places if _module(p) not in absent)
    names = tensor_names(places)
    dropped = {}
    for name in (name for name in file.tensors if name not in names):
        for pattern, reason in form.dropped.items():
            if re.fullmatch(pattern, name):
                dropped[name] = reason
    extra = [name for name in file.tensors if name not in names and name not in dropped]
    missing = [name for name in names if name not in file.tensors]
    return _Candidate(
        dataclasses.replace(form, places=places), tuple(missing), tuple(extra), dropped
    )


def _in_order(form: Form, file: WeightsFile) -> bool:
    """Whether the file's layers have the order of the form's net, or say nothing of it."""
    kinds = list(file.facts.get("layers", {}).values())
    places = [kinds.index(kind) for kind in form.layer_order if kind in kinds]
    return len(places) < len(form.layer_order) or places == sorted(places)


def _module(place: Place) -> str:
    return place.leaf.partition("/")[0]


def _with_shapes(file: WeightsFile, found: _Candidate, wanted: Mapping[str, Any]) -> Match:
    """The match, with the fields that follow from shapes."""
    form, advice = found.form, "docs/weights.md lists the files that are read"
    try:
        model, shapes = _fields(file, form, wanted)
    except ValueError as error:
        raise FileError(file.path, f"fits no net: {error}", advice) from error
    if problems := misshapen(file, form.places, shapes):
        text = "\n".join([f"does not fit {net_text(model)}:", *shown(problems)])
        raise FileError(file.path, text, advice)
    ours = {place.leaf: shapes[place.leaf] for place in form.places}
    return Match(form, model, ours, found.dropped)


def _fields(
    file: WeightsFile, form: Form, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(fields of the net, shapes of its parameters). Width, num_classes and image_size follow from the shapes
    of the arrays that the file has.

    Raises:
        ValueError: there is no such net.
    """
    model: dict[str, Any] = {**form.model}
    model |= {key: value for key, value in wanted.items() if key in FREE}
    kernels = [place for place in form.places if place.leaf.endswith("kernel")]
    classifier = next(p for p in kernels if p.leaf in ("fc8/kernel", "fc/kernel"))
    model.setdefault("num_classes", _outputs(file, classifier) or 1000)
    model.setdefault("image_size", net_fields(model["name"])["image_size"].default)
    train = any(place.leaf.startswith("aux_") for place in form.places)
    # A net is traced once, though it is asked for by several questions.
    shapes_of = functools.cache(lambda *fields: param_shapes(build_net(dict(fields)), train))
    if "width" not in model:
        full = shapes_of(*{**model, "width": 1.0}.items())[kernels[0].leaf][-1]
        model["width"] = (_outputs(file, kernels[0]) or full) / full
    if "image_size" not in wanted:
        model["image_size"] = _image_size(file, form, model, shapes_of(*model.items()))
    return model, shapes_of(*model.items())


def build_net(model: Mapping[str, Any]) -> Net:
    """The net of fields as in the config's section `model`."""
    return build(**model)


def _outputs(file: WeightsFile, place: Place) -> int:
    """Output channels of a stored kernel; 0 where its shape does not fit the layout."""
    if place.tensor not in file.tensors:
        return 0
    axes, shape = stored_axes(place.layout), file.tensors[place.tensor].shape
    return shape[axes.index("O")] if len(axes) == len(shape) and "O" in axes else 0


def _image_size(
    file: WeightsFile, form: Form, model: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    """The form's own image size, or the smallest one whose first fully connected layer is the file's."""
    net = build_net(model)
    place = next((p for p in form.places if p.leaf == "fc6/kernel"), None)
    if place is None or place.tensor not in file.tensors:
        return net.image_size
    height, _, inputs, outputs = shapes["fc6/kernel"]
    cells = math.prod(file.tensors[place.tensor].shape) // (inputs * outputs)
    side = math.isqrt(cells)
    if side in (0, height) or side * side != cells:  # a wrong shape is reported as one
        return net.image_size
    return min_input_size(net.trunk(), side)


def _explain(
    file: WeightsFile,
    candidates: Sequence[_Candidate],
    whole: Sequence[_Candidate],
    wanted: Mapping[str, Any],
) -> tuple[str, str]:
    """(what is wrong, what to do) where not exactly one net fits."""
    if whole:
        texts = [f"--net='{net_text(c.form.model)}'" for c in whole]
        return f"fits {len(whole)} nets", f"say which: {' or '.join(texts)}"
    fitting = [c for c in candidates if not c.missing and not c.extra]
    if fitting and wanted:
        best = fitting[-1].form
        differ = ", ".join(disagreements(best, wanted))
        return (
            f"holds {net_text(best.model)}, not {differ}",
            f"give --net='{net_text(best.model)}', or leave --net out",
        )
    ours = [c for c in candidates if not disagreements(c.form, wanted)] or candidates
    best = ours[-1]
    if not best.score[0]:
        names = ", ".join(list(file.tensors)[:4])
        return (
            f"has no array of a name that jaxcnn knows (its first ones: {names or 'none'})",
            "docs/weights.md lists the programs whose files are read",
        )
    lines = [f"is nearest to {net_text(best.form.model)} of {best.form.program}, but does not fit:"]
    lines += shown([f"{name}: missing" for name in best.missing])
    shapes = {name: list(file.tensors[name].shape) for name in best.extra}
    lines += shown([f"{name}: {shape}, not an array of this net" for name, shape in shapes.items()])
    with contextlib.suppress(ValueError):  # no net has these shapes, which says nothing of others
        lines += shown(misshapen(file, best.form.places, _fields(file, best.form, wanted)[1]))
    return "\n".join(lines), "docs/weights.md lists the files that are read"
