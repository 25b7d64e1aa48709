"""Exported programs: any number of images, in processes without jaxcnn, equal to jaxcnn's own outputs."""

import json
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from jax import export

from jaxcnn.models import build
from jaxcnn.models.kernels.dispatch import plain_forms
from jaxcnn.weights.programs.agreement import difference, probe_images
from jaxcnn.weights.programs.program import PLATFORMS, make_program
from jaxcnn.weights.programs.savedmodel import write_savedmodel
from jaxcnn.weights.programs.stablehlo import export_program, write_stablehlo
from tests.evaluation.small import CLASSES, MEAN, net_and_params
from tests.models.narrow import (
    abstract_variables,
    features,
    quick_jit,
    random_variables,
    short_googlenet,
)

NAMES = tuple(f"class {i}, é" for i in range(CLASSES))
ORIGIN = {"run": "vgg", "step": 7}
# Runs the lines that program.json has for users, in each folder, on 1 and on 3 images.
CHILD = """
import importlib.abc, json, os, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jaxcnn", "flax"}:
            raise ImportError("must not be imported here: " + name)
sys.meta_path.insert(0, Refuse())
import numpy
for folder in sys.argv[1:]:
    os.chdir(folder)
    found = {}
    for count in (1, 3):
        images = numpy.load("images.npy")[:count]
        [facts] = [f for f in ("program.json", "assets.extra/program.json") if os.path.exists(f)]
        names = {"images": images}
        exec("\\n".join(json.load(open(facts))["usage"]), names)
        for name, values in names["outputs"].items():
            values = numpy.asarray(values)
            found[f"{name} {count}"] = values.astype("S") if values.dtype == object else values
    numpy.savez("outputs.npz", **found)
"""


def program_of(name, **what):
    net, params = net_and_params(name)
    return make_program(net, params, MEAN, NAMES, **what)


def images_of(program):
    images = probe_images(*program.size)
    return np.concatenate([images, images[:1, ::-1]])


def run_in_children(folders, programs):
    for folder, program in zip(folders, programs, strict=True):
        np.save(folder / "images.npy", images_of(program))
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", CHILD, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [dict(np.load(folder / "outputs.npz")) for folder in folders]


def expected(program):
    """Outputs by jaxcnn, without the program's own code."""
    images = images_of(program).astype(np.float32) - MEAN
    variables = {"params": unflatten_dict(dict(program.weights), sep="/")}
    if program.features:
        variables = {"params": net_and_params(type(program.net).__name__.lower())[1]}
        return {"features": features(program.net, variables, images)[program.features]}
    if not program.dense:
        logits, _ = quick_jit(program.net.apply)(variables, images)
        return {"probabilities": jax.nn.softmax(logits)}
    sizes = np.tile(np.int32(program.dense), (len(images), 1))
    scores, valid = quick_jit(partial(program.net.apply, method="score_map"))(
        variables, images, sizes
    )
    assert valid.all()
    return {"scores": scores, "probabilities": jax.nn.softmax(scores.mean(axis=(1, 2)))}


def check(found, program):
    wanted = expected(program)
    for count in (1, 3):
        got = {k.removesuffix(f" {count}"): v for k, v in found.items() if k.endswith(f" {count}")}
        names = got.pop("classes", None)
        assert names is None or tuple(name.decode() for name in names) == program.classes
        assert difference(got, {k: v[:count] for k, v in wanted.items()}).agrees
    assert not difference({k: v[::-1] for k, v in got.items()}, wanted).agrees


@pytest.mark.parametrize(
    "others", [(), pytest.param(("alexnet", "googlenet"), marks=pytest.mark.slow)]
)
def test_stablehlo_runs_without_jaxcnn(others, tmp_path):
    with short_googlenet():
        programs = [
            program_of("vgg"),
            program_of("vgg", dense=(40, 70)),
            program_of("alexnet", features="conv2"),
            *map(program_of, others),
        ]
        folders = [tmp_path / str(i) for i in range(len(programs))]
        for folder, program in zip(folders, programs, strict=True):
            write_stablehlo(program, folder, ORIGIN)
        for found, program in zip(run_in_children(folders, programs), programs, strict=True):
            check(found, program)
    facts = json.loads((folders[1] / "program.json").read_text())
    assert facts["needs"] == [f"jax>={jax.__version__}", "flatbuffers"]
    assert facts["input"]["shape"] == ["b", 40, 70, 3]
    assert facts["outputs"]["scores"]["shape"] == ["b", 1, 2, CLASSES]
    assert (facts["origin"], facts["net"]["name"]) == (ORIGIN, "vgg")
    assert (folders[0] / "classes.txt").read_text().split("\n")[:-1] == [*NAMES]


FULL_WIDTH = [
    ("alexnet", {}),
    ("vgg", {"column": "A"}),
    ("vgg", {"column": "E"}),
    ("googlenet", {}),
]


@pytest.mark.slow  # up to 575 MB of parameters
@pytest.mark.parametrize("write", [write_stablehlo, write_savedmodel])
@pytest.mark.parametrize(("name", "fields"), FULL_WIDTH, ids=lambda value: str(value))
def test_programs_of_full_width(write, name, fields, tmp_path):
    net = build(name, **fields)
    params = jax.tree.map(np.asarray, random_variables(net)["params"])
    last = params["fc" if name == "googlenet" else "fc8"]
    last["kernel"] = 0.02 * last["kernel"]  # posteriors that are not all 0 and 1
    program = make_program(net, params, MEAN, tuple(map(str, range(1000))))
    write(program, tmp_path / "out", ORIGIN)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "out").rglob("*.*")}
    parameters = sum(leaf.nbytes for leaf in program.weights.values())
    assert parameters < sum(sizes.values()) < 1.04 * parameters
    (found,) = run_in_children([tmp_path / "out"], [program])
    check(found, program)


@pytest.mark.slow  # TensorFlow is imported in another process
def test_savedmodels_run_without_jaxcnn(tmp_path):
    programs = [
        *map(program_of, ("vgg", "alexnet", "googlenet")),
        program_of("alexnet", dense=(80, 110)),
    ]
    folders = [tmp_path / str(i) for i in range(len(programs))]
    for folder, program in zip(folders, programs, strict=True):
        write_savedmodel(program, folder, ORIGIN)
    for found, program in zip(run_in_children(folders, programs), programs, strict=True):
        check(found, program)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("alexnet", {}),
        ("alexnet", {"lrn": "whole", "lrn_constants": "caffe", "image_size": 227}),
        ("vgg", {"column": "A"}),
        ("vgg", {"column": "E"}),
        pytest.param("googlenet", {}, marks=pytest.mark.slow),  # 84 layers
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_nets_of_full_width_take_any_number_of_images(name, fields):
    """With weights that are shapes alone."""
    check_full_width(build(name, **fields))


def test_googlenet_of_full_width_takes_any_number_of_images():
    with short_googlenet():
        check_full_width(build("googlenet"))


def check_full_width(net):
    program = make_program(net, abstract_variables(net)["params"], MEAN, ())
    exported = export_program(program)
    assert exported.platforms == PLATFORMS
    (output,) = exported.out_avals
    assert [str(size) for size in output.shape] == ["b", "1000"]
    again = export.deserialize(exported.serialize())
    assert str(again.in_avals) == str(exported.in_avals)


def test_programs_are_in_plain_forms():
    """The same operations on every platform; jax.export by itself keeps the forms of each."""
    program = program_of("vgg")
    assert "platform_index" in str(jax.make_jaxpr(program)(program.weights, images_of(program)))
    with plain_forms():
        plain = jax.make_jaxpr(program_of("vgg"))(*program.arguments())
    assert "platform_index" not in str(plain)


@pytest.mark.parametrize(
    ("name", "layer", "needed"),
    [
        ("vgg", "pool5", "conv1_1 conv2_1 conv3_1 conv3_2 conv4_1 conv4_2 conv5_1 conv5_2"),
        ("alexnet", "fc6", "conv1 conv2 conv3 conv4 conv5 fc6"),
        ("googlenet", "inception_3a/conv3x3", "conv1 conv2 conv2_reduce inception_3a"),
    ],
)
def test_a_layer_needs_no_weights_of_later_layers(name, layer, needed):
    with short_googlenet():
        weights = program_of(name, features=layer).weights
    assert " ".join(sorted({path.split("/")[0] for path in weights})) == needed
    assert "inception_3a/conv5x5/kernel" not in weights  # beside it


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("vgg", {"dense": ("h", "w")}, "must be numbers, got 'h', 'w'.* Only the batch may be"),
        ("vgg", {"dense": (32, 31)}, "32 x 31 are too small .* the smallest side is 32"),
        (
            "vgg",
            {"features": "fc77"},
            r"VGG has no layer 'fc77'; did you mean fc7.*layers: conv1_1, pool1",
        ),
        ("vgg", {"dense": (64, 64), "features": "fc7"}, "a layer or a score map, not both"),
    ],
)
def test_what_is_not_there_is_an_error(name, what, said):
    with pytest.raises(ValueError, match=said):
        program_of(name, **what)


def test_a_net_without_a_score_map():
    net = build("cuda_convnet", num_classes=5)
    with pytest.raises(ValueError, match="CudaConvNet has no score map"):
        make_program(net, {}, MEAN, NAMES, dense=(64, 64))


def test_a_difference_is_seen_in_every_output():
    values = {
        "probabilities": np.float32([[0.1, 0.9], [0.6, 0.4]]),
        "scores": np.ones((2, 3), np.float32),
    }
    assert difference(values, values) == (0.0, True)
    for name in values:
        for wrong in (values[name] + 1e-3, np.full_like(values[name], np.nan), values[name][:1]):
            assert not difference(values | {name: wrong}, values).agrees
        assert not difference({k: v for k, v in values.items() if k != name}, values).agrees
    tiny = np.float32([0.2, 0.2]) + np.float32([0, 1e-7])  # an untrained net
    assert difference({"p": tiny}, {"p": np.full(2, 0.2, np.float32)}).agrees
