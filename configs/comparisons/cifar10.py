"""The papers' comparisons at small scale: narrow nets on 10,000 CIFAR-10 images, three seeds.

COMMAND   jaxcnn compare cifar10 --out=runs/cifar10_ablations
DATA      folder:data/cifar10 (docs/data.md describes how to rebuild the subset)
HOURS     1.0 for 48 runs on two cores of an AMD EPYC, 40 to 88 s per run
MEMORY    not measured
EXPECT    the table in docs/recipes.md; reports in results/cifar10_ablations
"""

# Means of CIFAR-10's training images, R, G, B.
MEAN = (125.3, 123.0, 113.9)
SEEDS = (0, 1, 2)
COMMON = {
    "data.source": "folder:data/cifar10",
    "augment.mean": MEAN,
    "augment.pca": "off",
    "log.tensorboard": False,
    "log.every_steps": 50,
    "checkpoint.every_epochs": 2.0,
}

RELU_TANH = {
    "about": (
        "Krizhevsky et al. 2012, Figure 1: a four-layer net with ReLU reaches 25 % training error "
        "six times faster than with tanh; no regularisation; each at its best rate."
    ),
    "base": "cifar10_cuda_convnet",
    "overrides": {
        **COMMON,
        "model.width": 0.5,
        "batch_size": 32,
        "epochs": 13.0,
        "augment.sampling": "center_crop",
        "augment.flip": 0.0,
        "optim.weight_decay": 0.0,
        "schedule.drops": (),
        "evals": ({"name": "centre", "scale": 32, "every_epochs": 0.0},),
    },
    "variants": {"ReLU": {}, "tanh": {"model.activation": "tanh"}},
    "grid": {"schedule.rate": (0.0005, 0.001, 0.003)},
    "measure": "epochs_to_train_error=0.25",
    "seeds": SEEDS,
}
ALEXNET = {
    "about": (
        "Krizhevsky et al. 2012, top-1 on ImageNet: LRN +1.4 points (3.3), overlapping pools "
        "+0.4 (3.4); without crops and mirrors (4.1) or dropout (4.2) 'substantial overfitting'. "
        "Here without colour shifts and with an RGB mean; larger first weights and biases of "
        "0.1, for the narrow net."
    ),
    "base": "alexnet",
    "overrides": {
        **COMMON,
        "model.width": 0.25,
        "model.image_size": 67,
        # A narrow net on small images: fc6 has 64 inputs, not 9,216, and needs larger weights.
        "model.init_std": 0.02,
        "model.init_std_hidden": 0.03,
        "model.init_bias": 0.1,
        "augment.scale": (76, 76),
        "batch_size": 32,
        "epochs": 7.0,
        "schedule.rate": 0.005,
        "schedule.drops": (5.5,),
        "evals": ({"name": "centre", "scale": 76, "every_epochs": 1.0},),
    },
    "variants": {
        "base": {},
        "no LRN": {"model.lrn": "off"},
        "non-overlapping pools": {"model.pooling": "non_overlapping"},
        "no crops, no mirrors": {"augment.sampling": "center_crop", "augment.flip": 0.0},
        "no dropout": {"model.dropout": 0.0},
    },
    "seeds": SEEDS,
}
VGG_B = {
    "about": (
        "Simonyan & Zisserman 2014, section 4.1: net B with one 5x5 for each pair of 3x3 has a top-1 "
        "error 7 % higher on ImageNet."
    ),
    "base": "cifar10",
    "overrides": {
        **COMMON,
        "model.width": 0.125,
        "model.column": "B",
        "epochs": 9.0,
        "schedule.drops": (6.5, 8.0),
        "evals": ({"name": "centre", "scale": 32, "every_epochs": 1.0},),
    },
    "variants": {"pairs of 3x3": {}, "single 5x5": {"model.column": "B-5x5"}},
    "seeds": SEEDS,
}
GOOGLENET = {
    "about": (
        "Szegedy et al. 2014 train with auxiliary heads (section 5) and average (section 6), without "
        "figures for either. Here with VGG's crops in place of patches by area, without distortions."
    ),
    "base": "googlenet",
    "overrides": {
        **COMMON,
        "model.width": 0.125,
        "model.image_size": 80,
        "augment.sampling": "random_crop",
        "augment.scale": (88, 96),
        "augment.interpolation": ("bilinear",),
        "augment.color_jitter": (1.0, 1.0),
        "batch_size": 32,
        "epochs": 5.0,
        "average.decay": 0.99,  # a window of 100 of about 1,560 steps
        "evals": ({"name": "centre", "scale": 96, "every_epochs": 1.0},),
    },
    "variants": {
        "base": {},
        "no auxiliary heads": {"model.auxiliary": False},
        "no averaging": {"average.kind": "off"},
    },
    "seeds": SEEDS,
}


def get_comparisons() -> dict[str, dict]:
    return {"relu_tanh": RELU_TANH, "alexnet": ALEXNET, "vgg_b": VGG_B, "googlenet": GOOGLENET}
