"""Figures that the papers print about their nets, for comparison only.

Some are errors of the papers, so nothing is derived from them: `jaxcnn.models.summary` shows each with our
own count. They describe the papers' nets and are left out for any other net.
"""

from dataclasses import dataclass

from jaxcnn.models.alexnet import AlexNet
from jaxcnn.models.googlenet import GoogLeNet
from jaxcnn.models.net import Net
from jaxcnn.models.vgg import VGG

KIBI = 1024.0  # the K of GoogLeNet's parameter column: 112K is 114,688 weights


@dataclass(frozen=True)
class PaperFigure:
    """A printed figure, of the `layers` together where it belongs to rows."""

    of: str  # 'parameters', 'macs' or 'neurons'
    text: str  # as printed
    value: float
    unit: float  # the value of one in the last printed digit
    where: str
    layers: tuple[str, ...] = ()
    ours: int = -1  # our count, once known

    @property
    def agrees(self) -> bool:
        """Whether our count rounds or cuts to the printed figure."""
        return abs(self.ours - self.value) < self.unit


# Figure 2's caption. conv1's is an error: 55·48·96, where the layer has 55·55·96 = 290,400.
ALEXNET_NEURONS = {
    "conv1": 253_440,
    "conv2": 186_624,
    "conv3": 64_896,
    "conv4": 64_896,
    "conv5": 43_264,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
}

# Table 2, millions of parameters. Section 4.1 gives none for B with 5x5 kernels.
VGG_MILLIONS = {"A": 133, "A-LRN": 133, "B": 133, "C": 134, "D": 138, "E": 144}

# Table 1: K parameters and million operations. conv1's are those of a separable stem; 5a's and the
# parameters from 4a on were written for slightly different widths.
GOOGLENET_TABLE = {
    ("conv1",): ("2.7", "34"),
    ("conv2_reduce", "conv2"): ("112", "360"),
    ("inception_3a",): ("159", "128"),
    ("inception_3b",): ("380", "304"),
    ("inception_4a",): ("364", "73"),
    ("inception_4b",): ("437", "88"),
    ("inception_4c",): ("463", "100"),
    ("inception_4d",): ("580", "119"),
    ("inception_4e",): ("840", "170"),
    ("inception_5a",): ("1072", "54"),
    ("inception_5b",): ("1388", "71"),
    ("fc",): ("1000", "1"),
}


def paper_rows(net: Net) -> dict[str, tuple[PaperFigure, ...]]:
    """The paper's figures by layer; empty for any other net."""
    if isinstance(net, AlexNet) and _is_the_papers(net):
        return {
            layer: (PaperFigure("neurons", f"{count:,}", float(count), 1.0, "Figure 2", (layer,)),)
            for layer, count in ALEXNET_NEURONS.items()
        }
    if isinstance(net, GoogLeNet) and _is_the_papers(net):
        rows = {}
        for layers, (parameters, operations) in GOOGLENET_TABLE.items():
            if layers == ("conv1",) and net.stem == "separable":
                layers = ("conv1_depthwise", "conv1_pointwise")
            unit, count = KIBI / 10 if "." in parameters else KIBI, float(parameters) * KIBI
            macs = float(operations) * 1e6
            rows[layers[-1]] = (
                PaperFigure("parameters", f"{parameters}K", count, unit, "Table 1", layers),
                PaperFigure("macs", f"{operations}M", macs, 1e6, "Table 1", layers),
            )
        return rows
    return {}


def paper_totals(net: Net) -> tuple[PaperFigure, ...]:
    """The paper's figures for the whole net; empty for any other net."""
    if not _is_the_papers(net):
        return ()
    if isinstance(net, AlexNet):
        return (
            PaperFigure("parameters", "60 million", 60e6, 1e6, "abstract"),
            PaperFigure("neurons", "650,000", 650e3, 10e3, "abstract"),
        )
    if isinstance(net, VGG) and net.column in VGG_MILLIONS:
        millions = VGG_MILLIONS[net.column]
        return (PaperFigure("parameters", f"{millions} million", millions * 1e6, 1e6, "Table 2"),)
    if isinstance(net, GoogLeNet):
        return (PaperFigure("macs", "1.5 billion", 1.5e9, 0.1e9, "section 1"),)
    return ()


def _is_the_papers(net: Net) -> bool:
    """Whether the paper prints figures of this net."""
    if (net.num_classes, net.image_size, net.width) != (1000, 224, 1.0):
        return False
    if isinstance(net, AlexNet):
        options = (net.order, net.widths) == ("norm_pool", "2012")
        return net.towers == 2 and not net.ungrouped and not net.drop_layer and options
    if isinstance(net, GoogLeNet):
        options = (net.branch5x5, net.pool4, net.conv1_padding) == (5, "3/2", "caffe")
        return net.module == "reduced" and net.head == "average" and options
    return True
