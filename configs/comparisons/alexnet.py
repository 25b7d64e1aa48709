"""AlexNet's two structural comparisons on ImageNet: one or two towers, and one layer removed.

COMMAND   jaxcnn compare alexnet --out=runs/alexnet_comparisons
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured: two seeds per variant, six and ten runs of configs/alexnet.py
MEMORY    3.1 GB for the base net (configs/alexnet.py)
EXPECT    the paper's differences, quoted in `about`
"""

COMMON = {"evals": ({"name": "ten_crops", "scale": 256},)}


def get_comparisons() -> dict[str, dict]:
    return {
        "towers": {
            "about": (
                "Krizhevsky et al. 2012, section 3.2: two towers reduce the top-1 and top-5 error by 1.7 and "
                "1.2 points against a one-GPU net with half the kernels in each convolution but the last."
            ),
            "base": "alexnet",
            "overrides": COMMON,
            "variants": {
                "two towers": {},
                "one tower": {"model.towers": 1},
                "two towers, all connected": {"model.ungrouped": True},
            },
            "seeds": (0, 1),
        },
        "depth": {
            "about": (
                "Krizhevsky et al. 2012, section 7: removing any of the middle layers loses about 2 points "
                "of top-1."
            ),
            "base": "alexnet",
            "overrides": COMMON,
            "variants": {
                "base": {},
                **{f"no conv{n}": {"model.drop_layer": f"conv{n}"} for n in (2, 3, 4, 5)},
            },
            "seeds": (0, 1),
        },
    }
