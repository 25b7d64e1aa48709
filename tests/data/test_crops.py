import math
from collections import Counter

import numpy as np
import pytest

from jaxcnn.data.crops import rescaled_crop, rescaled_size
from jaxcnn.data.train_crops import (
    ASPECT_LAWS,
    INTERPOLATIONS,
    SAMPLINGS,
    Sampling,
    draw_train_crop,
)


@pytest.mark.parametrize(
    ("height", "width", "scale", "expected"),
    [
        (375, 500, 256, (256, 341)),  # 341.33
        (500, 375, 256, (341, 256)),
        (333, 500, 256, (256, 384)),  # 384.38
        (256, 256, 256, (256, 256)),
        (8, 8, 64, (64, 64)),
        (32, 48, 256, (256, 384)),
        (2, 3, 3, (3, 5)),  # 4.5: halves up
        (1, 10_000, 224, (224, 2_240_000)),
    ],
)
def test_rescaled_size(height, width, scale, expected):
    assert rescaled_size(height, width, scale) == expected


def test_shorter_side_is_exact_and_aspect_is_kept_to_a_pixel():
    for height in range(1, 400, 13):
        for width in range(1, 400, 17):
            for scale in (224, 256, 511):
                tall, wide = rescaled_size(height, width, scale)
                assert min(tall, wide) == scale
                assert abs(tall / height * width - wide) <= 0.5 * max(1, width / height)
                assert abs(wide / width * height - tall) <= 0.5 * max(1, height / width)


def test_region_is_the_crop_in_the_image_s_own_pixels():
    """40 x 60 at S = 20 is 20 x 30: two of the image's pixels for one."""
    crop = rescaled_crop(40, 60, scale=20, top=3, left=5, side=16)
    assert crop.region == (10.0, 6.0, 42.0, 38.0)
    crop = rescaled_crop(40, 60, scale=20, top=3, left=4, side=16, square=True)
    assert crop.region == (18.0, 6.0, 50.0, 38.0)  # the square begins at column 5 of 30, 10 of 60
    assert crop.box == (3, 4, 16, 16)
    # 3 x 2 at S = 4 is 6 x 4; 2 x 3 at S = 3 is 3 x 5, with 0.6 of a pixel across.
    assert rescaled_crop(3, 2, scale=4, top=2, left=0, side=4).region == (0.0, 1.0, 2.0, 3.0)
    assert rescaled_crop(2, 3, scale=3, top=0, left=1, side=3).region == pytest.approx(
        (0.6, 0, 2.4, 2)
    )


def draw(example_id, *, image_size, height=30, width=40, seed=0, epoch=0, **sampling):
    return draw_train_crop(
        height,
        width,
        sampling=Sampling(**sampling),
        image_size=image_size,
        seed=seed,
        epoch=epoch,
        example_id=example_id,
    )


@pytest.mark.parametrize(
    ("place", "shape", "box", "region"),
    [
        ((0, 0, 0), (375, 500), (28, 80), (88.30, 30.88, 335.54, 277.94)),
        ((3, 1, 17), (500, 333), (275, 55), (49.90, 249.55, 253.15, 452.81)),
        ((7, 89, 1281166), (256, 256), (72, 13), (8.26, 45.74, 150.55, 188.03)),
        ((12345, 4, 5), (30, 400), (96, 5350), (368.97, 6.62, 384.41, 22.07)),
    ],
)
def test_draws_equal_those_of_earlier_versions(place, shape, box, region):
    """Runs of earlier versions continue with the same crops."""
    (seed, epoch, example_id), (height, width) = place, shape
    crop = draw(
        example_id,
        height=height,
        width=width,
        seed=seed,
        epoch=epoch,
        image_size=224,
        scale=(256, 512),
    )
    assert crop.box == (*box, 224, 224)
    assert crop.region == pytest.approx(region, abs=0.01)


def test_scales_are_uniform_over_the_integers():
    """Pearson's chi-square with 31 degrees of freedom exceeds 61.1 once in a thousand."""
    crops = [draw(i, image_size=224, height=300, width=300, scale=(256, 287)) for i in range(1600)]
    scales = Counter(round(300 / (v.region[2] - v.region[0]) * 224) for v in crops)
    assert sorted(scales) == list(range(256, 288))
    assert sum((count - 50) ** 2 / 50 for count in scales.values()) < 61.1


def test_offsets_are_uniform_and_all_are_reached():
    places = Counter(draw(i, scale=(30, 30), image_size=28).box[:2] for i in range(1000))
    assert set(places) == {(top, left) for top in range(3) for left in range(13)}
    for axis, count in ((0, 3), (1, 13)):
        seen = Counter()
        for place, number in places.items():
            seen[place[axis]] += number
        assert max(abs(n - 1000 / count) for n in seen.values()) < 4.5 * math.sqrt(1000 / count)


def test_a_224_crop_of_256_has_33_by_33_offsets():
    settings = {"height": 375, "width": 500, "image_size": 224, "scale": (256, 256)}
    crops = [draw(i, sampling="random_crop_in_square", **settings) for i in range(14000)]
    assert {crop.box[:2] for crop in crops} == {(i, j) for i in range(33) for j in range(33)}


@pytest.mark.parametrize(
    ("sampling", "shape"),
    [
        ("random_crop_in_square", (375, 500)),
        ("random_crop_in_square", (500, 375)),
        ("random_crop", (256, 256)),
    ],
)
def test_crops_cover_the_central_square(sampling, shape):
    """They lie in it, at 33 places along each axis, and reach its edges, within a pixel's rounding."""
    height, width = shape
    settings = {"height": height, "width": width, "image_size": 224, "scale": (256, 256)}
    crops = [draw(i, sampling=sampling, **settings) for i in range(500)]
    assert all({c.box[axis] for c in crops} == set(range(33)) for axis in (0, 1))
    side, margin = min(shape), (max(shape) - min(shape)) / 2
    along = 0 if width > height else 1
    first, last = min(c.region[along] for c in crops), max(c.region[along + 2] for c in crops)
    assert first == pytest.approx(margin, abs=2 * side / 256)
    assert last == pytest.approx(side + margin, abs=2 * side / 256)
    assert min(c.region[1 - along] for c in crops) == 0
    assert max(c.region[3 - along] for c in crops) == side


def test_center_crop_is_not_random():
    settings = {"sampling": "center_crop", "scale": (32, 32), "image_size": 24}
    crops = {draw(i, epoch=i, **settings) for i in range(50)}
    assert crops == {rescaled_crop(30, 40, scale=32, top=4, left=4, side=24, square=True)}
    assert crops.pop().box == (4, 4, 24, 24)


def test_crop_is_a_function_of_seed_epoch_and_id():
    for settings in (
        {"scale": (256, 512)},
        {"sampling": "random_resized_crop", "interpolation": INTERPOLATIONS},
    ):
        settings["image_size"] = 224
        base = draw(4, **settings)
        assert base == draw(4, **settings)
        assert len({base, draw(5, **settings), draw(4, seed=1, **settings)}) == 3
        assert base != draw(4, epoch=1, **settings)


def test_crops_lie_inside_the_image():
    for i in range(500):
        height, width = 1 + i % 7, 1 + i % 11
        for sampling in SAMPLINGS:
            scale = (80, 80) if sampling == "center_crop" else (64, 128)
            crop = draw(
                i, sampling=sampling, scale=scale, image_size=64, height=height, width=width
            )
            left, top, right, bottom = crop.region
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert crop.size == (64, 64)


def test_interpolations_are_drawn_equally_often():
    crops = [
        draw(i, image_size=28, scale=(30, 33), interpolation=INTERPOLATIONS) for i in range(800)
    ]
    drawn = Counter(crop.interpolation for crop in crops)
    assert set(drawn) == set(INTERPOLATIONS)
    assert max(abs(count - 200) for count in drawn.values()) < 4.5 * math.sqrt(800 * 3 / 16)
    # The filter is drawn apart from the crop, anew in each epoch.
    plain = [draw(i, image_size=28, scale=(30, 33)) for i in range(100)]
    assert [crop.box for crop in crops[:100]] == [crop.box for crop in plain]
    assert {crop.interpolation for crop in plain} == {"bilinear"}
    again = {
        draw(0, epoch=e, image_size=28, scale=(30, 33), interpolation=INTERPOLATIONS)
        for e in range(40)
    }
    assert {crop.interpolation for crop in again} == set(INTERPOLATIONS)


# Once in a thousand a sample of n lies further from its law than 1.95 / sqrt(n) (Kolmogorov-Smirnov).
DRAWS = 1500
FAR = 1.95 / math.sqrt(DRAWS)


def distance(sample, law):
    """Kolmogorov and Smirnov's distance of a sample from a cumulative distribution function."""
    expected = np.array([law(value) for value in sorted(sample)])
    steps = np.arange(len(sample) + 1) / len(sample)
    return max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())


def uniform(low, high):
    return lambda value: (value - low) / (high - low)


def log_uniform(low, high):
    return lambda value: math.log(value / low) / math.log(high / low)


def resized_crops(height, width, count=DRAWS, **sampling):
    """(shares of the image's area, aspects, crops) of random resized crops."""
    crops = [
        draw(
            i,
            sampling="random_resized_crop",
            image_size=224,
            height=height,
            width=width,
            **sampling,
        )
        for i in range(count)
    ]
    regions = np.array([crop.region for crop in crops])
    wide, tall = regions[:, 2] - regions[:, 0], regions[:, 3] - regions[:, 1]
    return wide * tall / (height * width), wide / tall, crops


@pytest.mark.parametrize(
    ("shape", "law"),
    [
        ((300, 300), "uniform"),
        ((375, 500), "log_uniform"),
        ((500, 375), "uniform"),
        ((8, 8), "log_uniform"),
    ],
)
def test_area_is_uniform_and_aspect_in_its_bounds(shape, law):
    shares, aspects, crops = resized_crops(*shape, aspect_law=law)
    assert shares.min() >= 0.08 - 1e-9
    assert shares.max() <= 1 + 1e-9
    assert aspects.min() >= 3 / 4 - 1e-9
    assert aspects.max() <= 4 / 3 + 1e-9
    assert distance(shares, uniform(0.08, 1)) < FAR
    for crop in crops:
        assert all(abs(a - b) <= 0.5 for a, b in zip(crop.box[:2], crop.region[1::-1], strict=True))
        top, left, tall, wide = crop.box
        assert top + tall == round(crop.region[3])
        assert left + wide == round(crop.region[2])


@pytest.mark.parametrize("law", ASPECT_LAWS)
def test_aspect_has_its_law_where_every_aspect_fits(law):
    """Up to 3/4 of a square's area every aspect from 3/4 to 4/3 fits."""
    _, aspects, _ = resized_crops(300, 300, area=(0.08, 0.75), aspect_law=law)
    laws = {"uniform": uniform(3 / 4, 4 / 3), "log_uniform": log_uniform(3 / 4, 4 / 3)}
    assert distance(aspects, laws.pop(law)) < FAR
    (other,) = laws.values()
    assert distance(aspects, other) > 0.05  # 0.0715 apart


def test_positions_of_random_resized_crops_are_uniform():
    _, _, crops = resized_crops(300, 400, area=(0.2, 0.5))
    left, top, right, bottom = np.array([crop.region for crop in crops]).T
    assert distance(left / (400 - (right - left)), uniform(0, 1)) < FAR
    assert distance(top / (300 - (bottom - top)), uniform(0, 1)) < FAR


def test_an_elongated_image_gives_areas_up_to_the_largest_that_fits():
    """In 300 x 600 an aspect of 4/3 at most leaves 400 of 600 columns: 2/3 of the area."""
    shares, aspects, _ = resized_crops(300, 600)
    assert distance(shares, uniform(0.08, 2 / 3)) < FAR
    assert aspects.max() <= 4 / 3 + 1e-9
    # In 300 x 9000 not even 8 % fits.
    for shape, aspect in (((300, 9000), 4 / 3), ((9000, 300), 3 / 4)):
        shares, aspects, crops = resized_crops(*shape, count=300)
        assert shares == pytest.approx(np.full(300, 400 / 9000))
        assert aspects == pytest.approx(np.full(300, aspect))
        along = np.array([crop.region[0 if aspect > 1 else 1] for crop in crops])
        assert distance(along / 8600, uniform(0, 1)) < 1.95 / math.sqrt(300)


def test_full_area_gives_the_whole_image():
    _, aspects, crops = resized_crops(375, 500, count=50, area=(1.0, 1.0))
    assert aspects == pytest.approx(np.full(50, 4 / 3))
    assert {crop.box for crop in crops} == {(0, 0, 375, 500)}
