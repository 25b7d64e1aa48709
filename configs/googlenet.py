"""GoogLeNet with its two auxiliary heads (Szegedy et al. 2014), on ImageNet.

COMMAND   jaxcnn train --config=googlenet
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured; docs/performance.md has images per second
EXPECT    paper: 10.07 % top-5 error on the validation set (Table 3: one net, one crop)
MEMORY    2.9 GB for a step of 32 on one device (float32, compiled for CPU); on other devices: add --dry_run
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "epochs": 250.0,  # unstated; BVLC bvlc_googlenet: 10 M iterations of 32
            "batch_size": 32,  # unstated; BVLC bvlc_googlenet
            "model": {"name": "googlenet"},
            "data": {"source": "tfds:imagenet2012"},
            "augment": {
                "sampling": "random_resized_crop",  # section 6
                "area": (0.08, 1.0),  # section 6
                "aspect": (3 / 4, 4 / 3),  # section 6
                "aspect_law": "log_uniform",  # unstated; symmetric in wide and tall. Or 'uniform'
                "interpolation": ("bilinear", "area", "nearest", "cubic"),  # section 6
                "flip": 0.5,  # unstated; BVLC bvlc_googlenet
                # section 6 cites Howard (arXiv 1312.5402): factors 0.5 to 1.5
                "color_jitter": (0.5, 1.5),
                "pca": "unit",  # Howard's last distortion: Krizhevsky et al. 2012, section 4.1
                "pca_std": 0.1,
                "statistics": "imagenet",  # for 'pca': Krizhevsky's values (cuda-convnet2)
                # section 5: mean subtraction; values: BVLC bvlc_googlenet
                "mean": (123.0, 117.0, 104.0),
            },
            "loss": {"auxiliary_weight": 0.3},  # section 5
            "optim": {
                "name": "momentum",
                "momentum": 0.9,  # section 6
                "weight_decay": 2e-4,  # unstated; BVLC bvlc_googlenet
            },
            "schedule": {
                "name": "exponential",
                "rate": 0.01,  # unstated; BVLC bvlc_googlenet
                "factor": 0.96,  # section 6
                "every": 8.0,  # section 6
            },
            # section 6: Polyak averaging for inference. The window is unstated; this one is our choice.
            "average": {"kind": "exponential", "decay": 0.9999},
            # Table 3: 1, 10 and 144 crops. Which 10 crops is unstated: those of AlexNet.
            "evals": (
                {"name": "centre", "scale": 256, "every_epochs": 1.0},
                {"name": "ten_crops", "scale": 256},
                {"name": "crops_144", "scales": (256, 288, 320, 352)},  # section 7
            ),
        }
    )
