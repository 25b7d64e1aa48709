"""The papers' figures: pixels, bars and squares at the given places, and text that does not overlap."""

import dataclasses
import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from jaxcnn.research.figures import drawing

RNG = np.random.default_rng(0)
# Breeds of ImageNet, the longest of them too wide for its place; a file name; what matplotlib could take
# for a formula; the widest letter.
NAMES = (
    "Staffordshire bullterrier",
    "soft-coated wheaten terrier",
    "n02093256_very_long_file_name_1234567.JPEG",
    "$a_{b$ is no formula",
    "W" * 60,
)


def noise(height=24, width=32):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def guess(**changes):
    made = drawing.Guess(noise(), NAMES[0], NAMES, (0.5, 0.25, 0.125, 0.0625, 0.0), 1)
    return dataclasses.replace(made, **changes)


def nearest(count, **changes):
    made = drawing.Neighbours(
        noise(),
        NAMES[1],
        tuple(noise(24 + 8 * i, 40) for i in range(count)),
        tuple(NAMES[i % len(NAMES)] for i in range(count)),
        tuple(123456.0 * (i + 1) for i in range(count)),
    )
    return dataclasses.replace(made, **changes)


def score_map(**changes):
    made = drawing.ScoreMap(
        noise(96, 128),
        NAMES[2],
        NAMES[4],
        0.875,
        np.arange(6, dtype=np.float32).reshape(2, 3),
        (np.array([40.0, 56.0]), np.array([48.0, 64.0, 80.0])),
        16.0,
    )
    return dataclasses.replace(made, **changes)


def kernels(count, side=11):
    return RNG.standard_normal((side, side, 3, count), np.float32)


def drawn_images(axes):
    return [one.images[0].get_array() for one in axes if one.images]


def written(figure):
    """The words of a figure with their places in pixels, once drawn."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    found = [t for t in figure.findobj(lambda o: hasattr(o, "get_text")) if t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent()) for t in found if t.get_visible()]


def test_each_kernel_is_scaled_about_mid_grey():
    made = np.zeros((1, 2, 3, 4), np.float32)
    made[0, 0, :, 1] = (2.0, 0.0, -1.0)
    made[0, 1, :, 2] = (-1e-6, 0.0, 5e-7)
    made[..., 3] = 1e9
    sheet = drawing.tile_sheet(made, columns=4, gap=0)
    assert sheet.dtype == np.uint8
    # 127.5 + 127.5 v / largest, to the nearest; 127.5 itself to 128.
    expected = [[[128] * 3] * 2, [[255, 128, 64], [128] * 3], [[128] * 3, [0, 128, 191]]]
    np.testing.assert_array_equal(sheet[0].reshape(4, 2, 3)[:3], expected)
    assert (sheet[0, 6:] == 255).all()


def test_tile_sheet_is_filled_row_by_row():
    levels = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    made = np.broadcast_to(levels, (2, 3, 3, 5)).copy()
    made[0, 0, 0] = -1.0  # the same largest value in each kernel
    grey = [128, 159, 191, 223, 255]
    expected = np.full((2 * 2 + 1, 3 * 3 + 2, 3), 255, np.uint8)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        top, left = row * 3, column * 4
        expected[top : top + 2, left : left + 3] = grey[number]
        expected[top, left, 0] = 0
    np.testing.assert_array_equal(drawing.tile_sheet(made, columns=3, gap=1), expected)


def test_kernels_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="finite kernels; got NaN"):
        drawing.tile_sheet(np.full((1, 1, 3, 2), np.nan), columns=1, gap=1)


def test_96_kernels_are_six_rows_of_16_by_tower():
    made = kernels(96)
    figure = drawing.draw_kernels(made, towers=2, title="AlexNet")
    words = dict(written(figure))
    assert {*words} == {"AlexNet", "tower 1", "tower 2"}
    first, second = figure.axes
    large = made.repeat(6, axis=0).repeat(6, axis=1)  # 11 pixels drawn as 66
    for axes, half in ((first, large[..., :48]), (second, large[..., 48:])):
        sheet = axes.images[0].get_array()
        assert sheet.shape == (3 * 66 + 2 * 6, 16 * 66 + 15 * 6, 3)
        np.testing.assert_array_equal(sheet, drawing.tile_sheet(half, columns=16, gap=6))
    # Between the towers lies more than between two rows of one.
    above, below = first.get_window_extent(), second.get_window_extent()
    assert above.y0 - below.y1 > 2 * 6 * above.height / (3 * 66 + 2 * 6)
    assert words["tower 1"].y0 > words["tower 2"].y1


@pytest.mark.parametrize(
    ("count", "side", "towers", "tile", "grid"),
    [
        (64, 3, 1, 66, (4, 16)),
        (64, 7, 1, 63, (4, 16)),
        (37, 7, 1, 63, (3, 16)),
        (5, 5, 1, 65, (1, 5)),
        (1, 11, 1, 66, (1, 1)),
        (6, 11, 2, 66, (1, 3)),
        (2, 100, 1, 100, (1, 2)),
    ],
)
def test_kernels_of_any_number_and_size_are_tiled(count, side, towers, tile, grid):
    figure = drawing.draw_kernels(
        kernels(count, side),
        towers=towers,
        title="nnn " * 12,
    )
    check_words(figure, {f"tower {n + 1}" for n in range(towers)} if towers > 1 else set())
    rows, columns = grid
    shape = (rows * (tile + 6) - 6, columns * (tile + 6) - 6, 3)
    assert [one.shape for one in drawn_images(figure.axes)] == [shape] * towers


def check_words(figure, expected):
    """All words within the figure, none over another, and those expected among them."""
    words = written(figure)
    assert {*expected} <= {text for text, _ in words}
    for text, box in words:
        inside = min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert inside, (text, box, figure.bbox)
    for (text, box), (other, second) in itertools.combinations(words, 2):
        across = min(box.x1, second.x1) - max(box.x0, second.x0)
        down = min(box.y1, second.y1) - max(box.y0, second.y0)
        # Lines of bars are close: their boxes, with room for letters like g, may touch.
        assert across <= 0 or down <= 2, (text, other)


def test_bars_have_the_length_of_the_probabilities():
    unknown = guess(correct=-1, names=NAMES[:3], probabilities=(1.0, 0.0, 0.0))
    figure = drawing.draw_guesses([guess(), unknown, *[guess(correct=4)] * 3], title="guesses")
    shown = [axes for axes in figure.axes if axes.images]
    bars = [axes for axes in figure.axes if axes.patches]
    assert (len(figure.axes), len(shown), len(bars)) == (10, 5, 5)
    lengths = [[patch.get_width() for patch in axes.patches] for axes in bars]
    assert lengths == [[0.5, 0.25, 0.125, 0.0625, 0.0], [1.0, 0.0, 0.0], *[lengths[0]] * 3]
    assert all(axes.get_xlim() == (0, 1) for axes in bars)
    colours = [[to_hex(patch.get_facecolor()).upper() for patch in axes.patches] for axes in bars]
    correct, other = drawing.CORRECT, drawing.OTHER
    assert correct != other
    assert colours[0] == [other, correct, other, other, other]
    assert colours[1] == [other] * 3
    assert colours[2] == [other] * 4 + [correct]
    # The best is on top, and the bars stand under their image; four images make a row.
    check_words(figure, {"guesses", "Staffordshire bullterrier", "50.0%", "6.2%", "100.0%"})
    centres = [[patch.get_window_extent().y0 for patch in axes.patches] for axes in bars]
    assert all(np.diff(column).max() < 0 for column in centres)
    for picture, axes in zip(shown, bars, strict=True):
        assert picture.get_window_extent().y0 > axes.get_window_extent().y1
    lefts = [round(axes.get_window_extent().x0) for axes in bars]
    assert lefts[0] < lefts[1] < lefts[2] < lefts[3]
    assert lefts[4] == lefts[0]
    assert bars[0].get_window_extent().y0 > shown[4].get_window_extent().y1


def test_long_names_are_truncated():
    figure = drawing.draw_guesses([guess()], title="")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert NAMES[0] in texts
    assert NAMES[3] in texts
    assert NAMES[4] not in texts
    (shortened,) = [text for text in texts if text.startswith("WWW")]
    assert shortened == "W" * (len(shortened) - 1) + "…"


@pytest.mark.parametrize("count", [1, 6, 9])
def test_neighbours_have_a_row_per_image(count):
    rows = [nearest(count), nearest(count)]
    figure = drawing.draw_neighbours(rows, title="nearest")
    check_words(figure, {"nearest"})
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 2 * (1 + count)
    assert len(figure.axes) == len(shown) + 1  # and the line
    expected = [picture for row in rows for picture in (row.image, *row.nearest)]
    for seen, picture in zip(drawn_images(shown), expected, strict=True):
        np.testing.assert_array_equal(seen, picture)
    below = [axes.xaxis.label.get_window_extent().y1 for axes in shown]
    assert np.ptp(below[1 : 1 + count]) < 2  # in line, whatever the heights of the images
    labels = [axes.get_xlabel() for axes in shown]
    assert labels[1] == f"{labels[1].splitlines()[0]}\ndistance 1.235e+05"
    assert "distance" not in labels[0]
    # The line lies in a gap that is wider than any between two neighbours, all down the figure.
    (line,) = (axes.lines[0] for axes in figure.axes if axes.lines)
    between = line.get_window_extent()
    boxes = [axes.get_window_extent() for axes in shown]
    assert boxes[0].x1 < between.x0 < boxes[1].x0
    assert between.y1 > boxes[1].y0 > boxes[-1].y1 > between.y0
    if count > 1:
        assert boxes[1].x0 - boxes[0].x1 > 2.5 * (boxes[3].x0 - boxes[2].x1)


def test_squares_lie_at_the_centres():
    one = score_map()
    figure = drawing.draw_score_maps([one, score_map(image=noise(128, 64))], title="scores")
    check_words(figure, {"scores", "class score before the softmax"})
    alone, under = figure.axes[:2]
    np.testing.assert_array_equal(alone.images[0].get_array(), one.image)
    (squares,) = under.collections
    np.testing.assert_array_equal(squares.get_array(), one.scores.ravel())
    found = [path.vertices for path in squares.get_paths()]
    cells = [(row, column) for row in one.centres[0] for column in one.centres[1]]
    for vertices, (row, column) in zip(found, cells, strict=True):
        np.testing.assert_array_equal(vertices.min(0), (column - 8, row - 8))
        np.testing.assert_array_equal(vertices.max(0), (column + 8, row + 8))
    # The axes are the image's pixels, whatever the map covers; its scale is that of its own bar.
    assert (under.get_xlim(), under.get_ylim()) == ((0, 128), (96, 0))
    beyond = figure.axes[3]
    assert (beyond.get_xlim(), beyond.get_ylim()) == ((0, 64), (128, 0))
    assert squares.get_clim() == (0, 5)
    assert under.get_title().endswith("…, probability 87.5%")
    assert len(figure.axes) == 2 * 3
    assert 0 < squares.get_alpha() < 1


def test_square_is_visible_in_the_figure():
    """Drawn over a black image, the one cell is the only colour of its panel."""
    centres = (np.array([24.0]), np.array([80.0]))
    black = np.zeros((96, 128, 3), np.uint8)
    one = score_map(image=black, scores=np.ones((1, 1), np.float32), centres=centres)
    figure = drawing.draw_score_maps([one], title="")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    box = figure.axes[1].get_window_extent()
    top, left = len(seen) - box.y1, box.x0
    panel = seen[
        round(top) + 2 : round(len(seen) - box.y0) - 2, round(left) + 2 : round(box.x1) - 2
    ]
    rows, columns = np.nonzero(np.ptp(panel, axis=2) > 8)
    pixel = box.width / 128
    edges = np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]) + 2
    np.testing.assert_allclose(edges / pixel, (16, 32, 72, 88), atol=0.5)


def test_import_needs_neither_matplotlib_nor_jax():
    code = (
        "import sys, jaxcnn.research.figures.drawing; print({'jax', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
