"""Crops of each protocol: counts, mirrors, weights (papers.md section 6, C1, E6); wrong settings."""

import collections

import pytest

from jaxcnn.config import ConfigError
from jaxcnn.evaluation import PROTOCOLS, read_protocol
from jaxcnn.evaluation.protocols import (
    CenterCrop,
    Crops144,
    Dense,
    MultiCrop,
    MultiCropDense,
    TenCrops,
)

LANDSCAPE = (375, 500)
# Protocol, and its number of crops of an image that is not square; all of them differ.
COUNTS = [
    (CenterCrop(), 1),
    (TenCrops(), 10),
    (Dense(), 2),
    (Dense(flip=False), 1),
    (Dense(scales=(256, 384, 512)), 6),
    (MultiCrop(), 50),
    (MultiCrop(scales=(256, 384, 512)), 150),
    (MultiCrop(grid=3, flip=False), 9),
    (MultiCropDense(scales=(256, 384, 512)), 156),
    (Crops144(), 144),
]
each = pytest.mark.parametrize(("protocol", "count"), COUNTS, ids=str)


def test_every_protocol_has_a_count():
    assert {type(protocol) for protocol, _ in COUNTS} == {*PROTOCOLS.values()}


@each
@pytest.mark.parametrize("size", [LANDSCAPE, LANDSCAPE[::-1]], ids=["landscape", "portrait"])
def test_counts(protocol, count, size):
    crops = protocol.crops(*size, 224)
    assert len(crops) == count
    assert len({crop._replace(weight=0) for crop in crops}) == count
    assert sum(crop.weight for crop in crops) == pytest.approx(1, abs=1e-12)


@each
def test_every_crop_has_its_mirror(protocol, count):
    if not protocol.flip:
        assert count == 1 or not any(crop.mirror for crop in protocol.crops(*LANDSCAPE, 224))
        return
    crops = protocol.crops(*LANDSCAPE, 224)
    plain = collections.Counter((crop.crop, crop.dense) for crop in crops if not crop.mirror)
    assert plain == collections.Counter((crop.crop, crop.dense) for crop in crops if crop.mirror)


def test_crops_lie_inside_the_image():
    for protocol, _ in COUNTS:
        for size in (LANDSCAPE, LANDSCAPE[::-1], (300, 300), (30, 299), (1, 1)):
            for crop, *_ in protocol.crops(*size, 224):
                top, left, height, width = crop.box
                tall, wide = protocol_size(*size, crop.scale)
                assert min(top, left) >= 0
                assert top + height <= tall
                assert left + width <= wide


def protocol_size(height, width, scale):
    short, long = sorted((height, width))
    longer = int(long * scale / short + 0.5)
    return (scale, longer) if height <= width else (longer, scale)


def test_fifty_crops_of_an_image_of_224_are_25_copies_of_two():
    counts = collections.Counter(
        crop._replace(weight=0) for crop in MultiCrop(scales=(224,)).crops(224, 224, 224)
    )
    assert sorted(counts.values()) == [25, 25]


def test_crops_of_a_square_image_are_48_different_ones():
    crops = Crops144().crops(300, 300, 224)
    counts = collections.Counter(crop._replace(weight=0) for crop in crops)
    assert [*counts.values()] == [3] * 48


def test_multi_crop_and_dense_have_equal_weight():
    crops = MultiCropDense(scales=(256, 384)).crops(*LANDSCAPE, 224)
    assert sum(crop.weight for crop in crops if crop.dense) == pytest.approx(0.5)
    assert {crop.weight for crop in crops if crop.dense} == {1 / 8}


@pytest.mark.parametrize(
    ("protocol", "label"),
    [
        (CenterCrop(), "centre(256->224)"),
        (TenCrops(), "ten_crops(256->224)"),
        (Dense(scales=(224, 256, 288)), "dense(224,256,288)"),
        (Dense(flip=False), "dense(256, no flip)"),
        (MultiCrop(scales=(256, 384)), "multi_crop(256,384->224)"),
        (MultiCrop(grid=3, flip=False), "multi_crop(256->224, grid 3, no flip)"),
        (MultiCropDense(), "multi_crop_dense(256->224)"),
        (Crops144(), "crops_144(256,288,320,352->224)"),
    ],
)
def test_labels(protocol, label):
    assert protocol.label(224) == label


@pytest.mark.parametrize(
    ("text", "side", "label"),
    [
        ("dense", 224, "dense(256)"),
        ("dense", 56, "dense(64)"),
        ("crops_144", 56, "crops_144(64,72,80,88->56)"),
        ("ten_crops", 84, "ten_crops(96->84)"),
        ("ten_crops scale=256", 227, "ten_crops(256->227)"),
        ("ten_crops", 227, "ten_crops(256->227)"),  # as Caffe's AlexNet; not in proportion
        ("dense scales=(73,110,146) flip=false", 64, "dense(73,110,146, no flip)"),
        ("multi_crop grid=3", 224, "multi_crop(256->224, grid 3)"),
        ("dense scales=(256, 288) flip=True", 224, "dense(256,288)"),
    ],
)
def test_protocols_from_the_command_line(text, side, label):
    """Scales default to the papers', in proportion to the net's images."""
    assert read_protocol(text, side).label(side) == label


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dens", "unknown protocol 'dens'; did you mean dense"),
        ("", "unknown protocol ''.*valid: centre, ten_crops"),
        (
            "dense scale=256",
            r"dense has no 'scale=256'; did you mean scales=\? \(valid: scales=, flip=\)",
        ),
        ("dense scales", "dense has no 'scales'"),
        ("dense scales=256", r"dense scales must be tuple.*got 256; such as \(256,\)"),
        ("dense scales=(200,)", "dense at scale 200 is smaller than the net's images of 224 x 224"),
        ("crops_144 scales=(256,256)", r"scales must be different.*\(256, 256\)"),
        ("multi_crop grid=0", "grid must be 1 or more, got 0"),
        ("dense scales=()", "scales must be different and positive, one or more"),
    ],
)
def test_errors_of_wrong_settings(text, problem):
    with pytest.raises(ConfigError, match=problem):
        read_protocol(text, 224)
