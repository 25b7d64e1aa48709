"""ONNX files that jaxcnn wrote: parameters by their names here, and what belongs to them as metadata."""

from __future__ import annotations

from typing import Any

from jaxcnn.files import parse_json
from jaxcnn.weights.formats.protobuf import BYTES, Field, ProtoFile
from jaxcnn.weights.formats.safetensors import own_facts

PRODUCER = "jaxcnn"
# Of kernels that are not stored as here.
LAYOUTS = ("OIHW", "O(IHW)")
# Fields of ModelProto and of its metadata.
_PRODUCER, _METADATA, _KEY, _VALUE = 2, 14, 1, 2
_LONGEST = 2**26  # a mean image has some megabytes


def own_onnx_facts(file: ProtoFile) -> dict[str, Any]:
    """'model', 'mean', 'classes', 'origin', and 'layouts', kernel -> layout; {} for files of others.

    Raises:
        FileError: the metadata are damaged.
    """
    fields = [f for f in file.fields() if f.number in (_PRODUCER, _METADATA)]
    if not any(f.number == _PRODUCER and _text(file, f) == PRODUCER for f in fields):
        return {}
    texts = dict(_entry(file, field) for field in fields if field.number == _METADATA)
    facts = own_facts(file.path, texts)
    if not facts:
        return {}
    where, layouts = "layouts", texts.get("layouts", "{}")
    found = parse_json(layouts, dict, path=file.path, advice=file.advice, where=where)
    if not all(layout in LAYOUTS for layout in found.values()):
        raise file.error("is damaged: it names unknown layouts of kernels")
    return {**facts, "layouts": found}


def _entry(file: ProtoFile, message: Field) -> tuple[str, str]:
    parts = {field.number: _text(file, field) for field in file.fields(message)}
    return parts.get(_KEY, ""), parts.get(_VALUE, "")


def _text(file: ProtoFile, field: Field) -> str:
    if field.kind != BYTES or field.size > _LONGEST:
        raise file.error(f"is damaged: byte {field.start:,} begins no text")
    try:
        return file.read(field.start, field.stop).decode()
    except UnicodeDecodeError:
        raise file.error(f"is damaged: the text at byte {field.start:,} is not UTF-8") from None
