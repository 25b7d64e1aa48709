"""The papers' pictures of what a net learned: first kernels, guesses, nearest images, class score maps.

Pure functions of arrays: each gives a matplotlib `Figure`, some 1200 pixels wide where it is full, for the
caller to save. A ValueError says what was expected and what was seen.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    import matplotlib.figure

# The widest picture in inches, its dots an inch, and the size of the text in points.
WIDTH, DOTS, TEXT = 10.0, 120, 9
# Of Okabe and Ito's palette, as in curves.py: the two that black text is legible on.
CORRECT, OTHER = "#E69F00", "#56B4E9"
# Kernels in a row (96 are Krizhevsky's 6 rows of 16); the dots of a kernel and between two.
KERNELS, TILE, GAP = 16, 66, 6
GUESSES = 4  # images in a row
NEAREST = 1.39  # inches of an image among its neighbours: seven and a line fill the width

Kernels = Float[np.ndarray, "h w 3 n"]
Picture = UInt8[np.ndarray, "_ _ 3"]  # sizes may differ within a figure


@dataclasses.dataclass(frozen=True)
class Guess:
    """An image with its own label or file name, its most probable classes with the best first, and the
    position of the correct class among `names`: -1 where it is not there or not known."""

    image: Picture
    title: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    correct: int

    def __post_init__(self) -> None:
        count, found = len(self.names), self.probabilities
        _expect(count == len(found), f"{count} probabilities", found)
        _expect(all(0 <= p <= 1 for p in found), "probabilities in [0, 1]", found)
        _expect(-1 <= self.correct < count, f"correct from -1 to {count - 1}", self.correct)


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """A test image, and the training images nearest to it with their labels and distances, in order."""

    image: Picture
    title: str
    nearest: tuple[Picture, ...]
    names: tuple[str, ...]
    distances: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = len(self.nearest), len(self.names), len(self.distances)
        _expect(len(set(counts)) == 1, "as many nearest images as names and distances", counts)


@dataclasses.dataclass(frozen=True)
class ScoreMap:
    """The scores of class `name` in each cell of a rescaled image's dense evaluation, and its `probability`
    after their average and the softmax. `centres` are those of the cells' fields, (down, across) in pixels
    from the image's top left corner: a field over the first 224 pixels has its centre at 112. `side` is that
    of the square, in pixels, that stands for a cell: the net's stride."""

    image: Picture
    title: str
    name: str
    probability: float
    scores: Float[np.ndarray, "h w"]
    centres: tuple[Float[np.ndarray, " down"], Float[np.ndarray, " across"]]
    side: float

    def __post_init__(self) -> None:
        cells, seen = self.scores.shape, tuple(map(len, self.centres))
        _expect(cells == seen and all(cells), f"centres of {cells} cells, 1 or more", seen)
        _expect(self.side > 0, "a side above 0 pixels", self.side)


def draw_kernels(kernels: Kernels, *, towers: int, title: str) -> "matplotlib.figure.Figure":
    """The first layer's kernels as RGB tiles, 16 in a row, the towers one above the other (Krizhevsky et
    al. 2012, Figure 3, at n = 96 and two towers).

    The paper does not say how weights become colours. Here each kernel is scaled by itself: zero is
    mid-grey and its largest absolute value spans the range, so that weak kernels show their form too, and
    strengths do not compare between tiles.
    """
    seen = f"{kernels.shape[3]} kernels, {towers} towers"
    fits = towers > 0 and kernels.shape[3] % towers == 0
    _expect(fits, "as many kernels in each tower, 1 tower or more", seen)
    # Drawn at about its own size, or a 3 x 3 kernel would stand in a gap a third of its width.
    zoom = max(1, TILE // max(kernels.shape[:2]))
    enlarged = kernels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    parts = np.split(enlarged, towers, axis=3)
    sheets = [tile_sheet(k, columns=min(KERNELS, k.shape[3]), gap=GAP) for k in parts]
    height, width = sheets[0].shape[:2]
    wide = max(2.5, width / DOTS + 0.2) + 0.7 * (towers > 1)
    figure = _figure(wide, towers * (height / DOTS + 0.22), title)
    for number, axes in enumerate(figure.subplots(towers, 1, squeeze=False).flat):
        _show(axes, sheets[number])
        label = f"tower {number + 1}" if towers > 1 else ""
        axes.set_ylabel(label, fontsize=TEXT, rotation=0, ha="right", va="center")
    return figure


def tile_sheet(kernels: Kernels, *, columns: int, gap: int) -> UInt8[np.ndarray, "H W 3"]:
    """Kernels side by side, row by row, `gap` white pixels between them and white where the last row ends.

    A kernel's zero is 128, its largest absolute value 255 or, where negative, 0.
    """
    height, width, _, count = kernels.shape
    fits, seen = all(kernels.shape) and columns > 0 and gap >= 0, (kernels.shape, columns, gap)
    _expect(fits, "kernels, columns of 1 or more and a gap of 0 or more", seen)
    _expect(np.isfinite(kernels).all(), "finite kernels", "NaN or infinity among the weights")
    values = kernels.astype(np.float64)
    largest = np.abs(values).max((0, 1, 2))
    tiles = np.rint(127.5 + 127.5 * values / np.where(largest > 0, largest, 1))
    rims = ((0, gap), (0, gap), (0, 0), (0, -count % columns))
    padded = np.pad(tiles.astype(np.uint8), rims, constant_values=255)
    cells = padded.reshape(height + gap, width + gap, 3, -1, columns)
    sheet = cells.transpose(3, 0, 4, 1, 2).reshape(-1, columns * (width + gap), 3)
    return sheet[: len(sheet) - gap, : sheet.shape[1] - gap]


def draw_guesses(shown: Sequence[Guess], *, title: str) -> "matplotlib.figure.Figure":
    """Images, and under each its most probable labels as bars of the probability from 0 to 1, the correct
    one in another colour and bold (Krizhevsky et al. 2012, Figure 4, left)."""
    _expect(shown, "one guess or more to draw", "none")
    columns, rows = min(GUESSES, len(shown)), -(-len(shown) // GUESSES)
    most = max(len(guess.names) for guess in shown)
    slot, bars = WIDTH / GUESSES, 0.22 * (most + 0.6)
    figure = _figure(slot * columns, rows * (slot + bars + 0.3), title)
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=(slot - 0.2, bars) * rows)
    for number, guess in enumerate(shown):
        row, column = divmod(number, columns)
        picture = figure.add_subplot(grid[2 * row, column])
        _show(picture, guess.image)
        picture.set_xlabel(_shortened(guess.title, slot - 0.3), fontsize=TEXT, parse_math=False)
        _bars(figure.add_subplot(grid[2 * row + 1, column]), guess, most, slot - 0.85)
    return figure


def _bars(axes: Any, guess: Guess, most: int, room: float) -> None:
    """The names stand on the bars, where a long one runs over the end of its bar, and take `room` inches."""
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
    """A row for each test image, and right of a line the training images nearest to it in the last hidden
    layer (Krizhevsky et al. 2012, Figure 4, right), all with their labels and those with distances."""
    counts = [len(row.nearest) for row in shown]
    _expect(len(set(counts)) == 1, "test images, all with as many nearest images", counts or "none")
    widths = (1, 0.2, *([1] * counts[0]))  # the second is the line's
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
    """A row for each image: the image, and over a pale grey one, which leaves colour to the map, the scores
    of a class in each cell of its dense evaluation (Simonyan & Zisserman 2014, section 3.2)."""
    _expect(shown, "one score map or more to draw", "none")
    wide = 0.42 * WIDTH  # a panel
    heights = [wide * min(1.0, len(one.image) / one.image.shape[1]) for one in shown]
    figure = _figure(WIDTH, sum(heights) + 0.35 * len(shown), title)
    panels = figure.subplots(len(shown), 2, squeeze=False, height_ratios=heights)
    for one, (alone, under) in zip(shown, panels, strict=True):
        _show(alone, one.image)
        alone.set_title(_shortened(one.title, wide - 0.2), fontsize=TEXT, parse_math=False)
        _show(under, one.image @ np.array([0.299, 0.587, 0.114]) / 2 + 64)
        name = f"{_shortened(one.name, wide - 1.6)}, probability {one.probability:.1%}"
        under.set_title(name, fontsize=TEXT, parse_math=False)
        squares = under.add_collection(_squares(one), autolim=False)  # cut at the image's edge
        bar = figure.colorbar(squares, ax=under, pad=0.02, panchor=False)
        bar.set_label("class score before the softmax", fontsize=TEXT)
        bar.ax.tick_params(labelsize=TEXT - 1)
        bar.ax.set_facecolor("0.5")  # the mean of the grey that the squares lie on
    return figure


def _squares(one: ScoreMap) -> Any:
    """A square for each cell, row by row. They meet at the edges: smoothed ones would show seams."""
    from matplotlib.collections import PolyCollection

    corners = one.side * np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    down, across = np.meshgrid(*one.centres, indexing="ij")
    squares = list(np.stack([across, down], axis=-1).reshape(-1, 1, 2) + corners)
    look = {"cmap": "viridis", "alpha": 0.65, "linewidths": 0, "antialiaseds": False}
    return PolyCollection(squares, array=one.scores.ravel(), **look)


def _figure(width: float, height: float, title: str) -> "matplotlib.figure.Figure":
    from matplotlib.figure import Figure  # imported late: a second of start-up
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = textwrap.wrap(title, int(11 * (width - 0.3)))  # 11 characters take an inch
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06)
    figure = Figure((width, height + 0.12 + 0.19 * len(lines)), dpi=DOTS, layout=layout)
    figure.suptitle("\n".join(lines), fontsize=TEXT + 2, parse_math=False)
    return figure


def _show(axes: Any, image: np.ndarray) -> None:
    """The image without a frame at the bottom of its room, so that the labels of a row stand in line.
    Coordinates are pixels, (0, 0) the image's top left corner."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, image.shape[1], len(image), 0))
    axes.set(xticks=[], yticks=[], anchor="S")
    axes.spines[:].set_visible(False)


def _shortened(text: str, room: float, weight: str = "normal") -> str:
    """The text on one line, cut with an ellipsis to `room` inches of the figures' font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=TEXT, weight=weight)
    line = kept = " ".join(text.split())
    while text_to_path.get_text_width_height_descent(line, font, False)[0] > 72 * room and kept:
        kept = kept[:-1].rstrip()
        line = f"{kept}…"
    return line


def _expect(holds: object, what: str, seen: object) -> None:
    if not holds:
        raise ValueError(f"expected {what}; got {seen}")
