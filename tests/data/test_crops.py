from collections import Counter

import pytest

from jaxcnn.data.crops import centre_view, random_view, rescaled_size


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


def test_centre_view_is_symmetric():
    view = centre_view(375, 500, scale=256, image_size=224)
    assert view.box == (16, 58, 224, 224)
    assert view.width - view.side - view.left - view.left in (0, 1)
    turned = centre_view(500, 375, scale=256, image_size=224)
    assert turned.box == (58, 16, 224, 224)
    assert centre_view(9, 9, scale=224, image_size=224).box == (0, 0, 224, 224)


def draw(identity, *, scale, image_size, height=30, width=40, seed=0, epoch=0):
    return random_view(
        height,
        width,
        scale=scale,
        image_size=image_size,
        seed=seed,
        epoch=epoch,
        identity=identity,
    )


def test_scales_and_offsets_are_uniform_and_all_are_reached():
    views = [draw(i, scale=(30, 33), image_size=28) for i in range(6000)]
    scales = Counter(view.height for view in views)
    assert sorted(scales) == [30, 31, 32, 33]
    assert min(scales.values()) > 1350  # 1500 +- 4.5 deviations
    at_thirty = [view for view in views if view.height == 30]
    assert {view.width for view in at_thirty} == {40}
    tops = Counter(view.top for view in at_thirty)
    lefts = Counter(view.left for view in at_thirty)
    assert sorted(tops) == list(range(3))
    assert sorted(lefts) == list(range(13))
    assert min(tops.values()) > len(at_thirty) / 3 * 0.8
    assert min(lefts.values()) > len(at_thirty) / 13 * 0.5


def test_a_224_crop_of_256_has_33_offsets():
    tops = {draw(i, scale=(256, 256), image_size=224, height=50, width=50).top for i in range(999)}
    assert tops == set(range(33))


def test_view_is_a_function_of_seed_epoch_and_identity():
    settings = {"scale": (256, 512), "image_size": 224}
    base = draw(4, **settings)
    assert base == draw(4, **settings)
    assert len({base, draw(5, **settings), draw(4, seed=1, **settings)}) == 3
    assert base != draw(4, epoch=1, **settings)


def test_views_lie_inside():
    for i in range(500):
        view = draw(i, scale=(64, 128), image_size=64, height=1 + i % 7, width=1 + i % 11)
        assert 0 <= view.top <= view.height - 64
        assert 0 <= view.left <= view.width - 64
