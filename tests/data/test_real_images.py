"""The 200 full-size ImageNet JPEGs of ../shared/data, where this checkout has them."""

import io
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import TrainLoader, class_table, open_data
from jaxcnn.data.crops import crop_in_source, rescaled_size
from jaxcnn.data.decode import decode, peek
from jaxcnn.data.eval_crops import center_crop

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
@pytest.mark.parametrize("interpolation", ["bilinear", "cubic"])
def test_window_equals_full_decode(images, scale, side, interpolation):
    far = 0
    filters = {"bilinear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
    for content in images.values():
        size = peek(content)
        box = center_crop(*size, scale, side).box
        crop = crop_in_source(*size, scale, box)._replace(interpolation=interpolation)
        got = decode(content, crop)
        whole = Image.open(io.BytesIO(content)).convert("RGB")
        tall, wide = rescaled_size(whole.height, whole.width, scale)
        whole = np.asarray(whole.resize((wide, tall), filters[interpolation]))
        top, left = crop.box[:2]
        wanted = whole[top : top + side, left : left + side]
        difference = np.abs(got.astype(int) - wanted)
        assert interpolation == "cubic" or difference.max() <= 2
        far += int((difference > 1).sum())
    share = far / (len(images) * side * side * 3)
    assert share < {"bilinear": 1e-5, "cubic": 1e-4}[interpolation]


def test_an_epoch_of_real_images(images, tmp_path):
    for file, content in images.items():
        for split in ("train", "val"):
            folder = tmp_path / split / file.split("_")[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
    data = open_data(f"folder:{tmp_path}")
    with TrainLoader(data.train, seed=0, batch_size=40, image_size=224) as batches:
        ids = np.concatenate([next(batches)["id"] for _ in range(5)])
        assert batches.corrupt == []
    assert sorted(ids) == list(range(200))
