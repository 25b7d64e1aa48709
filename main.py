"""Trains and evaluates a config: python main.py --config=configs/vgg_e.py (see --help)."""

import os
import sys
from pathlib import Path

from jaxcnn.pages import large_pages
from jaxcnn.training.command import main

if __name__ == "__main__":
    if large_pages(
        os.environ
    ):  # which is read when a program starts: so once more, in this process
        os.execv(sys.executable, sys.orig_argv)
    sys.exit(main(sys.argv[1:], Path(__file__).parent / "configs"))
