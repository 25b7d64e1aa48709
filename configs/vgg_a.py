"""VGG A, 11 layers (Simonyan & Zisserman 2014), on ImageNet. The other columns build on this file.

COMMAND   jaxcnn train --config=vgg_a
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured; docs/performance.md has images per second
EXPECT    paper: 29.6 % top-1 and 10.4 % top-5 error on the validation set (Table 3: S = Q = 256, dense)
MEMORY    20.4 GB for a step of 256 on one device (float32, compiled for CPU); on other devices: add --dry_run
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "epochs": 74.0,  # section 3.1: 370 K iterations
            "batch_size": 256,  # section 3.1
            "model": {
                "name": "vgg",
                "column": "A",  # Table 1
                # section 3.1: Glorot & Bengio's initializer works without net A; the distribution is unstated
                "kernel_init": "glorot_uniform",
            },
            "data": {"source": "tfds:imagenet2012"},
            "augment": {
                "sampling": "random_crop",  # section 3.1: one crop of the rescaled image
                "scale": (256, 256),  # section 3.1: S, smallest side of the rescaled image
                "flip": 0.5,  # section 3.1
                # section 3.1: the colour shift of Krizhevsky et al. 2012, section 4.1. The unit of the
                # formula is unstated: pixel values of 0..1 here.
                "pca": "unit",
                "pca_std": 0.1,
                "statistics": "imagenet",  # for 'pca': Krizhevsky's values (cuda-convnet2)
                # section 2.1: the mean RGB value; values: readme of the released weights
                "mean": (123.68, 116.779, 103.939),
            },
            "optim": {
                "name": "momentum",
                "momentum": 0.9,  # section 3.1
                "weight_decay": 5e-4,  # section 3.1
            },
            "schedule": {
                "name": "listed",
                "rate": 1e-2,  # section 3.1
                # section 3.1: three drops, when validation stops improving. The epochs are unstated: a
                # quarter of the run for each learning rate, as in Krizhevsky's cuda-convnet2 configs.
                "drops": (18.5, 37.0, 55.5),
                "factor": 0.1,  # section 3.1
            },
            "evals": evals("A", 256, 256),
        }
    )


# Section 4.2: the test scales Q of Table 4, by the lowest and highest S.
SEVERAL_Q = {
    (256, 256): (224, 256, 288),
    (384, 384): (352, 384, 416),
    (256, 512): (256, 384, 512),
}


def evals(column: str, low: int, high: int) -> tuple[dict, ...]:
    """The paper's protocols for a column trained at S from `low` to `high`, and a centre crop to monitor."""
    q = (low + high) // 2  # section 3.2
    several = SEVERAL_Q[low, high]
    found = (
        {"name": "centre", "scale": q, "every_epochs": 1.0},
        {"name": "dense", "scales": (q,)},  # Table 3
    )
    if column not in ("A", "A-LRN"):
        found += ({"name": "dense", "scales": several},)  # Table 4
    if column in ("D", "E") and low < high:
        found += ({"name": "multi_crop", "scales": several},)  # Table 5
        found += ({"name": "multi_crop_dense", "scales": several},)  # Table 5
    return found


def get_chain() -> tuple[dict, ...]:
    return chain("A")


def chain(column: str) -> tuple[dict, ...]:
    """The training stages of a column in the order of section 3.1, for `jaxcnn chain`.

    Table 3 has results at S = 384 and S in [256, 512] only for C, D and E.
    """
    deeper = column not in ("A", "A-LRN")
    # Section 3.1: the first four convolutions and the fully connected layers come from net A. The shapes
    # match by name, not by position in the net.
    from_net_a = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
    later = {
        "schedule.rate": 1e-3,  # section 3.1 for S = 384; unstated for S in [256, 512]
        # Unstated: the first stage's schedule after its first drop, three quarters of its length.
        "epochs": 55.5,
        "schedule.drops": (18.5, 37.0),
    }
    at_384 = {**later, "augment.scale": (384, 384), "evals": evals(column, 384, 384)}
    jittered = {**later, "augment.scale": (256, 512), "evals": evals(column, 256, 512)}
    return (
        *([{"name": "net_a", "config": "vgg_a"}] if deeper else []),
        {
            "name": "s256",
            **({"start": "net_a", "overrides": {"init.layers": from_net_a}} if deeper else {}),
        },
        {"name": "s384", "start": "s256", "overrides": at_384},
        {"name": "s256_512", "start": "s384", "overrides": jittered},
    )
