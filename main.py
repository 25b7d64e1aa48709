"""Trains and evaluates a config: python main.py --config=configs/vgg_e.py (see --help)."""

import sys
from pathlib import Path

from jaxcnn.cli.train import main
from jaxcnn.malloc_tuning import start_again_with_large_pages

if __name__ == "__main__":
    start_again_with_large_pages()
    sys.exit(main(sys.argv[1:], Path(__file__).parent / "configs"))
