"""Posteriors as files and their mean: equal to judging the mean of the nets, and what is refused."""

import dataclasses

import numpy as np
import pytest

from jaxcnn.data import EvalLoader
from jaxcnn.evaluation import Tally, choose_crops, ensemble, posteriors
from jaxcnn.evaluation.protocols import CenterCrop, Dense, MultiCrop, MultiCropDense, TenCrops
from tests.evaluation.small import Images, forward_of, judge, net_and_params

SIZES = [(40, 40), (44, 61), (70, 43), (33, 64), (90, 40), (41, 42), (60, 31)] * 3


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


def test_the_mean_of_two_nets_is_that_of_judging_both():
    """Files of float32 against float64 posteriors straight from the nets."""
    source, kinds = Images(SIZES), {"vgg": Dense(scales=(37,)), "googlenet": TenCrops(scale=37)}
    saved = [judge(name, source, protocol).posteriors for name, protocol in kinds.items()]
    means = np.zeros((len(source), 5))
    for name, protocol in kinds.items():
        net, params = net_and_params(name)
        forward = forward_of(net)
        with EvalLoader(source, choose_crops(forward, protocol)) as pictures:
            for picture, values in posteriors(forward, params, pictures, protocol):
                means[picture.position] += np.exp(values) / 2
    tally = Tally()
    tally.add(means.astype(np.float32), np.arange(len(source)) % 5)
    direct, fused = tally.result("mean", "val", len(source)), ensemble.error_rates(saved)
    assert (fused.n, fused.top1, fused.top5) == (21, direct.top1, direct.top5)
    assert fused.loss == pytest.approx(direct.loss, rel=1e-6)
    np.testing.assert_allclose(ensemble.average_posteriors(saved).values, means, rtol=1e-5)


def test_multi_crop_and_dense_fused_are_the_protocol_of_both():
    source, scales = Images(SIZES[:7]), (37, 48)
    crops = judge("vgg", source, MultiCrop(scales=scales)).posteriors
    dense = judge("vgg", source, Dense(scales=scales)).posteriors
    both = judge("vgg", source, MultiCropDense(scales=scales)).posteriors
    np.testing.assert_allclose(
        ensemble.average_posteriors([crops, dense]).values, both.values, rtol=1e-5
    )


def test_one_file_gives_the_rates_that_were_reported():
    found = judge("vgg", Images(SIZES), CenterCrop(scale=37))
    again = ensemble.error_rates([found.posteriors])
    assert dataclasses.astuple(again) == dataclasses.astuple(found.result)  # the loss too, exactly


def test_a_file_holds_what_was_saved(tmp_path):
    whole = judge("vgg", Images(SIZES), CenterCrop(scale=37)).posteriors
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
        "a step 3 centre(37->32)",
    )


def test_the_mean_weighs_each_the_same_by_hand():
    a, b, c = made([[0.5, 0.5]]), made([[1.0, 0.0]]), made([[0.0, 1.0]], protocol="dense")
    assert ensemble.average_posteriors([a, b, c]).values.tolist() == [[0.5, 0.5]]
    assert ensemble.average_posteriors([a, b]).values.tolist() == [[0.75, 0.25]]
    assert ensemble.average_posteriors([a, b, c]).name == "centre + centre + dense"
    # A mean of means is fused on: its weight is one file's.
    assert ensemble.average_posteriors(
        [ensemble.average_posteriors([a, b]), c]
    ).values.tolist() == [[0.375, 0.625]]
    assert ensemble.error_rates([b, c]).loss == pytest.approx(np.log(2), rel=1e-6)
    # 0 in float32 counts as half of float32's smallest number.
    assert ensemble.error_rates([c]).loss == pytest.approx(150 * np.log(2))


def test_a_file_of_float16_still_loads(tmp_path):
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
    assert old.values.tolist() == [[0.25, 0.75], [1, 2.0**-25]]
    assert ensemble.error_rates([old]).loss == pytest.approx((np.log(4) + 25 * np.log(2)) / 2)


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        (made([[1, 0, 0]] * 2), "they are of 2 and 3 classes"),
        (made([[1, 0]] * 2, classes="y"), "both have 2 classes, but not the same ones"),
        (made([[1, 0]] * 3), "split val with 2 images and of split val with 3"),
        (made([[1, 0]] * 2, split="test"), "split val with 2 images and of split test with 2"),
        (
            made([[1, 0]] * 2, ids=[0, 2]),
            "both are of 2 images of split val, but not of the same ones",
        ),
        (made([[1, 0]] * 2, labels=[0, 1]), "not of the same ones"),
    ],
)
def test_what_is_not_alike_is_refused(other, problem):
    for together in (ensemble.average_posteriors, ensemble.error_rates):
        with pytest.raises(ensemble.PosteriorsError, match=problem):
            together([made([[0.5, 0.5]] * 2), other])
        with pytest.raises(ensemble.PosteriorsError, match="name one file or more"):
            together([])


def test_files_that_hold_no_posteriors_say_how_to_make_them(tmp_path):
    with pytest.raises(ensemble.PosteriorsError, match=r"no file of posteriors.*cli\.evaluate"):
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
        with pytest.raises(ensemble.PosteriorsError, match="no readable file of posteriors"):
            ensemble.load_posteriors(tmp_path / f"{name}.npz")
