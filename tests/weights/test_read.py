"""What a weights file needs to be a net: its source, its shapes, its numbers."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from jaxcnn.files import FileError
from jaxcnn.models import build
from jaxcnn.weights import Choices, read, read_weights
from jaxcnn.weights.convention import decide
from jaxcnn.weights.fingerprints import KNOWN
from jaxcnn.weights.names import FORMS
from jaxcnn.weights.net_weights import param_shapes
from jaxcnn.weights.sources import SOURCES
from tests.weights.made import numbered, stored, weights_file

MODEL = {"name": "vgg", "column": "A", "image_size": 64, "width": 1 / 16, "num_classes": 1000}
# Of Oxford's VGG-16 (weights.md): conv1_1's biases, and its kernel [0, 0, (R, G, B), 0].
BIAS = (0.73429835, 0.09340367, 0.06775674, 0.8862966)
KERNEL = (0.4800154, 0.55037946, 0.42947057)


def form_of(program, **model):
    wanted = model.items()
    forms = [f for f in FORMS if f.program == program and wanted <= f.model.items()]
    return forms[0]


@pytest.fixture(scope="module")
def params():
    fields = dict(MODEL)
    shapes = param_shapes(build(fields.pop("name"), **fields))
    return {name: array * 1e-6 for name, array in numbered(shapes).items()}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A function that reads arrays as if they were a file."""

    def read_arrays(arrays, choices=None, **facts):
        path = tmp_path / "file"
        path.write_bytes(b"content")
        file = weights_file(arrays, **facts)
        object.__setattr__(file, "path", path)
        monkeypatch.setattr(read, "open_weights", lambda _: file)
        return read_weights(path, choices)

    return read_arrays


def with_oxfords_first_layer(params, order):
    """Parameters whose conv1_1 has Oxford's fingerprint once stored with its channels in this order."""
    changed = {name: array.copy() for name, array in params.items()}
    changed["conv1_1/bias"][:4] = BIAS
    changed["conv1_1/kernel"][0, 0, :, 0] = KERNEL if order == "RGB" else KERNEL[::-1]
    return changed


def test_an_unknown_source_is_an_error_that_lists_the_candidates(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    with pytest.raises(FileError, match=r"--source=oxford\|torchvision\|.*") as caught:
        opened(arrays)
    assert "does not say what its net reads" in str(caught.value)


def test_a_source_folds_its_scale_and_gives_its_mean(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    found = opened(arrays, Choices(source="torchvision"))
    scale = np.array([58.395, 57.12, 57.375], np.float32)[:, None]
    kernel = found.leaves["conv1_1/kernel"].read()
    np.testing.assert_allclose(kernel * scale, params["conv1_1/kernel"], rtol=1e-6)
    np.testing.assert_array_equal(found.leaves["fc6/kernel"].read(), params["fc6/kernel"])
    np.testing.assert_allclose(found.mean, [123.675, 116.28, 103.53])
    assert found.model == MODEL
    assert found.classes[281] == "n02123045"
    assert found.origin["known_by"] == "--source"
    assert found.origin["licence"] == "BSD-3-Clause"


def test_weights_that_are_recognised_need_no_source(opened, params):
    changed = with_oxfords_first_layer(params, "BGR")
    arrays, _ = stored(form_of("caffe", column="A"), changed)
    found = opened(arrays)
    assert found.origin["title"] == "Oxford VGG-16"
    assert found.origin["warnings"] == []
    ours = found.leaves["conv1_1/kernel"].read()
    np.testing.assert_array_equal(ours, changed["conv1_1/kernel"][:, :, ::-1])
    np.testing.assert_allclose(ours[0, 0, :, 0], KERNEL)


def test_the_first_kernel_shows_an_unusual_order_of_channels(opened, params):
    changed = with_oxfords_first_layer(params, "RGB")
    arrays, _ = stored(form_of("caffe", column="A"), changed)
    found = opened(arrays)
    np.testing.assert_allclose(found.leaves["conv1_1/kernel"].read()[0, 0, :, 0], KERNEL)
    assert "order RGB" in found.origin["warnings"][0]


@pytest.mark.parametrize("source", ["torchvision", "frossard"])
def test_a_source_that_contradicts_the_fingerprint_is_an_error(source, opened, params):
    changed = with_oxfords_first_layer(params, "BGR")
    arrays, _ = stored(form_of("caffe", column="A"), changed)
    with pytest.raises(FileError, match="holds Oxford VGG-16") as caught:
        opened(arrays, Choices(source=source))
    assert caught.value.advice == "leave --source out"


def test_kernels_that_were_turned_are_seen_by_the_fingerprint(opened, params):
    changed = with_oxfords_first_layer(params, "BGR")
    changed["conv1_1/kernel"] = changed["conv1_1/kernel"].swapaxes(0, 1)[::-1].copy()
    arrays, _ = stored(form_of("caffe", column="A"), changed)
    with pytest.raises(FileError, match="not its kernel"):
        opened(arrays)


def test_a_source_without_this_net_is_an_error(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    with pytest.raises(FileError, match="holds vgg, and bvlc has none"):
        opened(arrays, Choices(source="bvlc"))


def test_missing_extra_and_misshapen_arrays_are_named_all_at_once(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    del arrays["features.3.bias"], arrays["classifier.6.weight"]
    arrays["head.weight"] = np.zeros((3, 5), np.float32)
    arrays["features.8.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    with pytest.raises(FileError) as caught:
        opened(arrays, Choices(source="torchvision"))
    for text in (
        "features.3.bias: missing",
        "classifier.6.weight: missing",
        "head.weight: [3, 5]",
        "features.8.weight: [1, 1, 3, 3], expected",
    ):
        assert text in str(caught.value)
    assert "vgg column=A of torchvision" in str(caught.value)


def test_shapes_are_compared_before_anything_is_read(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    arrays["features.8.weight"] = np.zeros((1, 1, 3, 3), np.float32)
    arrays["classifier.3.bias"] = np.zeros(7, np.float32)
    arrays["features.0.bias"] = arrays["features.0.bias"].astype(np.int32)
    with pytest.raises(FileError) as caught:
        opened(arrays, Choices(source="torchvision"))
    assert "features.8.weight: [1, 1, 3, 3], expected [16, 16, 3, 3]" in str(caught.value)
    assert "classifier.3.bias: [7], expected [256]" in str(caught.value)
    assert "features.0.bias: int32" in str(caught.value)


def test_weights_of_another_column_say_which_they_are(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    with pytest.raises(FileError, match="holds vgg column=A, not column=D"):
        opened(arrays, Choices(source="torchvision", net="vgg column=D"))


def test_torchvisions_googlenet_says_which_options_the_papers_net_lacks(opened):
    form = form_of("torchvision", name="googlenet")
    fields = {**form.model, "width": 1 / 32, "image_size": 64, "num_classes": 1000}
    shapes = param_shapes(build(**fields))
    arrays, _ = stored(form, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    with pytest.raises(FileError) as caught:
        opened(arrays, Choices(source="torchvision", net="googlenet branch5x5=5 pool4=3/2"))
    assert "branch5x5=3 pool4=2/2 lrn=False" in str(caught.value)
    assert "not branch5x5=5, pool4=3/2" in str(caught.value)
    # It scales its inputs again, to -1..1.
    assert SOURCES["torchvision"].conventions["googlenet"].mean == (127.5, 127.5, 127.5)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_number_formats_are_converted_and_said(kind, opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    short = {name: array.astype(kind) for name, array in arrays.items()}
    found = opened(short, Choices(source="torchvision"))
    kernel = found.leaves["fc7/kernel"].read()
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, params["fc7/kernel"].astype(kind).astype(np.float32))
    assert f"{np.dtype(kind).name} to float32" in found.origin["transformations"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_values_that_are_not_finite_are_an_error_that_names_the_array(value, opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
    arrays["classifier.0.weight"][3, 5] = value
    found = opened(arrays, Choices(source="torchvision"))
    with pytest.raises(FileError, match=r"classifier\.0\.weight.*not finite"):
        found.leaves["fc6/kernel"].read()


@pytest.mark.parametrize("drop", [False, True])
def test_a_background_class_is_left_out_by_flag_alone(drop, opened):
    fields = {**MODEL, "num_classes": 1001}
    shapes = param_shapes(build(**fields))
    params = numbered(shapes)
    arrays, _ = stored(form_of("slim", column="A"), params)
    found = opened(arrays, Choices(source="slim", drop_background=drop))
    assert found.model["num_classes"] == 1001 - drop
    assert found.classes[281 + (not drop)] == "n02123045"
    assert ("background" in found.classes) == (not drop)
    assert found.leaves["fc8/kernel"].shape[-1] == 1001 - drop
    kept = params["fc8/bias"][1:] if drop else params["fc8/bias"]
    np.testing.assert_array_equal(found.leaves["fc8/bias"].read(), kept)


def test_other_classes_need_names(opened):
    shapes = param_shapes(build(**{**MODEL, "num_classes": 3}))
    arrays, _ = stored(form_of("torchvision", column="A"), numbered(shapes))
    with pytest.raises(FileError, match="3 outputs and no names"):
        opened(arrays, Choices(source="torchvision"))
    found = opened(arrays, Choices(source="torchvision", classes=("a", "b", "c")))
    assert found.classes == ("a", "b", "c")
    with pytest.raises(FileError, match="there are 2 names"):
        opened(arrays, Choices(source="torchvision", classes=("a", "b")))


def test_a_mean_is_moved_with_its_bound_or_refused(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    wanted = (123.68, 116.779, 103.939)
    found = opened(arrays, Choices(source="torchvision", mean=wanted))
    assert "exact but at the image's border" in found.origin["transformations"][-1]
    np.testing.assert_allclose(found.mean, wanted)
    with pytest.raises(FileError, match=r"differ by up to 123\.7 grey levels"):
        opened(arrays, Choices(source="torchvision", mean=(0.0, 0.0, 0.0)))


def test_the_names_of_the_file_come_before_those_of_imagenet(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    names = tuple(f"class {i}" for i in range(1000))
    assert opened(arrays, Choices(source="torchvision"), classes=names).classes == names


def test_a_background_class_that_is_not_there_cannot_be_left_out(opened, params):
    arrays, _ = stored(form_of("torchvision", column="A"), params)
    with pytest.raises(FileError, match="without a background class"):
        opened(arrays, Choices(source="torchvision", drop_background=True))


def with_oxfords_19(params, order):
    """Parameters whose conv1_1 has the fingerprint of Oxford's VGG-19, of which one kernel value is known."""
    changed = {name: array.copy() for name, array in params.items()}
    changed["conv1_1/bias"][:4] = (0.7301776, 0.06493629, 0.03428847, 0.8260386)
    changed["conv1_1/kernel"][0, 0, :, 0] = (0.1, 0.2, 0.341195)[:: 1 if order == "RGB" else -1]
    return changed


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_the_order_of_vgg_19_is_that_of_its_kernel_whatever_the_program(order, opened, params):
    changed = with_oxfords_19(params, order)
    arrays, _ = stored(form_of("torchvision", column="A"), changed)
    found = opened(arrays)
    assert found.origin["title"] == "Oxford VGG-19"
    kernel = found.leaves["conv1_1/kernel"].read()
    np.testing.assert_allclose(kernel[0, 0, :, 0], (0.1, 0.2, 0.341195), rtol=1e-6)
    assert bool(found.origin["warnings"]) == (order == "BGR")


@pytest.mark.parametrize(("program", "source", "order"), [
    ("caffe2", "", "BGR"), ("caffe2", "bvlc", "BGR"), ("onnx", "bvlc", "BGR"), ("onnx", "", None),
])  # fmt: skip
def test_known_weights_whose_order_nothing_shows_need_a_source(program, source, order):
    (known,) = (known for known in KNOWN if known.title == "BVLC GoogLeNet")
    kernel = np.zeros((7, 7, 3, 4), np.float32)

    def decided():
        path = Path("file")
        return decide(path, program, "googlenet", kernel, (known, "conv1's first values"), source)

    if order is None:
        with pytest.raises(FileError, match="nothing shows the order"):
            decided()
    else:
        assert decided().convention.order == order
