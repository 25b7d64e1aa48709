"""The 200 full-size ImageNet JPEGs of ../shared/data, where this checkout has them."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import class_table, open_data, train_batches
from jaxcnn.data.crops import centre_view
from jaxcnn.data.decode import decode_view

ARCHIVE = Path(__file__).parents[2].parent / "shared" / "data" / "imagenet_200.tar"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ARCHIVE.is_file(), reason=f"needs the real images of {ARCHIVE}"),
]


@pytest.fixture(scope="module")
def images():
    with tarfile.open(ARCHIVE) as tar:
        return {
            Path(member.name).name: tar.extractfile(member).read()
            for member in tar
            if member.isfile() and member.name.endswith(".JPEG")
        }


def test_class_table_agrees_with_the_files_names(images):
    names = {row.wnid: row.name for row in class_table()}
    assert len(images) == 200
    for file in images:
        wnid, name = re.fullmatch(r"(n\d{8})_(.+)\.JPEG", file).groups()
        assert names[wnid].split(" (")[0] == name.replace("_", " ")


@pytest.mark.parametrize(("scale", "side"), [(256, 224), (384, 384)])
def test_window_equals_full_decode(images, scale, side):
    far = 0
    for content in images.values():
        got, view = decode_view(
            content, lambda h, w: centre_view(h, w, scale=scale, image_size=side)
        )
        whole = Image.open(io.BytesIO(content)).convert("RGB")
        whole = np.asarray(whole.resize((view.width, view.height), Image.Resampling.BILINEAR))
        wanted = whole[view.top : view.top + side, view.left : view.left + side]
        difference = np.abs(got.astype(int) - wanted)
        assert difference.max() <= 2
        far += int((difference > 1).sum())
    assert far < 200 * side * side * 3 / 100_000


def test_an_epoch_of_real_images(images, tmp_path):
    for file, content in images.items():
        for split in ("train", "val"):
            folder = tmp_path / split / file.split("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
    data = open_data(f"folder:{tmp_path}")
    with train_batches(data.train, seed=0, batch_size=40, image_size=224) as batches:
        ids = np.concatenate([next(batches)["id"] for _ in range(5)])
        assert batches.corrupt == []
    assert sorted(ids) == list(range(200))
