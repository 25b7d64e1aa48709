"""The papers' figures of what a net learned: first kernels, predictions, nearest images, class score maps.

Pure functions of arrays. Each returns a matplotlib `Figure`, up to about 1200 pixels wide, to be saved.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxcnn.caches import use_writable_caches

if TYPE_CHECKING:
    import matplotlib.figure

# Width of the widest figure in inches, dots per inch, and text size in points.
WIDTH, DOTS, TEXT = 10.0, 120, 9
# Two colours of Okabe and Ito's palette on which black text is legible.
CORRECT, OTHER = "#E69F00", "#56B4E9"
# Kernels per row (Krizhevsky et al. show 96 in 6 rows of 16); dots per kernel and between two.
KERNELS, TILE, GAP = 16, 66, 6
GUESSES = 4  # images per row
NEAREST = 1.39  # inches per image among neighbours: seven and a line fill the width

Kernels = Float[np.ndarray, "h w 3 n"]
Image = UInt8[np.ndarray, "_ _ 3"]  # sizes may differ within a figure


@dataclasses.dataclass(frozen=True)
class Guess:
    """An image with its label or file name, its most probable classes in descending order, and the index of
    the correct class among `names`: -1 if it is not among them or unknown."""

    image: Image
    title: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    correct: int


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """A test image, and the training images nearest to it with labels and distances, nearest first."""

    image: Image
    title: str
    nearest: tuple[Image, ...]
    names: tuple[str, ...]
    distances: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class ScoreMap:
    """The scores of class `name` in each cell of the score map of an image, and its `probability` after their
    average and the softmax. `centres` are those of the cells' receptive fields, (rows, columns) in pixels
    from the top left corner: a field over the first 224 pixels has its centre at 112. `side` is the side of
    the square that is drawn for a cell, in pixels: the net's stride."""

    image: Image
    title: str
    name: str
    probability: float
    scores: Float[np.ndarray, "h w"]
    centres: tuple[Float[np.ndarray, " down"], Float[np.ndarray, " across"]]
    side: float


def draw_kernels(kernels: Kernels, *, towers: int, title: str) -> "matplotlib.figure.Figure":
    """The first layer's kernels as RGB tiles, 16 per row, the towers one above the other (Krizhevsky et
    al. 2012, Figure 3, with n = 96 and two towers).

    The paper does not say how weights become colours. Here each kernel is scaled separately: zero is
    mid-grey and its largest absolute value spans the range. Weak kernels show their form too, but strengths
    cannot be compared between tiles.
    """
    # All kernels have about the same size; a 3 x 3 kernel in its own pixels would be lost in the gaps.
    zoom = max(1, TILE // max(kernels.shape[:2]))
    enlarged = kernels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    sheets = [
        tile_sheet(tower, columns=min(KERNELS, tower.shape[3]), gap=GAP)
        for tower in np.split(enlarged, towers, axis=3)
    ]
    height, width = sheets[0].shape[:2]
    wide = max(2.5, width / DOTS + 0.2) + 0.7 * (towers > 1)
    figure = _figure(wide, towers * (height / DOTS + 0.22), title)
    for number, axes in enumerate(figure.subplots(towers, 1, squeeze=False).flat):
        _show(axes, sheets[number])
        label = f"tower {number + 1}" if towers > 1 else ""
        axes.set_ylabel(label, fontsize=TEXT, rotation=0, ha="right", va="center")
    return figure


def tile_sheet(kernels: Kernels, *, columns: int, gap: int) -> UInt8[np.ndarray, "H W 3"]:
    """Kernels row by row, with `gap` white pixels between them and white tiles after the last one.

    Zero becomes 128, the largest absolute value of each kernel 255 or, if negative, 0.

    Raises:
        ValueError: a weight is NaN or infinite.
    """
    height, width, _, count = kernels.shape
    if not np.isfinite(kernels).all():
        raise ValueError("expected finite kernels; got NaN or infinity among the weights")
    values = kernels.astype(np.float64)
    largest = np.abs(values).max((0, 1, 2))
    tiles = np.rint(127.5 + 127.5 * values / np.where(largest > 0, largest, 1))
    rims = ((0, gap), (0, gap), (0, 0), (0, -count % columns))
    padded = np.pad(tiles.astype(np.uint8), rims, constant_values=255)
    cells = padded.reshape(height + gap, width + gap, 3, -1, columns)
    sheet = cells.transpose(3, 0, 4, 1, 2).reshape(-1, columns * (width + gap), 3)
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]


def draw_guesses(shown: Sequence[Guess], *, title: str) -> "matplotlib.figure.Figure":
    """Images, and under each its most probable classes as bars of probability; the correct one is bold and
    in another colour (Krizhevsky et al. 2012, Figure 4, left)."""
    columns, rows = min(GUESSES, len(shown)), -(-len(shown) // GUESSES)
    most = max(len(guess.names) for guess in shown)
    slot, bars = WIDTH / GUESSES, 0.22 * (most + 0.6)
    figure = _figure(slot * columns, rows * (slot + bars + 0.3), title)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=(slot - 0.2, bars) * rows)
    for number, guess in enumerate(shown):
        row, column = divmod(number, columns)
        above = figure.add_subplot(grid[2 * row, column])
        _show(above, guess.image)
        above.set_xlabel(_shortened(guess.title, slot - 0.3), fontsize=TEXT, parse_math=False)
        _bars(figure.add_subplot(grid[2 * row + 1, column]), guess, most, slot - 0.85)
    return figure


def _bars(axes: Any, guess: Guess, most: int, room: float) -> None:
    """Bars with names of up to `room` inches drawn over them."""
    for place, (name, probability) in enumerate(zip(guess.names, guess.probabilities, strict=True)):
        colour, weight = (CORRECT, "bold") if place == guess.correct else (OTHER, "normal")
        axes.barh(place, probability, height=0.86, color=colour)
        text = {"va": "center_baseline", "fontsize": TEXT, "weight": weight, "parse_math": False}
        axes.text(0.02, place, _shortened(name, room, weight), **text)
        axes.text(0.99, place, f"{probability:.1%}", ha="right", **text)
    axes.set(xlim=(0, 1), ylim=(most + 0.1, -0.5), xticks=[], yticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines.left.set_bounds(-0.5, len(guess.names) - 0.5)


def draw_neighbours(shown: Sequence[Neighbours], *, title: str) -> "matplotlib.figure.Figure":
    """A row for each test image and, right of a line, the training images nearest to it in the last hidden
    layer, with labels and distances (Krizhevsky et al. 2012, Figure 4, right)."""
    widths = (1, 0.2, *([1] * len(shown[0].nearest)))  # the second is for the line
    figure = _figure(NEAREST * sum(widths), (NEAREST + 0.3) * len(shown), title)
    grid = figure.add_gridspec(len(shown), len(widths), width_ratios=widths)
    line = figure.add_subplot(grid[:, 1])
    line.axvline(0.5, color="0.4", lw=1.2)
    line.set_axis_off()
    for number, row in enumerate(shown):
        names = (row.title, *row.names)
        distances = ["", *(f"distance {distance:.4g}" for distance in row.distances)]
        for place, image in enumerate((row.image, *row.nearest)):
            axes = figure.add_subplot(grid[number, place + (place > 0)])
            _show(axes, image)
            label = f"{_shortened(names[place], NEAREST - 0.17)}\n{distances[place]}"
            axes.set_xlabel(label, fontsize=TEXT, parse_math=False)
    return figure


def draw_score_maps(shown: Sequence[ScoreMap], *, title: str) -> "matplotlib.figure.Figure":
    """A row for each image: the image, and the score map of a class drawn over it in pale grey (dense
    evaluation, Simonyan & Zisserman 2014, section 3.2)."""
    wide = 0.42 * WIDTH  # of a panel
    heights = [wide * min(1.0, len(one.image) / one.image.shape[1]) for one in shown]
    figure = _figure(WIDTH, sum(heights) + 0.35 * len(shown), title)
    panels = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for one, (alone, under) in zip(shown, panels, strict=True):
        _show(alone, one.image)
        alone.set_title(_shortened(one.title, wide - 0.2), fontsize=TEXT, parse_math=False)
        _show(under, one.image @ np.array([0.299, 0.587, 0.114]) / 2 + 64)
        name = f"{_shortened(one.name, wide - 1.6)}, probability {one.probability:.1%}"
        under.set_title(name, fontsize=TEXT, parse_math=False)
        squares = under.add_collection(_squares(one), autolim=False)  # clipped at the image's edge
        bar = figure.colorbar(squares, ax=under, pad=0.02, panchor=False)
        bar.set_label("class score before the softmax", fontsize=TEXT)
        bar.ax.tick_params(labelsize=TEXT - 1)
        bar.ax.set_facecolor("0.5")  # the mean of the grey below the squares
    return figure


def _squares(one: ScoreMap) -> Any:
    """A square for each cell, row by row, without antialiasing, which would show seams."""
    from matplotlib.collections import PolyCollection

    corners = one.side * np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    down, across = np.meshgrid(*one.centres, indexing="ij")
    squares = list(np.stack([across, down], axis=-1).reshape(-1, 1, 2) + corners)
    style = {"cmap": "viridis", "alpha": 0.65, "linewidths": 0, "antialiaseds": False}
    return PolyCollection(squares, array=one.scores.ravel(), **style)


def _figure(width: float, height: float, title: str) -> "matplotlib.figure.Figure":
    use_writable_caches()
    from matplotlib.figure import Figure  # imported late: a second of start-up
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = textwrap.wrap(title, int(11 * (width - 0.3)))  # 11 characters take an inch
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06)
    figure = Figure((width, height + 0.12 + 0.19 * len(lines)), dpi=DOTS, layout=layout)
    figure.suptitle("\n".join(lines), fontsize=TEXT + 2, parse_math=False)
    return figure


def _show(axes: Any, image: np.ndarray) -> None:
    """Shows an image without a frame, at the bottom of its axes so that the labels of a row are aligned.
    Coordinates are pixels; (0, 0) is the top left corner."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, image.shape[1], len(image), 0))
    axes.set(xticks=[], yticks=[], anchor="S")
    axes.spines[:].set_visible(False)


def _shortened(text: str, room: float, weight: str = "normal") -> str:
    """The text on one line, truncated with an ellipsis to `room` inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=TEXT, weight=weight)
    line = kept = " ".join(text.split())
    while text_to_path.get_text_width_height_descent(line, font, False)[0] > 72 * room and kept:
        kept = kept[:-1].rstrip()
        line = f"{kept}…"
    return line
