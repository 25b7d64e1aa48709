"""What the device does to a batch: mean and flip, keyed by example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.pixels import Augment, augmented, centred, example_keys, flips

MEAN = (123.68, 116.779, 103.939)


def images(count):
    values = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), np.uint8)
    return jnp.asarray(values)


def test_mean_is_subtracted_by_channel_and_nothing_divided():
    out = centred(images(2), MEAN)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.asarray(images(2), np.float32) - np.float32(MEAN), rtol=1e-6)


def test_flips_mirror_about_half_of_the_views():
    drawn = flips(example_keys(jax.random.key(0), jnp.zeros(4000, int), jnp.arange(4000)))
    assert 0.46 < drawn.mean() < 0.54


def test_a_view_is_the_image_or_its_mirror():
    batch, ids = images(64), jnp.arange(64)
    out = augmented(
        jax.random.key(3), batch, jnp.zeros(64, int), ids, Augment(mean=(0.0, 0.0, 0.0))
    )
    plain, mirrored = np.asarray(batch, np.float32), np.asarray(batch[:, :, ::-1], np.float32)
    same = [np.array_equal(o, p) for o, p in zip(out, plain, strict=True)]
    other = [np.array_equal(o, m) for o, m in zip(out, mirrored, strict=True)]
    assert all(a != b for a, b in zip(same, other, strict=True))
    assert 0 < sum(same) < 64
    unflipped = augmented(
        jax.random.key(3), batch, jnp.zeros(64, int), ids, Augment(flip=False, mean=(0.0, 0.0, 0.0))
    )
    np.testing.assert_array_equal(unflipped, plain)


def test_draws_depend_on_seed_epoch_and_id_alone():
    key, ids = jax.random.key(0), jnp.arange(256)
    whole = flips(example_keys(key, jnp.full(256, 2), ids))
    order = jax.random.permutation(jax.random.key(9), 256)
    assert (flips(example_keys(key, jnp.full(256, 2), ids[order])) == whole[order]).all()
    assert (flips(example_keys(key, jnp.full(256, 3), ids)) != whole).any()
    assert (flips(example_keys(jax.random.key(1), jnp.full(256, 2), ids)) != whole).any()


@pytest.mark.parametrize(
    "wrong", [{"scale": (0, 5)}, {"scale": (9, 5)}, {"mean": (300.0, 0.0, 0.0)}]
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)
