"""Measurements as a table and a plot."""

import json

from jaxcnn.benchmarks.measurement import Measurement
from jaxcnn.cli.main import main


def table(*arguments):
    return main(["bench", "table", *arguments])


def test_table_and_plot(tmp_path, capsys):
    rows = [
        Measurement("a step", 10.0, 0.1, 2_000_000_000, 40.0, "other", 8.0),
        Measurement("alone", 3.0, 1.0),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row.record()) + "\n" for row in rows))
    assert table(str(path), f"--plot={tmp_path / 'plot.png'}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| a step | 10 | 8 | 1.25 | 40 | 0.25 | 2.00 |"
    assert lines[3] == "| alone | 3 | - | - | - | - | - |"
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_bad_input(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"what": "no bound"}) + "\n")
    assert table(str(path)) == 1
    assert "(line 1) is not valid: images_per_second is missing" in capsys.readouterr().err
    assert table(str(tmp_path / "absent")) == 1
    path.write_text(json.dumps(Measurement("alone", 3.0, 1.0).record()))
    assert table(str(path), f"--plot={tmp_path / 'plot.png'}") == 1
    assert "nothing to draw" in capsys.readouterr().err
