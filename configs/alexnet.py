"""AlexNet, two towers (Krizhevsky, Sutskever & Hinton 2012), on ImageNet.

COMMAND   python main.py --config=configs/alexnet.py
PAPER     40.7 % top-1 and 18.2 % top-5 error on the validation set (Table 2, 1 CNN: ten crops averaged)
MEMORY    3.1 GB for a step of 128 on one device (float32, compiled for CPU); elsewhere: add --dry_run
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
                # section 4.1. The unit of its formula is unstated: here pixels of 0..1; 'deviation' is what
                # Krizhevsky's cuda-convnet2 computes.
                "pca": "unit",
                "pca_std": 0.1,  # section 4.1
                "mean": "per_pixel",  # section 2; or 'rgb'
                # Of the training images, computed at the first start (jaxcnn statistics
                # computes them once for many runs).
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
                # section 5: three drops, when validation stops improving. At which epochs is unstated: a
                # quarter of the run for each rate, as in Krizhevsky's cuda-convnet2 configs.
                "drops": (22.5, 45.0, 67.5),
                "factor": 0.1,  # section 5
            },
            "evals": (
                {"name": "centre", "scale": 256, "every_epochs": 1.0},  # to watch: cheap
                {"name": "ten_crops", "scale": 256},  # section 4.1, Table 2
            ),
        }
    )
