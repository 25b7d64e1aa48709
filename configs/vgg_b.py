"""VGG B, 13 layers (Simonyan & Zisserman 2014), on ImageNet.

COMMAND   python main.py --config=configs/vgg_b.py
PAPER     28.7 % top-1 and 9.9 % top-5 error on the validation set (Table 3: S = Q = 256, dense)
MEMORY    see the dry run: python main.py --config=configs/vgg_b.py --dry_run
"""

from ml_collections import ConfigDict

from configs import vgg_a


def get_config() -> ConfigDict:
    config = vgg_a.get_config()
    config.update({"model": {"column": "B"}})  # Table 1
    return config
