"""Posterior files and their mean: equal to evaluating the mean of the nets; mismatches are errors."""

import dataclasses

import numpy as np
import pytest

from jaxcnn.data import EvalLoader
from jaxcnn.evaluation import Tally, choose_crops, ensemble, image_posteriors
from jaxcnn.evaluation.protocols import CenterCrop, Dense, MultiCrop, MultiCropDense, TenCrops
from jaxcnn.files import FileError
from tests.evaluation.small import Images, evaluate_small, shared_forward

SIZES = [(40, 40), (44, 61), (70, 43), (45, 62), (72, 44), (41, 41), (71, 43)] * 3


def made(values, labels=None, split="val", classes="x", protocol="centre", ids=None):
    values = np.asarray(values, np.float32)
    n = len(values)
    return ensemble.Posteriors(
        np.arange(n, dtype=np.int32) if ids is None else np.asarray(ids, np.int32),
        np.zeros(n, np.int32) if labels is None else np.asarray(labels, np.int32),
        values,
        classes,
        {"protocol": protocol, "split": split},
    )


def test_ensemble_of_two_nets_equals_the_mean_of_their_posteriors():
    """Files of float32 against float64 posteriors straight from the nets."""
    source, protocols = Images(SIZES), {7: Dense(scales=(32,)), 8: TenCrops(scale=40)}
    saved = [evaluate_small("vgg", source, p, seed=s).posteriors for s, p in protocols.items()]
    means = np.zeros((len(source), 5))
    for seed, protocol in protocols.items():
        forward, params = shared_forward("vgg", seed=seed)
        with EvalLoader(source, choose_crops(forward, protocol)) as images:
            for image, values in image_posteriors(forward, params, images, protocol):
                means[image.position] += np.exp(values) / 2
    tally = Tally()
    tally.add(means.astype(np.float32), np.arange(len(source)) % 5)
    direct, found = tally.result("mean", "val", len(source)), ensemble.error_rates(saved)
    assert (found.n, found.top1, found.top5) == (21, direct.top1, direct.top5)
    assert found.loss == pytest.approx(direct.loss, rel=1e-6)
    np.testing.assert_allclose(ensemble.average_posteriors(saved).values, means, rtol=1e-5)


def test_mean_of_multi_crop_and_dense_equals_multi_crop_dense():
    source, scales = Images(SIZES[1:3]), (32, 40)
    crops = evaluate_small("vgg", source, MultiCrop(scales=scales)).posteriors
    dense = evaluate_small("vgg", source, Dense(scales=scales)).posteriors
    both = evaluate_small("vgg", source, MultiCropDense(scales=scales)).posteriors
    np.testing.assert_allclose(
        ensemble.average_posteriors([crops, dense]).values, both.values, rtol=1e-5
    )


def test_one_file_has_exactly_the_rates_of_its_evaluation():
    found = evaluate_small("vgg", Images(SIZES), CenterCrop(scale=40))
    again = ensemble.error_rates([found.posteriors])
    assert dataclasses.astuple(again) == dataclasses.astuple(found.result)  # the loss too, exactly


def test_saved_posteriors_load_unchanged(tmp_path):
    whole = evaluate_small("vgg", Images(SIZES), CenterCrop(scale=40)).posteriors
    whole = dataclasses.replace(whole, facts={**whole.facts, "run": "a", "step": 3})
    path = tmp_path / "deep" / ensemble.file_name("dense(256, no flip)", "val", 3)
    assert path.name == "dense_256_no_flip.val.step_3.npz"
    ensemble.save_posteriors(whole, path)
    found = ensemble.load_posteriors(path)
    for name in ("ids", "labels", "values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.values.dtype == np.float32
    assert (found.classes, found.facts, found.name) == (
        whole.classes,
        whole.facts,
        "a step 3 centre(40->32)",
    )


def test_mean_has_equal_weights():
    a, b, c = made([[0.5, 0.5]]), made([[1.0, 0.0]]), made([[0.0, 1.0]], protocol="dense")
    assert ensemble.average_posteriors([a, b, c]).values.tolist() == [[0.5, 0.5]]
    assert ensemble.average_posteriors([a, b]).values.tolist() == [[0.75, 0.25]]
    assert ensemble.average_posteriors([a, b, c]).name == "centre + centre + dense"
    # A saved mean counts as one file when it is averaged again.
    assert ensemble.average_posteriors(
        [ensemble.average_posteriors([a, b]), c]
    ).values.tolist() == [[0.375, 0.625]]
    assert ensemble.error_rates([b, c]).loss == pytest.approx(np.log(2), rel=1e-6)
    # 0 in float32 counts as half of float32's smallest number.
    assert ensemble.error_rates([c]).loss == pytest.approx(150 * np.log(2))


def test_float16_files_of_earlier_versions_load_and_are_said(tmp_path, caplog):
    """Its zeros count as half of float16's smallest number."""
    np.savez(
        tmp_path / "old.npz",
        ids=np.arange(2),
        labels=np.arange(2),
        values=np.array([[0.25, 0.75], [1, 0]], np.float16),
        facts=np.array('{"classes": "x", "protocol": "centre", "split": "val"}'),
    )
    old = ensemble.load_posteriors(tmp_path / "old.npz")
    assert old.values.dtype == np.float32
    assert f"{tmp_path / 'old.npz'} holds float16" in caplog.text
    assert old.values.tolist() == [[0.25, 0.75], [1, 2.0**-25]]
    assert ensemble.error_rates([old]).loss == pytest.approx((np.log(4) + 25 * np.log(2)) / 2)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (made([[1, 0, 0]] * 2), "they have 2 and 3 classes"),
        (made([[1, 0]] * 2, classes="y"), "both have 2 classes, but different ones"),
        (made([[1, 0]] * 3), "split val with 2 images and of split val with 3"),
        (made([[1, 0]] * 2, split="test"), "split val with 2 images and of split test with 2"),
        (
            made([[1, 0]] * 2, ids=[0, 2]),
            "both are of 2 images of split val, but of different ones",
        ),
        (made([[1, 0]] * 2, labels=[0, 1]), "but of different ones"),
    ],
)
def test_posteriors_of_different_images_or_classes_are_an_error(other, problem):
    for function in (ensemble.average_posteriors, ensemble.error_rates):
        with pytest.raises(ensemble.PosteriorsError, match=problem):
            function([made([[0.5, 0.5]] * 2), other])
        with pytest.raises(ensemble.PosteriorsError, match="name one file or more"):
            function([])


def test_errors_of_missing_and_wrong_files_say_how_to_make_them(tmp_path):
    with pytest.raises(FileError, match=r"none.npz is missing.*jaxcnn evaluate"):
        ensemble.load_posteriors(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", values=np.zeros(3))
    facts = np.array('{"classes": "x", "protocol": "centre", "split": "val"}')
    right = {"ids": np.arange(2), "labels": np.arange(2), "values": np.zeros((2, 3), np.float32)}
    np.savez(tmp_path / "wide.npz", facts=facts, **right | {"values": np.zeros((2, 3))})
    np.savez(tmp_path / "short.npz", facts=facts, **right | {"ids": np.arange(3)})
    np.savez(tmp_path / "nameless.npz", facts=np.array('{"classes": "x"}'), **right)
    np.savez(tmp_path / "right.npz", facts=facts, **right)
    assert len(ensemble.load_posteriors(tmp_path / "right.npz").ids) == 2
    for name in ("text", "other", "wide", "short", "nameless"):
        with pytest.raises(
            FileError, match=rf"{name}.npz .*is not (valid|a readable).*jaxcnn evaluate"
        ):
            ensemble.load_posteriors(tmp_path / f"{name}.npz")
