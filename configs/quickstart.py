"""The embedded default: handwritten digits by VGG A at 1/8 width, the code path of vgg_e in two minutes.

COMMAND   python main.py
DATA      scikit-learn's 1,797 handwritten digits, upscaled, as a tfds dataset of JPEGs (made once)
MEMORY    under 2 GB
"""

from ml_collections import ConfigDict

from configs import vgg_a


def get_config() -> ConfigDict:
    config = vgg_a.get_config()
    config.update(
        {
            "epochs": 20.0,
            "batch_size": 32,
            "model": {"width": 0.125, "image_size": 56},
            "data": {"source": "tfds:digits"},
            "augment": {
                "scale": (56, 60),
                "flip": 0.0,  # a mirrored digit is another sign
                "pca": "off",  # the digits are grey
                "mean": (127.5, 127.5, 127.5),
            },
            "schedule": {"rate": 5e-3, "drops": (15.0, 18.0)},
            "evals": ({"name": "centre", "scale": 56, "every_epochs": 5.0},),
            "checkpoint": {"every_epochs": 5.0},
        }
    )
    return config
