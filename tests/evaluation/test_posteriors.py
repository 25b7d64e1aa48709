"""Posteriors of protocols against the plain net, one crop at a time; exact counts; extreme images.

papers.md section 6: E1, E5, E6 and the order of averages (E4). A padded, transposed batch of whole images
equals each image alone.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.data.crops import rescaled_size
from jaxcnn.data.decode import peek
from jaxcnn.data.eval_loader import decode_eval_crops
from jaxcnn.evaluation import evaluate, read_protocol
from jaxcnn.evaluation.buckets import RATIOS, bucket, pad_to_bucket, transpose_kernels
from jaxcnn.evaluation.posteriors import choose_crops
from jaxcnn.evaluation.protocols import (
    CenterCrop,
    Crops144,
    Dense,
    MultiCrop,
    TenCrops,
)
from jaxcnn.models import build
from tests.evaluation.small import (
    CLASSES,
    MEAN,
    SMALL,
    Images,
    evaluate_small,
    forward_of,
    net_and_params,
)
from tests.models.narrow import quick_jit, short_googlenet

# Squares, landscapes and portraits of the same buckets, and one of ten to one.
SIZES = [(40, 40), (44, 61), (70, 43), (45, 62), (72, 44), (41, 41), (300, 31)]


@pytest.fixture(autouse=True, scope="module")
def three_modules():
    with short_googlenet():
        yield


@functools.cache
def compiled(net, method=None):
    return quick_jit(lambda params, *inputs: net.apply({"params": params}, *inputs, method=method))


def plain_posterior(net, params, view, mean=MEAN):
    logits, _ = compiled(net)(params, jnp.asarray(view[None].astype(np.float32) - mean))
    return softmax(logits[0])


def softmax(scores):
    exponentials = np.exp(np.asarray(scores, np.float64))
    return exponentials / exponentials.sum()


def dense_posterior(net, params, image):
    """Of one image, not padded or transposed: scores averaged over positions, then softmax."""
    images = jnp.asarray(image[None].astype(np.float32) - MEAN)
    sizes = jnp.asarray([image.shape[:2]], jnp.int32)
    scores, valid = compiled(net, "score_map")(params, images, sizes)
    assert np.asarray(valid).all()
    return softmax(np.asarray(scores[0], np.float64).mean((0, 1)))


def reference(net, params, source, index, protocol):
    """The mean posterior by its definition, crop by crop."""
    total = np.zeros(CLASSES)
    crops = protocol.crops(*source.pixels[index].shape[:2], net.image_size)
    encoded = source.read(index)[0]
    pixels = decode_eval_crops(encoded, peek(encoded), [crop.crop for crop in crops])
    for crop in crops:
        view = pixels[crop.crop][:, ::-1] if crop.mirror else pixels[crop.crop]
        posterior = dense_posterior if crop.dense else plain_posterior
        total += crop.weight * posterior(net, params, view)
    return total


@pytest.mark.parametrize("text", SMALL)
def test_posterior_is_the_mean_over_the_crops(text):
    net, params = net_and_params("vgg")
    source, protocol = Images(SIZES[1:3]), read_protocol(text, net.image_size)
    found = evaluate_small("vgg", source, protocol)
    assert found.posteriors.ids.tolist() == [10, 11]
    for index, values in enumerate(found.posteriors.values):
        expected = reference(net, params, source, index, protocol)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)
    assert np.ptp(found.posteriors.values, axis=0).max() > 0.01  # images do differ


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("vgg", [(32, 69), (97, 32)]),
        # A portrait is both padded and transposed.
        ("alexnet", [(217, 72)]),
        ("googlenet", [(97, 32)]),
        pytest.param("vgg", [(41, 52)], marks=pytest.mark.slow),
        pytest.param("alexnet", [(72, 149), (81, 92)], marks=pytest.mark.slow),
        pytest.param("googlenet", [(32, 69), (41, 52)], marks=pytest.mark.slow),
    ],
)
def test_padded_transposed_batch_equals_each_image_alone(name, sizes):
    net, params = net_and_params(name)
    forward = forward_of(net, batch_size=10)
    worst = 0.0
    for height, width in sizes:
        image = Images([(height, width)]).pixels[0]
        shape = bucket(height, width)
        batch = forward.empty(shape)
        batch["image"][1], batch["size"][1] = pad_to_bucket(image, shape)
        oriented = transpose_kernels(params) if height > width else params
        images = jnp.asarray(batch["image"].astype(np.float32) - MEAN)
        score_map = compiled(net, "score_map")
        scores, valid = score_map(oriented, images, jnp.asarray(batch["size"]))
        alone, _ = score_map(
            params,
            jnp.asarray(image[None].astype(np.float32) - MEAN),
            jnp.asarray([[height, width]], jnp.int32),
        )
        alone = np.asarray(alone[0])
        alone = alone.transpose(1, 0, 2) if height > width else alone
        assert not valid[0].any()
        h, w = alone.shape[:2]
        assert valid[1].sum() == h * w
        difference = np.abs(np.asarray(scores[1, :h, :w]) - alone).max()
        worst = max(worst, difference / np.abs(alone).max())
    assert worst < 1e-5


def test_dense_at_the_nets_size_equals_the_centre_crop():
    source = Images([(32, 32)] * 3)
    dense = evaluate_small("vgg", source, Dense(scales=(32,), flip=False))
    centre = evaluate_small("vgg", source, CenterCrop(scale=32))
    # Two programs: the sums of the fully connected layers may round differently.
    np.testing.assert_allclose(dense.posteriors.values, centre.posteriors.values, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "ten_crops scale=40",
        "dense scales=(40,)",
        "multi_crop scales=(40,)",
        "multi_crop_dense scales=(40,)",
        "crops_144 scales=(40,)",
    ],
)
def test_mirrored_image_has_the_same_posterior(text):
    """Where crops lie symmetrically: an odd margin has its extra pixel on one side."""
    protocol = read_protocol(text, 32)
    source, mirrored = Images([(40, 60), (70, 40)]), Images([(40, 60), (70, 40)])
    mirrored.pixels = [np.ascontiguousarray(p[:, ::-1]) for p in source.pixels]
    values = [evaluate_small("vgg", s, protocol).posteriors.values for s in (source, mirrored)]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-4, atol=1e-6)


def test_equal_crops_are_computed_once():
    net, params = net_and_params("vgg")
    forward = forward_of(net, batch_size=8)
    source, protocol = Images([(32, 32)]), MultiCrop(scales=(32,))
    rows = []
    forward_call = type(forward).__call__

    class Counting(type(forward)):
        def __call__(self, params, shape, batch):
            rows.append(int(batch["image"].any(axis=(1, 2, 3)).sum()))
            return forward_call(self, params, shape, batch)

    forward.__class__ = Counting
    evaluate(forward, params, source, protocol, split="val")
    assert rows == [2]  # 50 crops are 25 copies of 2


def test_partial_batches_of_whole_images_are_merged():
    """A square image and one of 4:3 are one batch of the longer shape; each equals the image alone."""
    net, params = net_and_params("vgg")
    forward = forward_of(net, batch_size=12)
    source, protocol = Images([(40, 40), (40, 53)]), Dense(scales=(40,))
    found = evaluate(forward, params, source, protocol, split="val", keep=True)
    assert [(shape.height, shape.width) for shape in forward.compiled] == [(40, 55)]
    for index, values in enumerate(found.posteriors.values):
        expected = reference(net, params, source, index, protocol)
        np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [  # crops, and crops and whole images
        pytest.param(
            text, marks=() if text.startswith(("ten", "multi_crop_d")) else pytest.mark.slow
        )
        for text in SMALL
    ],
)
def test_eight_devices_count_seven_images_as_one_device_does(text):
    found = evaluate_small("vgg", Images(SIZES), read_protocol(text, 32), batch_size=8, devices=8)
    assert found.result.n == 7
    alone = evaluate_small("vgg", Images(SIZES), read_protocol(text, 32), batch_size=8, devices=1)
    assert (found.result.n, found.result.top1, found.result.top5) == (
        alone.result.n,
        alone.result.top1,
        alone.result.top5,
    )
    assert found.result.loss == pytest.approx(alone.result.loss, rel=1e-5)


def test_corrupt_image_is_evaluated_as_grey_and_counted():
    found = evaluate_small("vgg", Images(SIZES, broken=(2,)), Dense(scales=(32,)))
    assert found.result.n == 7
    assert found.corrupt == ["image 2"]
    grey = np.full((32, 32, 3), 128, np.uint8)
    expected = dense_posterior(*net_and_params("vgg"), grey)
    np.testing.assert_allclose(found.posteriors.values[2], expected, rtol=1e-4)


def test_mean_image_is_subtracted_from_crops_of_the_square_only():
    """AlexNet's: at each crop's place, before mirroring; from other images its mean is subtracted."""
    rng = np.random.default_rng(3)
    mean = rng.uniform(0, 255, (40, 40, 3)).astype(np.float32)
    net, params = net_and_params("vgg")
    source = Images([(40, 50)])
    found = evaluate_small("vgg", source, TenCrops(scale=40), mean=mean)
    square = source.pixels[0][:, 5:45].astype(np.float32) - mean
    total = np.zeros(CLASSES)
    for top, left in ((0, 0), (0, 8), (8, 0), (8, 8), (4, 4)):
        view = square[top : top + 32, left : left + 32]
        for one in (view, view[:, ::-1]):
            total += plain_posterior(net, params, one, 0.0) / 10
    np.testing.assert_allclose(found.posteriors.values[0], total, rtol=1e-4, atol=1e-6)
    flat = evaluate_small("vgg", source, Dense(scales=(40,)), mean=mean)
    rgb = evaluate_small("vgg", source, Dense(scales=(40,)), mean=mean.mean((0, 1)))
    np.testing.assert_array_equal(flat.posteriors.values, rgb.posteriors.values)


def test_mean_image_of_another_side_is_an_error():
    with pytest.raises(
        ValueError, match=r"ten_crops\(48->32\).*mean image has a side of 40.*scale=40"
    ):
        evaluate_small(
            "vgg", Images(SIZES), TenCrops(scale=48), mean=np.zeros((40, 40, 3), np.float32)
        )


def test_dense_needs_a_net_of_any_size():
    net = build("cuda_convnet")
    with pytest.raises(ValueError, match=r"dense\(24\).*CudaConvNet only takes 24 x 24"):
        evaluate(forward_of(net), {}, Images(SIZES), Dense(scales=(24,)), split="val")


def test_all_sizes_of_a_scale_share_eight_shapes():
    """5,000 random sizes up to 32 to 1, landscapes and portraits."""
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(5000):
        short = int(rng.integers(1, 1000))
        size = [short, int(short * np.exp(rng.uniform(0, np.log(31.9))))]
        rng.shuffle(size)
        shapes.add(bucket(*rescaled_size(*size, 256)))
    assert len(shapes) <= 8
    assert len(RATIOS) == 8


@pytest.mark.parametrize("size", [(64, 640), (640, 64), (333, 500), (500, 375), (1, 30)])
def test_buckets_hold_their_images(size):
    for scale in (224, 256, 288, 341, 384, 512):
        tall, wide = rescaled_size(*size, scale)
        shape = bucket(tall, wide)
        assert shape.height == scale
        assert shape.width >= max(tall, wide)
        # Usual aspect ratios have almost no padding.
        if size in ((333, 500), (500, 375)):
            assert shape.width <= max(tall, wide) + 2


def test_images_of_extreme_aspect_ratios():
    """Ten to one is evaluated like any other; forty to one is reported, evaluated as grey and counted."""
    found = evaluate_small("vgg", Images([(32, 320), (320, 32), (20, 800)]), Dense(scales=(32,)))
    assert found.result.n == 3
    assert found.corrupt == ["image 2"]
    net, _ = net_and_params("vgg")
    with pytest.raises(ValueError, match=r"its aspect ratio is 40 to 1.*at most 32 to 1"):
        choose_crops(forward_of(net), Dense(scales=(32,)))(20, 800)
    crops = evaluate_small("vgg", Images([(20, 800)]), Crops144(scales=(32, 40)))
    assert not crops.corrupt


def test_scores_are_averaged_before_the_softmax():
    net, params = net_and_params("vgg")
    source = Images([(65, 40)])
    found = evaluate_small("vgg", source, Dense(scales=(40,), flip=False)).posteriors.values[0]
    images = jnp.asarray(source.pixels[0][None].astype(np.float32) - MEAN)
    sizes = jnp.asarray([[65, 40]], jnp.int32)
    scores = np.asarray(compiled(net, "score_map")(params, images, sizes)[0])[0, :, 0]
    assert scores.shape == (2, CLASSES)
    assert np.abs(found - np.mean([softmax(cell) for cell in scores], axis=0)).max() > 1e-3
    np.testing.assert_allclose(found, softmax(scores.mean(axis=0)), rtol=1e-4)
