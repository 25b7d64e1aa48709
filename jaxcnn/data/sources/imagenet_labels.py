"""Labels of ImageNet's validation images, which have no class folders."""

import csv
import importlib.util
import pathlib

from jaxcnn.data.errors import DataError
from jaxcnn.paths import Path

# Of Kaggle's archive.
LABEL_FILE = "LOC_val_solution.csv"


def flat_labels(folder: Path) -> tuple[dict[str, str], str]:
    """Returns ({file stem: WNID}, the list's path) for ImageNet's validation images."""
    # In Kaggle's archive the list is three folders above val/.
    for place in [folder, *folder.resolve().parents][:5]:
        path = place / LABEL_FILE
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                return {r["ImageId"]: r["PredictionString"].split()[0] for r in rows}, str(path)
    # find_spec does not import the package.
    spec = importlib.util.find_spec("tensorflow_datasets")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = pathlib.Path(place) / "datasets" / "imagenet2012" / "validation_labels.txt"
        if path.is_file():
            wnids = path.read_text("utf-8").split()
            return {f"ILSVRC2012_val_{i:08d}": w for i, w in enumerate(wnids, 1)}, str(path)
    raise DataError(
        f"{folder} holds ImageNet's validation images without class folders, and no list of their "
        f"labels was found; put Kaggle's {LABEL_FILE} in that folder"
    )
