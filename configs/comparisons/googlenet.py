"""GoogLeNet's structural options on ImageNet: naive modules and the separable stem.

COMMAND   jaxcnn compare googlenet --out=runs/googlenet_comparisons
DATA      tfds:imagenet2012 (docs/data.md prepares it)
HOURS     two seeds of each variant: four runs each of configs/googlenet.py; nobody has run them here
EXPECT    unstated: the paper gives no figures for either
"""

COMMON = {"evals": ({"name": "centre", "scale": 256},)}


def get_comparisons() -> dict[str, dict]:
    return {
        "modules": {
            "about": (
                "Szegedy et al. 2014, Figure 2: inception modules with 1x1 reductions (b), which the naive "
                "version (a) lacks."
            ),
            "base": "googlenet",
            "overrides": COMMON,
            "variants": {"reduced": {}, "naive": {"model.module": "naive"}},
            "seeds": (0, 1),
        },
        "stem": {
            "about": (
                "Szegedy et al. 2014, Table 1: its parameters and operations of conv1 fit a separable "
                "convolution, its text a plain one."
            ),
            "base": "googlenet",
            "overrides": COMMON,
            "variants": {"convolution": {}, "separable": {"model.stem": "separable"}},
            "seeds": (0, 1),
        },
    }
