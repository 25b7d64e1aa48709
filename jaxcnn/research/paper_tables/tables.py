"""The papers' result tables as data: the printed figures, and the nets and protocols of each row.

A is Krizhevsky et al. 2012, V is Simonyan & Zisserman 2014, G is Szegedy et al. 2014.
"""

from __future__ import annotations

import dataclasses

from jaxcnn.evaluation.protocols import CenterCrop, Crops144, Dense, MultiCrop, Protocol, TenCrops
from jaxcnn.models.paper_figures import VGG_MILLIONS

TOP1, TOP5, TOP5_TEST = "top-1 val", "top-5 val", "top-5 test"  # error in percent
PARAMETERS = "parameters (millions)"


@dataclasses.dataclass(frozen=True)
class Contribution:
    """The part of `nets` trained nets, each evaluated by `protocol`, in the mean of a row."""

    net: str  # a key of jaxcnn.models.NETS
    protocol: Protocol  # with the paper's scales, for images of 224
    column: str = ""  # of VGG's Table 1
    scale: tuple[int, int] | None = None  # lowest and highest S; None: any
    nets: int = 1  # how many different trained nets


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A printed row; we average the posteriors of its parts with equal weights."""

    cells: tuple[str, ...]  # the words of the row, one per column of the table
    paper: tuple[float | None, ...]  # one per measure of the table; None: not given
    parts: tuple[Contribution, ...] = ()  # () if jaxcnn does not have the net
    note: str = ""  # why there are no parts, or a remark on the figures


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """A table of a paper."""

    title: str  # the paper, its number there, what it compares
    columns: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[TableRow, ...]

    @property
    def is_of_parameters(self) -> bool:
        """Whether it counts parameters; the other tables are of errors."""
        return self.measures == (PARAMETERS,)


ANOTHER = "another method"
UNBUILT = "pre-trained on ImageNet Fall 2011 with a sixth convolution of unstated size, not built"
TWO_UNBUILT = f"2 of the 7 nets were {UNBUILT}"
ONE_FIGURE = "the paper prints one top-5 figure, not one for each set"
SLIP = "the paper prints -3.45 against the base, its own figures give -3.40"  # G Table 3

# S in training by its cell in the table, and the test scales for it (V section 4.2).
JITTERED = "[256;512]"
S = {"256": (256, 256), "384": (384, 384), JITTERED: (256, 512)}
SEVERAL_Q = {"256": (224, 256, 288), "384": (352, 384, 416), JITTERED: (256, 384, 512)}


def _dense(column: str, s: str, *q: int) -> Contribution:
    """A VGG evaluated densely at the scales `q`, by default those of `SEVERAL_Q`."""
    return Contribution("vgg", Dense(scales=q or SEVERAL_Q[s]), column, S[s])


def _crops(column: str) -> Contribution:
    return Contribution("vgg", MultiCrop(scales=SEVERAL_Q[JITTERED]), column, S[JITTERED])


def _both(*columns: str) -> tuple[Contribution, ...]:
    """Multi-crop and dense evaluation of each column, which V section 4.3 averages."""
    return tuple(part for c in columns for part in (_crops(c), _dense(c, JITTERED)))


def _alexnets(nets: int) -> tuple[Contribution, ...]:
    return (Contribution("alexnet", TenCrops(), nets=nets),)  # A section 4.1


def _googlenets(nets: int, protocol: Protocol) -> tuple[Contribution, ...]:
    return (Contribution("googlenet", protocol, nets=nets),)  # G section 7


SUBMISSION = tuple(  # the challenge's seven nets, V Table 6
    _dense(column, s)
    for column, scales in (("D", tuple(S)), ("C", ("256", "384")), ("E", ("256", "384")))
    for s in scales
)

TABLES: dict[str, PaperTable] = {
    "alexnet2": PaperTable(
        "Krizhevsky et al. 2012, Table 2: ILSVRC-2012",
        ("model",),
        (TOP1, TOP5, TOP5_TEST),
        (
            TableRow(("SIFT + FVs",), (None, None, 26.2), note=ANOTHER),
            TableRow(("1 CNN",), (40.7, 18.2, None), _alexnets(1)),
            TableRow(("5 CNNs",), (38.1, 16.4, 16.4), _alexnets(5)),
            TableRow(("1 CNN*",), (39.0, 16.6, None), note=UNBUILT),
            TableRow(("7 CNNs*",), (36.7, 15.4, 15.3), note=TWO_UNBUILT),
        ),
    ),
    "vgg2": PaperTable(
        "Simonyan & Zisserman 2014, Table 2: number of parameters",
        ("net",),
        (PARAMETERS,),
        tuple(
            TableRow((column,), (float(millions),), (Contribution("vgg", Dense(), column),))
            for column, millions in VGG_MILLIONS.items()
        ),
    ),
    "vgg3": PaperTable(
        "Simonyan & Zisserman 2014, Table 3: single test scale, ILSVRC-2012",
        ("net", "S", "Q"),
        (TOP1, TOP5),
        tuple(
            TableRow((column, s, str(q)), figures, (_dense(column, s, q),))
            for column, s, q, figures in (
                ("A", "256", 256, (29.6, 10.4)),
                ("A-LRN", "256", 256, (29.7, 10.5)),
                ("B", "256", 256, (28.7, 9.9)),
                ("C", "256", 256, (28.1, 9.4)),
                ("C", "384", 384, (28.1, 9.3)),
                ("C", JITTERED, 384, (27.3, 8.8)),
                ("D", "256", 256, (27.0, 8.8)),
                ("D", "384", 384, (26.8, 8.7)),
                ("D", JITTERED, 384, (25.6, 8.1)),
                ("E", "256", 256, (27.3, 9.0)),
                ("E", "384", 384, (26.9, 8.7)),
                ("E", JITTERED, 384, (25.5, 8.0)),
            )
        ),
    ),
    "vgg4": PaperTable(
        "Simonyan & Zisserman 2014, Table 4: several test scales, ILSVRC-2012",
        ("net", "S", "Q"),
        (TOP1, TOP5),
        tuple(
            TableRow(
                (column, s, ",".join(map(str, SEVERAL_Q[s]))), figures, (_dense(column, s),), note
            )
            for column, s, figures, note in (
                ("B", "256", (28.2, 9.6), ""),
                ("C", "256", (27.7, 9.2), ""),
                ("C", "384", (27.8, 9.2), ""),
                ("C", JITTERED, (26.3, 8.2), ""),
                ("D", "256", (26.6, 8.6), ""),
                ("D", "384", (26.5, 8.6), ""),
                ("D", JITTERED, (24.8, 7.5), ""),
                ("E", "256", (26.9, 8.7), ""),
                ("E", "384", (26.7, 8.6), ""),
                ("E", JITTERED, (24.8, 7.5), "top-5 error on the test set: 7.3"),
            )
        ),
    ),
    "vgg5": PaperTable(
        "Simonyan & Zisserman 2014, Table 5: dense and multi-crop at several scales, ILSVRC-2012",
        ("net", "evaluation"),
        (TOP1, TOP5),
        (
            TableRow(("D", "dense"), (24.8, 7.5), (_dense("D", JITTERED),)),
            TableRow(("D", "multi-crop"), (24.6, 7.5), (_crops("D"),)),
            TableRow(("D", "multi-crop & dense"), (24.4, 7.2), _both("D")),
            TableRow(("E", "dense"), (24.8, 7.5), (_dense("E", JITTERED),)),
            TableRow(("E", "multi-crop"), (24.6, 7.4), (_crops("E"),)),
            TableRow(("E", "multi-crop & dense"), (24.4, 7.1), _both("E")),
        ),
    ),
    "vgg6": PaperTable(
        "Simonyan & Zisserman 2014, Table 6: ensembles of nets, ILSVRC-2012",
        ("nets", "evaluation"),
        (TOP1, TOP5, TOP5_TEST),
        (
            TableRow(("submission: 3 D, 2 C, 2 E", "dense"), (24.7, 7.5, 7.3), SUBMISSION),
            TableRow(
                ("D, E", "dense"), (24.0, 7.1, 7.0), (_dense("D", JITTERED), _dense("E", JITTERED))
            ),
            TableRow(("D, E", "multi-crop"), (23.9, 7.2, None), (_crops("D"), _crops("E"))),
            TableRow(("D, E", "multi-crop & dense"), (23.7, 6.8, 6.8), _both("D", "E")),
        ),
    ),
    "vgg7": PaperTable(
        "Simonyan & Zisserman 2014, Table 7: comparison with other methods, ILSVRC-2012",
        ("method", "nets"),
        (TOP1, TOP5, TOP5_TEST),
        (
            TableRow(("VGG, multi-crop & dense", "2"), (23.7, 6.8, 6.8), _both("D", "E")),
            TableRow(("VGG, multi-crop & dense", "1"), (24.4, 7.1, 7.0), _both("E")),  # Table 5's E
            TableRow(("VGG, submission", "7"), (24.7, 7.5, 7.3), SUBMISSION),
            TableRow(("GoogLeNet", "1"), (None, 7.9, None), _googlenets(1, Crops144()), ONE_FIGURE),
            TableRow(("GoogLeNet", "7"), (None, 6.7, None), _googlenets(7, Crops144()), ONE_FIGURE),
            TableRow(("MSRA", "11"), (None, None, 8.1), note=ANOTHER),
            TableRow(("MSRA", "1"), (27.9, 9.1, 9.1), note=ANOTHER),
            TableRow(("Clarifai", "many"), (None, None, 11.7), note=ANOTHER),
            TableRow(("Clarifai", "1"), (None, None, 12.5), note=ANOTHER),
            TableRow(("Zeiler & Fergus", "6"), (36.0, 14.7, 14.8), note=ANOTHER),
            TableRow(("Zeiler & Fergus", "1"), (37.5, 16.0, 16.1), note=ANOTHER),
            TableRow(("OverFeat", "7"), (34.0, 13.2, 13.6), note=ANOTHER),
            TableRow(("OverFeat", "1"), (35.7, 14.2, None), note=ANOTHER),
            TableRow(("Krizhevsky et al.", "5"), (38.1, 16.4, 16.4), _alexnets(5)),
            TableRow(("Krizhevsky et al.", "1"), (40.7, 18.2, None), _alexnets(1)),
        ),
    ),
    "googlenet2": PaperTable(
        "Szegedy et al. 2014, Table 2: the classification challenges of 2012 to 2014",
        ("team", "year", "place", "external data"),
        (TOP5_TEST,),
        (
            TableRow(("SuperVision", "2012", "", "no"), (16.4,), _alexnets(5)),  # A Table 2
            TableRow(("SuperVision", "2012", "", "ImageNet 22k"), (15.3,), note=TWO_UNBUILT),
            TableRow(("Clarifai", "2013", "", "no"), (11.7,), note=ANOTHER),
            TableRow(("Clarifai", "2013", "", "ImageNet 22k"), (11.2,), note=ANOTHER),
            TableRow(("MSRA", "2014", "3rd", ""), (7.35,), note=ANOTHER),
            TableRow(("VGG", "2014", "2nd", ""), (7.32,), SUBMISSION),  # V Table 6 has 7.3
            TableRow(("GoogLeNet", "2014", "1st", ""), (6.67,), _googlenets(7, Crops144())),
        ),
    ),
    "googlenet3": PaperTable(
        "Szegedy et al. 2014, Table 3: nets and crops, ILSVRC-2012",
        ("models", "crops", "cost"),
        (TOP5,),
        tuple(
            TableRow((nets, crops, cost), (error,), _googlenets(int(nets), protocol), note)
            for nets, crops, cost, error, protocol, note in (
                ("1", "1", "1", 10.07, CenterCrop(), ""),
                ("1", "10", "10", 9.15, TenCrops(), ""),
                ("1", "144", "144", 7.89, Crops144(), ""),
                ("7", "1", "7", 8.09, CenterCrop(), ""),
                ("7", "10", "70", 7.62, TenCrops(), ""),
                ("7", "144", "1008", 6.67, Crops144(), SLIP),
            )
        ),
    ),
}
