"""What is known of each net, at 224 pixels and 1000 classes: counted by hand from the papers' tables.

The CIFAR-10 net is at its own 24 pixels and 10 classes.

`relus` and the other operations are those of the inference form, for each tower where there are
two. A new net or column has to have its facts here: test_counts.py fails until it does.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Facts:
    net: str
    fields: dict[str, Any]
    parameters: int
    macs: int
    shapes: dict[str, tuple[int, ...]]
    relus: int
    max_pools: int
    average_pools: int = 0
    lrns: int = 0
    dropouts: int = 2
    layer_parameters: dict[str, int] = field(default_factory=dict)


def alexnet_shapes(conv1: int, conv2: int, conv3: int, conv4: int, conv5: int):
    return {
        "conv1": (55, 55, conv1),
        "pool1": (27, 27, conv1),
        "conv2": (27, 27, conv2),
        "pool2": (13, 13, conv2),
        "conv3": (13, 13, conv3),
        "conv4": (13, 13, conv4),
        "conv5": (13, 13, conv5),
        "pool5": (6, 6, conv5),
        "fc6": (4096,),
        "fc7": (4096,),
        "fc8": (1000,),
    }


def vgg_shapes(*convolutions: int):
    shapes: dict[str, tuple[int, ...]] = {"fc6": (4096,), "fc7": (4096,), "fc8": (1000,)}
    for block, (count, side, maps) in enumerate(
        zip(convolutions, (224, 112, 56, 28, 14), (64, 128, 256, 512, 512), strict=True), start=1
    ):
        for position in range(1, count + 1):
            shapes[f"conv{block}_{position}"] = (side, side, maps)
        shapes[f"pool{block}"] = (side // 2, side // 2, maps)
    return shapes


def vgg(column: str, parameters: int, macs: int, convolutions: tuple[int, ...], lrns: int = 0):
    return Facts(
        "vgg",
        {"column": column},
        parameters,
        macs,
        vgg_shapes(*convolutions),
        relus=sum(convolutions) + 2,
        max_pools=5,
        lrns=lrns,
    )


CUDA_CONVNET_SHAPES = {
    "conv1": (24, 24, 64),
    "pool1": (12, 12, 64),
    "conv2": (12, 12, 64),
    "pool2": (6, 6, 64),
    "local3": (6, 6, 64),
    "local4": (6, 6, 32),
    "fc": (10,),
}

GOOGLENET_SHAPES = {
    "conv1": (112, 112, 64),
    "pool1": (56, 56, 64),
    "conv2": (56, 56, 192),
    "pool2": (28, 28, 192),
    "inception_3a": (28, 28, 256),
    "inception_3b": (28, 28, 480),
    "pool3": (14, 14, 480),
    "inception_4a": (14, 14, 512),
    "inception_4b": (14, 14, 512),
    "inception_4c": (14, 14, 512),
    "inception_4d": (14, 14, 528),
    "inception_4e": (14, 14, 832),
    "pool4": (7, 7, 832),
    "inception_5a": (7, 7, 832),
    "inception_5b": (7, 7, 1024),
    "average_pool": (1, 1, 1024),
    "fc": (1000,),
    "aux_4a/pool": (4, 4, 512),
    "aux_4d/pool": (4, 4, 528),
    "aux_4a/conv": (4, 4, 128),
    "aux_4d/fc1": (1024,),
}

FACTS = {
    "alexnet": Facts(
        "alexnet",
        {},
        60_965_224,
        724_406_816,
        alexnet_shapes(96, 256, 384, 384, 256),
        # conv1, conv3 and the fully connected layers are computed for both towers at once.
        relus=2 + 3 * 2 + 2,
        max_pools=6,
        lrns=4,
        layer_parameters={
            "conv1": 34_944,
            "conv2": 307_456,
            "conv3": 885_120,
            "conv4": 663_936,
            "conv5": 442_624,
            "fc6": 37_752_832,
            "fc7": 16_781_312,
            "fc8": 4_097_000,
        },
    ),
    "alexnet_one_gpu": Facts(
        "alexnet",
        {"towers": 1},
        59_798_312,
        391_514_384,
        alexnet_shapes(48, 128, 192, 192, 256),
        relus=7,
        max_pools=3,
        lrns=2,
        layer_parameters={
            "conv1": 17_472,
            "conv2": 153_728,
            "conv3": 221_376,
            "conv4": 331_968,
            "conv5": 442_624,
        },
    ),
    "alexnet_ungrouped": Facts(
        "alexnet",
        {"ungrouped": True},
        62_378_344,
        1_135_256_096,
        alexnet_shapes(96, 256, 384, 384, 256),
        relus=7,
        max_pools=3,
        lrns=4,
    ),
    # CaffeNet: the same layers, but each LRN follows its pool.
    "alexnet_pool_norm": Facts(
        "alexnet",
        {"order": "pool_norm"},
        60_965_224,
        724_406_816,
        {
            **alexnet_shapes(96, 256, 384, 384, 256),
            "norm1": (27, 27, 96),
            "norm2": (13, 13, 256),
        },
        relus=2 + 3 * 2 + 2,
        max_pools=6,
        lrns=4,
    ),
    "alexnet_one_weird_trick": Facts(
        "alexnet",
        {"towers": 1, "widths": "one_weird_trick", "lrn": "off"},
        61_100_840,
        714_188_480,
        alexnet_shapes(64, 192, 384, 256, 256),
        relus=7,
        max_pools=3,
        layer_parameters={"conv1": 23_296, "conv2": 307_392, "conv5": 590_080},
    ),
    "vgg_a": vgg("A", 132_863_336, 7_609_090_048, (1, 1, 2, 2, 2)),
    "vgg_a_lrn": vgg("A-LRN", 132_863_336, 7_609_090_048, (1, 1, 2, 2, 2), lrns=1),
    "vgg_b": vgg("B", 133_047_848, 11_308_466_176, (2, 2, 2, 2, 2)),
    "vgg_c": vgg("C", 133_638_952, 11_770_888_192, (2, 2, 3, 3, 3)),
    "vgg_d": vgg("D", 138_357_544, 15_470_264_320, (2, 2, 3, 3, 3)),
    "vgg_e": vgg("E", 143_667_240, 19_632_062_464, (2, 2, 4, 4, 4)),
    "vgg_b_5x5": vgg("B-5x5", 134_503_528, 9_356_017_664, (1, 1, 1, 1, 1)),
    "googlenet": Facts(
        "googlenet",
        {},
        6_998_552,
        1_582_671_872,
        GOOGLENET_SHAPES,
        relus=57,
        max_pools=13,
        average_pools=1,
        lrns=2,
        dropouts=1,
        layer_parameters={
            "conv1": 9_472,
            "conv2_reduce": 4_160,
            "conv2": 110_784,
            "inception_3a": 163_696,
            "inception_3b": 388_736,
            "inception_4a": 376_176,
            "inception_4b": 449_160,
            "inception_4c": 510_104,
            "inception_4d": 605_376,
            "inception_4e": 868_352,
            "inception_5a": 1_043_456,
            "inception_5b": 1_444_080,
            "fc": 1_025_000,
            "aux_4a": 3_188_840,
            "aux_4d": 3_190_888,
        },
    ),
    "googlenet_separable": Facts(
        "googlenet",
        {"stem": "separable"},
        6_991_856,
        1_498_677_248,
        {"conv1_depthwise": (112, 112, 24), "conv1_pointwise": (112, 112, 64)},
        relus=57,
        max_pools=13,
        average_pools=1,
        lrns=2,
        dropouts=1,
        layer_parameters={"conv1_depthwise": 1_176, "conv1_pointwise": 1_600},
    ),
    # torchvision's 6,624,904 without its 7,280 scales: its offsets are our biases.
    "googlenet_3x3_branch": Facts(
        "googlenet",
        {"branch5x5": 3, "pool4": "2/2", "lrn": False},
        6_617_624,
        1_498_376_192,
        GOOGLENET_SHAPES,
        relus=57,
        max_pools=13,
        average_pools=1,
        dropouts=1,
        layer_parameters={"inception_3a": 155_504, "inception_5b": 1_345_776},
    ),
    "googlenet_same_padding": Facts(
        "googlenet",
        {"conv1_padding": "same", "branch5x5": 3, "pool4": "2/2", "lrn": False},
        6_617_624,
        1_498_376_192,
        GOOGLENET_SHAPES,
        relus=57,
        max_pools=13,
        average_pools=1,
        dropouts=1,
    ),
    "cuda_convnet": Facts(
        "cuda_convnet",
        {},
        2_112_970,
        19_512_576,
        {**CUDA_CONVNET_SHAPES, "norm1": (12, 12, 64), "norm2": (12, 12, 64)},
        relus=4,
        max_pools=2,
        lrns=2,
        dropouts=0,
        layer_parameters={
            "conv1": 4_864,
            "conv2": 102_464,
            "local3": 1_329_408,  # 36 positions of 3·3·64·64 weights and 64 biases
            "local4": 664_704,
            "fc": 11_530,
        },
    ),
    "cuda_convnet_shared": Facts(
        "cuda_convnet",
        {"local": "shared", "lrn": False, "pooling": "non_overlapping"},
        174_250,
        19_512_576,  # sharing weights saves none
        CUDA_CONVNET_SHAPES,
        relus=4,
        max_pools=2,
        dropouts=0,
        layer_parameters={"local3": 36_928, "local4": 18_464},
    ),
}
