"""VGG A at 1/4 width on 32-pixel images: any folder of CIFAR-10 JPEGs with train/ and val/.

COMMAND   python main.py --config=configs/cifar10.py --config.data.source=folder:PATH
DATA      class folders below PATH/train and PATH/val (docs/data.md has the subset of results/)
MEMORY    under 2 GB
"""

from ml_collections import ConfigDict

from configs import vgg_a


def get_config() -> ConfigDict:
    config = vgg_a.get_config()
    config.update(
        {
            "epochs": 18.0,
            "batch_size": 32,
            "model": {"width": 0.25, "image_size": 32},
            "data": {"source": "folder:data/cifar10"},
            "augment": {
                "scale": (32, 40),
                "pca": "off",  # results/cifar10_vgg_a was trained without
                "mean": (125.3, 123.0, 113.9),  # mean of CIFAR-10's training images
            },
            "schedule": {"rate": 5e-3, "drops": (11.0, 15.0)},
            "evals": ({"name": "centre", "scale": 32, "every_epochs": 2.0},),
            "checkpoint": {"every_epochs": 5.0},
        }
    )
    return config
