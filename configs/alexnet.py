"""AlexNet, two towers (Krizhevsky, Sutskever & Hinton 2012), on ImageNet.

COMMAND   jaxcnn train --config=alexnet
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured; docs/performance.md has images per second
EXPECT    paper: 40.7 % top-1, 18.2 % top-5 error on the validation set (Table 2, 1 CNN: ten crops averaged)
MEMORY    3.1 GB for a step of 128 on one device (float32, compiled for CPU); on other devices: add --dry_run
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "epochs": 90.0,  # section 5: roughly 90 cycles
            "batch_size": 128,  # section 5
            "model": {"name": "alexnet"},
            "data": {"source": "tfds:imagenet2012"},
            "augment": {
                "sampling": "random_crop_in_square",  # section 2: the central square; 4.1: 224 crops of it
                "scale": (256, 256),  # section 2
                "flip": 0.5,  # section 4.1
                # section 4.1. The unit of the formula is unstated: pixel values of 0..1 here;
                # 'deviation' is the form of Krizhevsky's cuda-convnet2.
                "pca": "unit",
                "pca_std": 0.1,  # section 4.1
                "mean": "per_pixel",  # section 2; or 'rgb'
                # Computed from the training images when the run first starts (`jaxcnn statistics` computes
                # them once for many runs).
                "statistics": "auto",
            },
            "optim": {
                "name": "momentum",
                "momentum": 0.9,  # section 5
                "weight_decay": 5e-4,  # section 5
            },
            "schedule": {
                "name": "listed",
                "rate": 0.01,  # section 5
                # section 5: three drops, when validation stops improving. The epochs are unstated: a quarter
                # of the run for each learning rate, as in Krizhevsky's cuda-convnet2 configs.
                "drops": (22.5, 45.0, 67.5),
                "factor": 0.1,  # section 5
            },
            "evals": (
                {"name": "centre", "scale": 256, "every_epochs": 1.0},  # cheap, for monitoring
                {"name": "ten_crops", "scale": 256},  # section 4.1, Table 2
            ),
        }
    )
