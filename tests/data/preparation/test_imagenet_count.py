"""ImageNet at its true count, measured by a child process without type checks."""

import json
import subprocess
import sys

import pytest

from jaxcnn.data.sources.tfds_metadata import FILE_FORMATS


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FILE_FORMATS)
def test_the_true_count(file_format, tmp_path, bucket, capsys):
    """Each image has its own label and is in an epoch once; from a bucket the batches are the same."""
    command = [
        sys.executable,
        "-m",
        "tests.imagenet_count",
        str(tmp_path),
        file_format,
        str(bucket),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = done.stdout.splitlines()[-1]
    assert json.loads(printed)["format"] == file_format
    with capsys.disabled():
        print(f"\n{printed}")
