"""Where a program keeps the parameters of a net: types of the tables in `names`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple


class BatchNorm(NamedTuple):
    """The tensors of a batch normalization that follows a convolution; '' where there is none."""

    scale: str
    offset: str
    mean: str
    variance: str
    epsilon: float


class Place(NamedTuple):
    """Where a parameter lies in a file.

    Attributes:
        leaf: the parameter here: 'conv1_1/kernel', 'inception_3a/conv1x1/bias'.
        tensor: its name there; '' for the bias of a convolution without one, before a batch normalization.
        layout: of the stored array (`kernel_layout`); 'O' for a bias.
        norm: the batch normalization that is folded into the kernel and bias, or None.
    """

    leaf: str
    tensor: str
    layout: str
    norm: BatchNorm | None = None


@dataclasses.dataclass(frozen=True)
class Form:
    """A net as a program stores it.

    Attributes:
        program: 'torchvision', 'keras', 'caffe', ...
        model: the fields that make the net the same function, as in the config's section `model`, without
            num_classes and width: {'name': 'vgg', 'column': 'D'}.
        places: of every parameter of the net; those of GoogLeNet's auxiliary heads only if the program
            trains them. A file may lack all of an auxiliary head.
        dropped: regular expression of a tensor name -> why tensors of that name are left out.
        layer_order: types of two layers of the program, in the order of the first ones in the net, where
            only that distinguishes it from another; () for none.
    """

    program: str
    model: Mapping[str, Any]
    places: tuple[Place, ...]
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    layer_order: tuple[str, ...] = ()
