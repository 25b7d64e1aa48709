"""What processes compare at their start."""

import pytest

from jaxcnn.data import DataError
from jaxcnn.files import FileError, WriteError
from jaxcnn.parallel import ProcessGroup, check_same, process_group


def test_a_difference_among_a_thousand_classes_is_a_short_message(monkeypatch):
    values = [{"classes": [f"class {i}" for i in range(1000)], "images": 5} for _ in range(20)]
    for value in values[1:]:
        value["classes"][3:] = [name.upper() for name in value["classes"][3:]]
    monkeypatch.setattr(ProcessGroup, "gather", lambda _, value: [value, *values[1:]])
    with pytest.raises(ValueError, match="do not have the same data:\n") as caught:
        check_same(ProcessGroup(), "data", values[0], "give all of them the same files")
    lines = str(caught.value).splitlines()
    assert len(lines) == 10  # eight processes of nineteen
    assert max(map(len, lines)) < 1000
    assert "class 3" in lines[1]
    assert lines[-1] == "give all of them the same files"


def test_every_error_of_jaxcnn_comes_from_another_process_with_its_text():
    kinds = [Exception]
    for kind in kinds:
        kinds += [k for k in kind.__subclasses__() if k not in kinds]
    ours = [kind for kind in kinds if kind.__module__.startswith("jaxcnn.")]
    assert {FileError, WriteError, DataError} <= {*ours}
    for kind in ours:
        error = process_group._as_local_error(1, kind.__module__, kind.__name__, "the text")
        assert (type(error), str(error)) == (kind, "the text")
