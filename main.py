"""Trains and evaluates a config: python main.py --config=configs/vgg_e.py is jaxcnn train --config=..."""

import sys

from jaxcnn.cli.main import program

if __name__ == "__main__":
    program(["train", *sys.argv[1:]])
