"""Code blocks of the README, docs/ and the notebook run as shown; figures are those of the reports."""

import contextlib
import csv
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import jax
import pytest

from jaxcnn.cli import main as cli
from jaxcnn.evaluation import PROTOCOLS
from jaxcnn.models import NETS
from jaxcnn.training.schedules import SCHEDULES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
# What sets up an environment. `make run` is tested below, and `make test` is this.
SKIPPED = ("make ", "pip install", "python3 -m venv")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


RUN_COMMANDS = [
    line.partition("#")[0].strip()
    for page in PAGES
    for text in blocks(page, "bash")
    for line in text.splitlines()
    if line.strip() and not line.startswith(SKIPPED)
]


def start(arguments, tmp_path):
    environment = {
        **os.environ,
        "JAX_NUM_CPU_DEVICES": "1",
        "TFDS_DATA_DIR": str(tmp_path / "tfds"),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_there_are_commands():
    assert any("jaxcnn summary" in command for command in RUN_COMMANDS)


def slow_if_it_compiles(command):
    """tests/training/test_run.py has a fast test of a dry run."""
    return pytest.param(command, marks=pytest.mark.slow) if "--dry_run" in command else command


@pytest.mark.parametrize("command", [slow_if_it_compiles(c) for c in RUN_COMMANDS])
def test_commands(command, tmp_path, monkeypatch, capsys):
    """In this process; tests/cli/test_main.py and the slow test below start the program as a process."""
    program, *arguments = shlex.split(command)
    assert program == "jaxcnn", f"{command}: is it a command that a test can start?"
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    try:
        code = cli.main(arguments)
    except SystemExit as stop:  # --help
        code = stop.code
    assert code == 0, capsys.readouterr().err


def python_texts():
    """(name, text): the Python blocks of each page, and the cells of each notebook, joined in order."""
    texts = [(page.name, "\n".join(blocks(page, "python"))) for page in PAGES]
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        texts.append((path.name, "\n".join(code)))
    return [(name, text) for name, text in texts if text]


def test_python_blocks_and_notebooks(tmp_path, monkeypatch):
    """In this process, which has imported JAX and TensorFlow, with JAX's default promotion."""
    texts = python_texts()
    assert {"README.md", "extend.md", "first_steps.ipynb"} <= {name for name, _ in texts}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tables = [
        mock.patch.dict(table) for table in (NETS, PROTOCOLS, SCHEDULES)
    ]  # docs/extend.md adds rows
    promotion = [jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard")]
    with contextlib.ExitStack() as stack:
        for context in [*tables, *promotion]:
            stack.enter_context(context)
        for name, text in texts:
            exec(compile(text, name, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in python_texts()])
def test_python_blocks_run_in_a_fresh_process(name, tmp_path):
    done = start(["-c", dict(python_texts())[name]], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]


def test_notebooks_hold_small_text_outputs():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 20_000
        for cell in json.loads(path.read_text())["cells"]:
            assert cell.get("execution_count") is None
            assert all(output["output_type"] == "stream" for output in cell.get("outputs", ()))


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="needs the extra 'docs'",
)
def test_the_site_builds_and_loads_nothing_from_the_network(tmp_path):
    done = start(["-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}/site"], tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = r"""<(?:script|link|img|iframe)[^>]*(?:src|href)=["']?(?:https?:)?//[^"'> ]*"""
    for page in (tmp_path / "site").rglob("*.html"):
        found = [tag for tag in re.findall(loaded, page.read_text()) if "canonical" not in tag]
        assert not found, f"{page}: {found}"


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize(
    "report", sorted((ROOT / "results").glob("*/report.json")), ids=lambda p: p.parent.name
)
def test_readme_figures_come_from_reports(report):
    (row,) = json.loads(report.read_text())["results"]
    assert f"{row['top1']:.2%}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("table", sorted((ROOT / "results").glob("cifar10_protocols/*.md")))
def test_tables_of_protocols_are_those_that_were_published(table):
    lines = [line for line in table.read_text().splitlines() if line.startswith("|")]
    page = (DOCS / "evaluation.md").read_text()
    assert len(lines) > 3
    assert [line for line in lines if line not in page] == []


def test_protocols_of_the_published_runs_are_those_of_their_reports():
    """The table's first rows, worked out from the reports beside it."""
    folder = ROOT / "results" / "cifar10_protocols"
    with (folder / "protocols.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        name = row["net"].split(",")[0].replace(" ", "_").lower()
        reports = [json.loads(p.read_text()) for p in folder.glob(f"{name}_?/report.json")]
        results = [r for whole in reports for r in whole["results"]]
        top1 = [r["top1"] for r in results if r["protocol"] == row["protocol"]]
        assert len(top1) == int(row["n"]) == 3
        assert float(row["top-1 error"]) == pytest.approx(100 * (1 - sum(top1) / 3))


@pytest.mark.slow
def test_make_run_reaches_98_percent(tmp_path):
    """The README's quick run, in the environment that runs this test."""
    workdir = tmp_path / "run"
    done = start(["main.py", f"--workdir={workdir}"], tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((workdir / "report.json").read_text())["results"]
    assert row["n"] == 355
    assert row["top1"] >= 0.98
