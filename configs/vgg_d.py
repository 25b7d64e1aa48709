"""VGG D, 16 layers (Simonyan & Zisserman 2014), on ImageNet.

COMMAND   jaxcnn train --config=vgg_d
DATA      tfds:imagenet2012 (docs/data.md describes how to prepare it)
HOURS     not measured; docs/performance.md has images per second
EXPECT    paper: 27.0 % top-1 and 8.8 % top-5 error on the validation set (Table 3: S = Q = 256, dense)
MEMORY    32.9 GB for a step of 256 on one device (float32, compiled for CPU); on other devices: add --dry_run
"""

from ml_collections import ConfigDict

from configs import vgg_a


def get_config() -> ConfigDict:
    config = vgg_a.get_config()
    config.update(
        {
            "model": {"column": "D"},  # Table 1
            "evals": vgg_a.evals("D", 256, 256),
        }
    )
    return config


def get_chain() -> tuple[dict, ...]:
    return vgg_a.chain("D")
