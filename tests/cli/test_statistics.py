"""jaxcnn statistics: its file, its text and its errors."""

import numpy as np
import pytest

from jaxcnn.cli.main import main
from jaxcnn.data import open_data
from jaxcnn.data.pixel_statistics import check_matches, compute_statistics, load_statistics


def test_the_file_the_text_and_the_command_to_train(tmp_path, capsys):
    out = tmp_path / "four.npz"
    command = ["quickstart", "data.source=synthetic:4", "augment.pca=unit", f"--out={out}"]
    assert main(["statistics", *command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "256 training images of synthetic:4; squares of side 56; pixels 0..255" in lines
    assert lines[-1].strip() == (
        "jaxcnn train --config=quickstart --config.data.source=synthetic:4 "
        f"--config.augment.pca=unit --config.augment.statistics={out}"
    )
    found, data = load_statistics(out), open_data("synthetic:4")
    check_matches(found, data, out)
    expected = compute_statistics(data.train, side=56)
    assert np.array_equal(found.covariance, expected.covariance)
    # The hues cover the circle evenly, so each channel's mean is 128 before rounding down.
    assert found.mean == pytest.approx(np.full(3, 128), abs=1)
    (mean,) = (line for line in lines if line.startswith("mean "))
    assert [float(word) for word in mean.split()[1:]] == pytest.approx(found.mean, abs=5e-4)


def test_the_default_file_and_the_side_of_the_square(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        "data.source=synthetic:2",
        "augment.sampling=random_crop_in_square",
        "augment.scale=(60,60)",
    ]
    assert main(["statistics", "quickstart", *arguments]) == 0
    found = load_statistics(tmp_path / "statistics" / "quickstart.npz")
    assert found.mean_image.shape == (60, 60, 3)
    shown = capsys.readouterr().out
    assert "--config.augment.statistics=statistics/quickstart.npz" in shown
    assert "This config uses no statistics; --config.augment.mean=rgb" in shown


def test_errors_come_before_the_work(tmp_path, capsys):
    assert main(["statistics", "quickstart", "augment.samplin=square"]) == 2
    assert "did you mean augment.sampling?" in capsys.readouterr().err
    assert main(["statistics", "quickstart", f"data.source=folder:{tmp_path / 'none'}"]) == 1
    assert "none" in capsys.readouterr().err
    assert main(["statistics", "quickstart", "data.source=synthetic:2", f"--out={tmp_path}"]) == 1
    assert f"--out={tmp_path} is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["statistics"])
    assert stop.value.code == 2
