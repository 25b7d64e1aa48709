"""Preprocessing on the device: colour jitter, PCA lighting, mean and flip, keyed by example."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image, ImageEnhance

from jaxcnn.data.pixel_statistics import IMAGENET, Statistics, eigen
from jaxcnn.parallel import make_placement
from jaxcnn.preprocessing import (
    ORDERS,
    Augment,
    augment_batch,
    color_jitter,
    draw_color_jitter,
    example_keys,
    flip_mask,
    make_preprocess,
    normals,
    pca_lighting,
    subtract_mean,
)

MEAN = (123.68, 116.779, 103.939)
ZERO = (0.0, 0.0, 0.0)

# papers.md 1.8: Krizhevsky's statistics, components in rows.
DEVIATIONS = np.array([121.780061, 37.093889, 19.720833])
COMPONENTS = np.array(
    [
        [-0.56351045, -0.5761844, -0.59200296],
        [-0.71257945, -0.02354167, 0.70119634],
        [0.41795513, -0.81698062, 0.39731118],
    ]
)


def batch_of(images, epoch=0, box=None):
    count, side = len(images), images.shape[1]
    return {
        "image": jnp.asarray(images),
        "epoch": jnp.full(count, epoch, jnp.int32),
        "id": jnp.arange(count, dtype=jnp.int32),
        "box": jnp.asarray(np.tile([0, 0, side, side], (count, 1)) if box is None else box),
    }


def images(count, side=6):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def keys(count, seed=0):
    return example_keys(jax.random.key(seed), jnp.zeros(count, int), jnp.arange(count))


def preprocess(batch, data_statistics=None, seed=3, **settings):
    device_preprocess = make_preprocess(Augment(**{"mean": ZERO} | settings), data_statistics)
    augment = jax.jit(lambda key, batch: augment_batch(key, batch, device_preprocess))
    return np.asarray(augment(jax.random.key(seed), batch))


# The mean.


def test_rgb_mean_is_subtracted_by_channel_without_division():
    out = subtract_mean(jnp.asarray(images(2)), np.float32(MEAN), batch_of(images(2))["box"])
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.float32(images(2)) - np.float32(MEAN), rtol=1e-6)


def squares(side=8):
    """Statistics whose mean image has a different value at each row, column and channel."""
    image = np.arange(side * side * 3, dtype=np.float32).reshape(side, side, 3)
    return Statistics(np.full(3, 100.0), np.eye(3), image, {})


def test_mean_image_is_cropped_like_the_image():
    box = [[0, 2, 6, 6], [2, 0, 6, 6], [1, 1, 6, 6]]
    batch, mean = batch_of(images(3), box=box), squares().mean_image
    out = subtract_mean(batch["image"], mean, batch["box"])
    for view, image, (top, left, _, _) in zip(out, images(3), box, strict=True):
        np.testing.assert_array_equal(
            view, np.float32(image) - mean[top : top + 6, left : left + 6]
        )


def test_mean_image_is_subtracted_before_the_flip():
    settings = {
        "mean": "per_pixel",
        "statistics": "auto",
        "sampling": "random_crop_in_square",
        "scale": (8, 8),
    }
    batch = batch_of(images(2), box=[[1, 2, 6, 6], [0, 0, 6, 6]])
    plain = preprocess(batch, squares(), flip=0.0, **settings)
    np.testing.assert_array_equal(
        preprocess(batch, squares(), flip=1.0, **settings), plain[:, :, ::-1, :]
    )


def test_mean_rgb_comes_from_the_statistics():
    batch = batch_of(images(2))
    out = preprocess(batch, squares(), flip=0.0, mean="rgb", statistics="auto")
    np.testing.assert_array_equal(out, np.float32(images(2)) - 100)


def test_a_mean_image_of_another_side_is_refused():
    augment = Augment(
        mean="per_pixel", statistics="auto", sampling="random_crop_in_square", scale=(9, 9)
    )
    with pytest.raises(ValueError, match=r"at scale 9 needs a mean image of side 9.*side 8"):
        make_preprocess(augment, squares(8))
    with pytest.raises(ValueError, match="no mean image"):
        make_preprocess(augment, IMAGENET)


# Flips.


@pytest.mark.parametrize(("probability", "low", "high"), [(0.5, 0.47, 0.53), (0.2, 0.17, 0.23)])
def test_flip_probability(probability, low, high):
    assert low < flip_mask(keys(4000), probability).mean() < high


def test_output_is_the_image_or_its_flip():
    out, plain = preprocess(batch_of(images(64))), np.float32(images(64))
    same = [np.array_equal(o, p) for o, p in zip(out, plain, strict=True)]
    other = [np.array_equal(o, p[:, ::-1]) for o, p in zip(out, plain, strict=True)]
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 0 < sum(same) < 64
    np.testing.assert_array_equal(preprocess(batch_of(images(64)), flip=0.0), plain)
    np.testing.assert_array_equal(preprocess(batch_of(images(64)), flip=1.0), plain[:, :, ::-1])


# K1: PCA lighting.


@pytest.mark.parametrize(
    ("reading", "expected"),
    [("unit", (-3.0723, -3.3696, -3.6201)), ("deviation", (-5.3760, -7.2953, -8.3532))],
)
def test_k1_shift_by_hand(reading, expected):
    shifts = pca_lighting(DEVIATIONS**2, COMPONENTS.T, reading)
    np.testing.assert_allclose(np.array([0.1, -0.05, 0.02]) @ shifts, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("reading", "expected"), [("unit", (3.3, 3.4, 3.5)), ("deviation", (7.4, 7.2, 7.7))]
)
def test_k1_standard_deviation_of_the_shifts(reading, expected):
    flat = np.zeros((8000, 1, 1, 3), np.uint8)
    shifts = preprocess(batch_of(flat), IMAGENET, pca=reading, flip=0.0)[:, 0, 0]
    np.testing.assert_allclose(shifts.std(axis=0), expected, rtol=0.03)
    np.testing.assert_allclose(shifts.mean(axis=0), 0, atol=0.3)


def test_k1_shipped_statistics_are_krizhevskys():
    values, vectors = eigen(IMAGENET)
    np.testing.assert_allclose(values, DEVIATIONS**2, rtol=1e-5)
    np.testing.assert_allclose(np.abs(vectors.T), np.abs(COMPONENTS), atol=1e-5)
    np.testing.assert_allclose(IMAGENET.mean, (127.305, 119.715, 104.913), atol=1e-3)


def test_k1_one_draw_per_image_and_epoch():
    difference = preprocess(batch_of(images(16)), IMAGENET, pca="unit", flip=0.0) - np.float32(
        images(16)
    )
    assert np.ptp(difference, axis=(1, 2)).max() < 1e-4
    assert len(np.unique(difference[:, 0, 0, 0].round(3))) == 16
    again = preprocess(batch_of(images(16), epoch=1), IMAGENET, pca="unit", flip=0.0)
    assert (np.abs(again - np.float32(images(16)) - difference).max(axis=(1, 2, 3)) > 1e-3).all()


# K2: Howard's colour jitter.

BRIGHTNESS, COLOUR, CONTRAST = ORDERS.index((0, 1, 2)), 1, 2


jitter_batch = jax.jit(color_jitter)


def jitter(image, factors, order=0):
    """Applies `color_jitter` to one image."""
    out = jitter_batch(
        jnp.float32(image)[None], jnp.float32(factors)[None], jnp.array([order], jnp.int32)
    )
    return np.asarray(out[0])


def test_k2_factor_one_is_the_identity():
    for order in range(6):
        np.testing.assert_allclose(jitter(images(1)[0], (1, 1, 1), order), images(1)[0], atol=1e-4)


def test_k2_brightness_scales_and_then_clips():
    image = images(1)[0]
    np.testing.assert_allclose(jitter(image, (0.7, 1, 1)), 0.7 * image, atol=1e-4)
    np.testing.assert_allclose(jitter(image, (1.4, 1, 1)), np.minimum(1.4 * image, 255), atol=1e-4)


def test_k2_colour_leaves_grey_and_contrast_leaves_a_constant():
    grey = np.repeat(images(1)[0][:, :, :1], 3, axis=2)
    np.testing.assert_allclose(jitter(grey, (1, 0.5, 1)), grey, atol=1e-4)
    plain = np.full((6, 6, 3), 77, np.uint8)
    np.testing.assert_allclose(jitter(plain, (1, 1, 1.5)), plain, atol=1e-4)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.3, 1.5])
@pytest.mark.parametrize(
    ("position", "enhance"),
    [(0, ImageEnhance.Brightness), (1, ImageEnhance.Color), (2, ImageEnhance.Contrast)],
)
def test_k2_agrees_with_pillow(position, enhance, factor):
    """Up to Pillow's rounding to whole grey levels."""
    image = images(1, side=16)[0]
    expected = np.asarray(enhance(Image.fromarray(image)).enhance(factor), np.float32)
    factors = [factor if i == position else 1.0 for i in range(3)]
    assert np.abs(jitter(image, factors) - expected).max() < 1.51


def test_k2_all_six_orders_occur_and_differ():
    factors, order = jax.jit(lambda keys: draw_color_jitter(keys, (0.5, 1.5)))(keys(6000))
    counts = np.bincount(order, minlength=6)
    assert counts.sum() == 6000
    assert (np.abs(counts - 1000) < 150).all(), counts
    assert (factors >= 0.5).all() and (factors <= 1.5).all()  # noqa: PT018
    np.testing.assert_allclose(factors.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(factors.std(axis=0), 1 / np.sqrt(12), atol=0.01)
    assert sorted(ORDERS) == sorted(set(ORDERS))
    outcomes = [jitter(images(1)[0], (1.5, 0.5, 1.4), order) for order in range(6)]
    for i in range(6):
        assert all(np.abs(outcomes[i] - outcomes[j]).max() > 1 for j in range(i))


# Draws depend only on (seed, epoch, id).

EVERYTHING = {"color_jitter": (0.5, 1.5), "pca": "deviation", "mean": MEAN}


def test_draws_depend_only_on_seed_epoch_and_id():
    device_preprocess = make_preprocess(Augment(**EVERYTHING), IMAGENET)
    augment = jax.jit(lambda key, batch: augment_batch(key, batch, device_preprocess))
    batch, key = batch_of(images(32)), jax.random.key(3)
    whole = np.asarray(augment(key, batch))
    order = np.random.default_rng(9).permutation(32)
    permuted = augment(key, {k: v[order] for k, v in batch.items()})
    # XLA may vectorize another row otherwise: float32 rounding of values up to 255.
    np.testing.assert_allclose(permuted, whole[order], atol=1e-3)
    for other in (augment(key, batch_of(images(32), epoch=1)), augment(jax.random.key(4), batch)):
        assert (np.abs(other - whole).max(axis=(1, 2, 3)) > 0.1).all()


def on_devices(count, function, *arguments):
    """Calls a jitted function with arguments sharded over `count` devices."""
    placement = make_placement(data=count)
    sharded = NamedSharding(placement.mesh, PartitionSpec("data"))
    put = jax.device_put(arguments, sharded)
    return jax.tree.map(np.asarray, jax.jit(function, out_shardings=sharded)(*put))


def test_draws_are_equal_on_any_number_of_devices():
    def draws(epochs, ids):
        mine = example_keys(jax.random.key(3), epochs, ids)
        return flip_mask(mine, 0.4), draw_color_jitter(mine, (0.5, 1.5)), normals(mine)

    arguments = (np.full(16, 2, np.int32), np.arange(16, dtype=np.int32))
    for one, many in zip(
        *(jax.tree.leaves(on_devices(n, draws, *arguments)) for n in (1, 8)), strict=True
    ):
        if one.dtype == np.float32:  # a compiler may round the last step of a draw otherwise
            np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-6)
        else:
            np.testing.assert_array_equal(many, one)


PER_PIXEL = {
    "mean": "per_pixel",
    "statistics": "auto",
    "sampling": "random_crop_in_square",
    "scale": (8, 8),
}


def test_batches_are_equal_on_any_number_of_devices():
    """Up to float32 rounding: XLA orders the arithmetic by the shapes on a device."""
    statistics = dataclasses.replace(squares(), covariance=IMAGENET.covariance)
    device_preprocess = make_preprocess(Augment(**EVERYTHING | PER_PIXEL), statistics)
    batch = batch_of(images(16), box=np.random.default_rng(1).integers(0, 3, (16, 4)))

    def augment(batch):
        return augment_batch(jax.random.key(3), batch, device_preprocess)

    one, eight = (on_devices(count, augment, batch) for count in (1, 8))
    # Some ten operations on values up to 255, each rounded to 24 bits.
    np.testing.assert_allclose(eight, one, atol=1e-3)
    assert np.ptp(one) > 100


# Bad input.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": (0, 5)}, "scale"),
        ({"scale": (9, 5)}, "scale"),
        ({"mean": (300.0, 0.0, 0.0)}, "mean"),
        ({"mean": "pixel"}, "'rgb' or 'per_pixel', got 'pixel'"),
        ({"flip": 1.5}, r"probability and must lie in \[0, 1\], got 1.5"),
        ({"color_jitter": (1.5, 0.5)}, "lowest <= highest"),
        ({"pca": "byte"}, "1480 grey levels"),
        ({"pca": "pca"}, "one of off, unit, deviation"),
        ({"pca_std": -0.1}, "pca_std"),
        ({"interpolation": ("lanczos",)}, "interpolation"),
        ({"aspect": (1.4, 0.7)}, "aspect"),
        ({"area": (0.0, 1.0)}, "area"),
        ({"sampling": "crop"}, "sampling"),
        ({"mean": "per_pixel", "statistics": "auto"}, "sampling='random_crop_in_square'"),
        (
            {
                "mean": "per_pixel",
                "statistics": "auto",
                "sampling": "random_crop_in_square",
                "scale": (9, 12),
            },
            "one scale",
        ),
        (
            {"mean": "per_pixel", "sampling": "random_crop_in_square"},
            "statistics='imagenet' is not computed",
        ),
        ({"mean": "rgb"}, "statistics='imagenet' is not computed"),
        ({"color_jitter": (0.5, float("inf"))}, "color_jitter"),
        ({"pca_std": float("nan")}, "pca_std"),
        ({"statistics": ""}, "statistics"),
        ({"interpolation": ("area", "area")}, "a filter twice"),
        ({"sampling": "center_crop", "scale": (9, 12)}, "needs one scale"),
    ],
)
def test_invalid_values_are_errors(wrong, said):
    with pytest.raises(ValueError, match=said):
        Augment(**wrong)


def test_all_errors_are_reported_together():
    with pytest.raises(ValueError) as caught:
        Augment(area=(0.5, 2.0), flip=1.5, color_jitter=(1.5, 0.5), pca="byte")
    for said in ("area must", "flip is a probability", "color_jitter must", "1480 grey levels"):
        assert said in str(caught.value)


def test_missing_statistics_are_an_error():
    with pytest.raises(ValueError, match="needs statistics"):
        make_preprocess(Augment(pca="unit"), None)
    assert make_preprocess(Augment(), None).shifts is None
