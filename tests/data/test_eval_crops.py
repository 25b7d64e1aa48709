"""The crops of the papers' test protocols: every box, worked out by hand.

papers.md section 6: C1 (offsets), C2 (squares), C3 (central squares).
"""

import numpy as np
import pytest

from jaxcnn.data.crops import rescaled_size
from jaxcnn.data.decode import peek
from jaxcnn.data.eval_crops import (
    bounding_crops,
    center_crop,
    five_crops,
    grid_crops,
    inception_crops,
    whole_image_crop,
)
from jaxcnn.data.eval_loader import decode_eval_crops

# (height, width) of 500 x 375 JPEGs and of a square one.
LANDSCAPE, PORTRAIT, SQUARE = (375, 500), (500, 375), (300, 300)


def corners(crops):
    return [crop.box[:2] for crop in crops]


def test_five_crops_of_the_central_square():
    """Krizhevsky et al. 2012, section 4.1: corners and centre, at 0, 32 and 16 of the 256 x 256."""
    assert corners(five_crops(*SQUARE, 256, 224)) == [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    # 375 x 500 becomes 256 x 341, whose central square begins at column 42.
    assert rescaled_size(*LANDSCAPE, 256) == (256, 341)
    found = five_crops(*LANDSCAPE, 256, 224)
    assert corners(found) == [(0, 42), (0, 74), (32, 42), (32, 74), (16, 58)]
    assert [crop.in_square(*LANDSCAPE) for crop in found] == [
        (top, left, 224, 224) for top, left in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    ]
    assert corners(five_crops(*PORTRAIT, 256, 224))[0] == (42, 0)
    # 227 pixels: 29 and 14, as BVLC truncates 14.5.
    assert corners(five_crops(*SQUARE, 256, 227))[3:] == [(29, 29), (14, 14)]


@pytest.mark.parametrize(
    ("scale", "offsets"),
    [
        (256, [0, 8, 16, 24, 32]),
        (384, [0, 40, 80, 120, 160]),
        (512, [0, 72, 144, 216, 288]),
        (224, [0, 0, 0, 0, 0]),
    ],
)
def test_grid_of_crops(scale, offsets):
    """papers.md 2.4: a regular 5 x 5 grid, i (side - 224) / 4."""
    found = grid_crops(*SQUARE, scale, 224, 5)
    assert corners(found) == [(top, left) for top in offsets for left in offsets]


def test_grid_covers_the_whole_image():
    """256 x 341: the columns are those of 117 pixels of room, halves up."""
    found = grid_crops(*LANDSCAPE, 256, 224, 5)
    assert [left for _, left in corners(found)[:5]] == [0, 29, 59, 88, 117]
    assert sorted({top for top, _ in corners(found)}) == [0, 8, 16, 24, 32]
    assert corners(grid_crops(*LANDSCAPE, 256, 224, 1)) == [(16, 58)]


@pytest.mark.parametrize(
    ("scale", "edge", "middle"), [(256, 32, 16), (288, 64, 32), (320, 96, 48), (352, 128, 64)]
)
def test_squares_and_their_crops(scale, edge, middle):
    """Szegedy et al. 2014, section 7: left, centre and right; of each four corners, centre and the whole."""
    found = inception_crops(*LANDSCAPE, scale, 224)
    assert len(found) == 18
    tall, wide = rescaled_size(*LANDSCAPE, scale)
    assert tall == scale
    starts = [0, (wide - scale) // 2, wide - scale]
    for start, square in zip(starts, (found[:6], found[6:12], found[12:]), strict=True):
        inside = [(0, 0), (0, edge), (edge, 0), (edge, edge), (middle, middle), (0, 0)]
        assert corners(square) == [(top, left + start) for top, left in inside]
        assert [crop.box[2] for crop in square] == [224] * 5 + [scale]
        assert [crop.resized for crop in square] == [0] * 5 + [224]
        assert {crop.shape for crop in square} == {(224, 224)}


def test_portraits_have_top_central_and_bottom_squares_and_square_images_three_equal_ones():
    assert rescaled_size(*PORTRAIT, 256) == (341, 256)
    whole = [crop for crop in inception_crops(*PORTRAIT, 256, 224) if crop.resized]
    assert corners(whole) == [(0, 0), (42, 0), (85, 0)]
    found = inception_crops(*SQUARE, 256, 224)
    assert found[:6] == found[6:12] == found[12:]


def test_a_square_of_the_crops_own_side_is_not_resized():
    assert {crop.resized for crop in inception_crops(*LANDSCAPE, 224, 224)} == {0}


def test_centre_and_whole():
    assert center_crop(*LANDSCAPE, 256, 224).box == (16, 58, 224, 224)
    assert center_crop(*PORTRAIT, 256, 224).box == (58, 16, 224, 224)
    assert center_crop(9, 9, 224, 224).box == (0, 0, 224, 224)
    # The central square of an odd margin lies half a pixel to the left, and its centre with it.
    assert rescaled_size(300, 403, 256) == (256, 344)
    assert center_crop(300, 403, 256, 225).box == (15, 59, 225, 225)
    assert center_crop(300, 403, 256, 225, square=True).box == (15, 44 + 15, 225, 225)
    assert rescaled_size(300, 402, 256) == (256, 343)
    assert center_crop(300, 402, 256, 225).box[1] == 59
    assert center_crop(300, 402, 256, 225, square=True).box[1] == 43 + 15
    assert whole_image_crop(*PORTRAIT, 256).box == (0, 0, 341, 256)


def test_bounding_crops_contain_all_crops_of_a_scale():
    crops = [*five_crops(*LANDSCAPE, 256, 224), center_crop(*LANDSCAPE, 384, 224)]
    crops = bounding_crops(*LANDSCAPE, crops)
    assert list(crops) == [256, 384]
    assert crops[256].box == (0, 42, 256, 256)
    assert crops[256].size == (256, 256)
    assert crops[384].size == (224, 224)


def test_pixels_of_crops_equal_those_of_the_rescaled_image(encoded, smooth_image):
    """To a grey level of a JPEG's own decoding."""
    data = encoded(smooth_image(150, 200))
    wanted = [whole_image_crop(150, 200, 96), *inception_crops(150, 200, 96, 80)]
    assert peek(data) == (150, 200)
    pixels = decode_eval_crops(data, (150, 200), wanted)
    image = pixels[wanted[0]].astype(int)
    assert image.shape == (96, 128, 3)
    for crop in wanted[1:]:
        top, left, height, width = crop.box
        assert pixels[crop].shape == (80, 80, 3)
        if not crop.resized:
            np.testing.assert_array_equal(
                pixels[crop], image[top : top + height, left : left + width]
            )
    squares = [pixels[crop] for crop in wanted[1:] if crop.resized]
    assert not np.array_equal(squares[0], squares[2])
