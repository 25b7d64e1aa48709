"""GoogLeNet's structural options on ImageNet: naive modules and the separable stem.

COMMAND   jaxcnn compare googlenet --out=runs/googlenet_comparisons
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured: two seeds per variant, four runs of configs/googlenet.py per comparison
MEMORY    2.9 GB for the base net (configs/googlenet.py)
EXPECT    unstated: the paper reports no difference for either
"""

COMMON = {"evals": ({"name": "centre", "scale": 256},)}


def get_comparisons() -> dict[str, dict]:
    return {
        "modules": {
            "about": (
                "Szegedy et al. 2014, Figure 2: inception modules with 1x1 reductions (b) and without (a, "
                "naive)."
            ),
            "base": "googlenet",
            "overrides": COMMON,
            "variants": {"reduced": {}, "naive": {"model.module": "naive"}},
            "seeds": (0, 1),
        },
        "stem": {
            "about": (
                "Szegedy et al. 2014, Table 1: the parameters and operations of conv1 match a separable "
                "convolution, the text a plain one."
            ),
            "base": "googlenet",
            "overrides": COMMON,
            "variants": {"convolution": {}, "separable": {"model.stem": "separable"}},
            "seeds": (0, 1),
        },
    }
