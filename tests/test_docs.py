"""The code blocks of README.md and docs/ run as they stand, and its figures are those of the reports."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# What sets up an environment, or is tested by itself (`make run` below; `make test` is this).
NOT_HERE = ("make ", "pip install")


def blocks(language):
    for page in PAGES:
        for text in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S):
            yield page.name, text


COMMANDS = [
    line.partition("#")[0].strip()
    for _, text in blocks("bash")
    for line in text.splitlines()
    if line.strip() and not line.startswith(NOT_HERE)
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
    assert any("jaxcnn summary" in command for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, tmp_path):
    program, *arguments = shlex.split(command)
    program = program.removeprefix(".venv/bin/")
    assert program in ("python", "jaxcnn"), f"{command}: is it a command that a test can start?"
    if program == "jaxcnn":
        arguments = ["-m", "jaxcnn", *arguments]
    done = start(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("page", "text"), list(blocks("python")))
def test_python_blocks(page, text, tmp_path):
    done = start(["-c", text], tmp_path)
    assert done.returncode == 0, f"{page}: {done.stderr}"


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
    page = (ROOT / "docs" / "evaluation.md").read_text()
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
