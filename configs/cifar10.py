"""VGG A at 1/4 width on 32-pixel images: any folder of CIFAR-10 JPEGs with train/ and val/.

COMMAND   jaxcnn train --config=cifar10 --config.data.source=folder:PATH
DATA      class folders in PATH/train and PATH/val (docs/data.md describes the subset)
TIME      9 minutes for 10,000 images, 18 epochs, on two cores of an AMD EPYC
MEMORY    under 2 GB
EXPECT    59.9 % top-1 on the subset's 2,000 test images (results/cifar10_vgg_a)
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
                "pca": "off",  # as in results/cifar10_vgg_a
                "mean": (125.3, 123.0, 113.9),  # mean of CIFAR-10's training images
            },
            "schedule": {"rate": 5e-3, "drops": (11.0, 15.0)},
            "evals": ({"name": "centre", "scale": 32, "every_epochs": 2.0},),
            "checkpoint": {"every_epochs": 5.0},
        }
    )
    return config
