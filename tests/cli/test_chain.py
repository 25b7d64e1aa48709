"""jaxcnn chain: VGG's stages in order, stops, resumes, and what cannot be done."""

import contextlib
import io
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxcnn.cli import chain
from jaxcnn.cli.main import main
from jaxcnn.training.stages import read_chain, unmet
from tests.training.runs import TINY, send_sigterm, state_of

STAGES = ["net_a", "s256", "s384", "s256_512"]
# The stages of net A's chain that the tests run. s384 has no epochs: it saves just what it starts from.
CHOSEN = ["s256", "s384"]
STEPS = {"s256": 4, "s384": 0}
SMALL = {
    **{k: v for k, v in TINY.items() if k != "augment.scale"},
    "augment.pca": "off",
    "augment.mean": "(127.5,127.5,127.5)",
    "data.source": "synthetic:2",
    "epochs": "1",
    "mesh.data": "1",
}
# S of 32, 40 and 32 to 48 in place of 256, 384 and 256 to 512.
SCALES = {"s256": "(32,32)", "s384": "(40,40)", "s256_512": "(32,48)"}


def arguments(workdir, *more):
    return [
        "vgg_a",
        f"--workdir={workdir}",
        f"--stages={','.join(CHOSEN)}",
        "--s384.epochs=0",
        *(f"--config.{k}={v}" for k, v in SMALL.items()),
        *(f"--{stage}.augment.scale={scale}" for stage, scale in SCALES.items()),
        *more,
    ]


def start(*given):
    """Runs `jaxcnn chain`; returns the exit code and what is printed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(["chain", *map(str, given)])
    return code, shown.getvalue()


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """(workdir, what each start prints) of a chain stopped within its first stage and after it."""
    workdir = tmp_path_factory.mktemp("chain") / "a"
    with pytest.MonkeyPatch.context() as patch:
        send_sigterm(patch, "train", 3)
        code, within = start(*arguments(workdir))
        assert code == 143, within
    with pytest.MonkeyPatch.context() as patch:
        train = chain._train

        def train_and_stop(stage, command):
            train(stage, command)
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(chain, "_train", train_and_stop)
        code, between = start(*arguments(workdir))
        assert code == 143, between
    code, last = start(*arguments(workdir))
    assert code == 0, last
    return workdir, (within, between, last)


def starts(folder):
    return json.loads((folder / "run.json").read_text())["starts"]


def results_of(folder):
    return json.loads((folder / "report.json").read_text())["results"]


def test_a_stopped_chain_says_how_to_go_on(chained):
    workdir, (within, between, _) = chained
    again = f"the state is saved in {{}}. To go on: jaxcnn chain vgg_a --workdir={workdir}"
    assert "stopped by SIGTERM" in between
    assert again.format(workdir / "s256") in within
    assert f"To go on: jaxcnn chain vgg_a --workdir={workdir}" in between


def test_a_chain_resumes_where_it_was_stopped(chained):
    workdir, (_, _, last) = chained
    assert sorted(p.name for p in workdir.iterdir()) == CHOSEN
    assert {s: [e["step"] for e in starts(workdir / s)] for s in CHOSEN} == {
        "s256": [0, 3], "s384": [0],
    }  # fmt: skip
    assert f"stage s256 is finished: {workdir / 's256'}" in last


def test_a_stage_starts_from_the_weights_of_the_stage_that_it_names(chained):
    workdir, _ = chained
    (start,) = starts(workdir / "s384")
    assert start["started_from"]["path"] == str(workdir / "s256")
    assert start["started_from"]["new"] == []
    old, new = (state_of(workdir / stage) for stage in CHOSEN)
    assert (int(old.step), int(new.step)) == (4, 0)
    for x, y in zip(jax.tree.leaves(old.params), jax.tree.leaves(new.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_plan_and_the_results_are_tables(chained):
    workdir, (first, second, last) = chained
    assert [line.split()[0] for line in first.splitlines()[:4]] == ["stage", *STAGES[1:]]
    assert first.splitlines()[2].split() == [
        "s384", "vgg", "A", "40", "0.002", "0", "s256", "to", "do",
    ]  # fmt: skip
    assert second.splitlines()[1].endswith("unfinished")
    assert last.splitlines()[1].endswith(" finished")
    rows = [line.split() for line in last.splitlines()[-2:]]
    for stage, row in zip(CHOSEN, rows, strict=True):
        (result,) = results_of(workdir / stage)
        assert row == [
            stage, f"{STEPS[stage]}", "centre(32->32)", "evaluation", "32",
            f"{result['top1']:.2%}", f"{result['top5']:.2%}", f"{result['loss']:.4f}",
        ]  # fmt: skip


def test_a_finished_chain_trains_nothing(chained, capsys):
    workdir, _ = chained
    before = {p: p.read_bytes() for p in workdir.glob("*/*.json*")}
    assert main(["chain", *arguments(workdir), "--json"]) == 0
    results, shown = capsys.readouterr()
    assert shown.count("is finished") == 2
    assert shown.splitlines()[0].split()[:2] == ["stage", "net"]  # the plan
    rows = [{"stage": stage, **row} for stage in CHOSEN for row in results_of(workdir / stage)]
    assert json.loads(results) == rows
    assert {p: p.read_bytes() for p in workdir.glob("*/*.json*")} == before


def test_a_protocol_that_a_report_lacks_makes_a_stage_unfinished(chained):
    workdir, _ = chained
    rows = "({'name':'centre','scale':32},{'name':'centre','scale':40})"
    _, shown = start(*arguments(workdir, f"--s384.evals={rows}", "--list"))
    states = [line.split()[-1] for line in shown.splitlines()[1:3]]
    assert states == ["finished", "unfinished"]
    assert shown.splitlines()[3].endswith("to do, not chosen")


def test_a_missing_or_unfinished_start_is_named(chained, tmp_path):
    code, shown = start(*arguments(tmp_path / "a", "--stages=s384"))
    assert code == 1
    assert "stage s384 starts from stage s256, which is missing" in shown
    assert "--stages=s256,s384" in shown
    workdir = shutil.copytree(chained[0], tmp_path / "copy")
    shutil.rmtree(workdir / "s384")
    (workdir / "s256" / "report.json").unlink()
    code, shown = start(*arguments(workdir, "--stages=s384"))
    assert code == 1
    assert "stage s384 starts from stage s256, which is unfinished" in shown


def test_a_stage_of_another_config_is_named_and_nothing_is_done(chained):
    workdir, _ = chained
    code, shown = start(*arguments(workdir, "--s256.optim.momentum=0.5"))
    assert code == 1
    assert (
        f"{workdir / 's256'} holds a run of another config:\n  optim.momentum: 0.9 -> 0.5" in shown
    )
    assert "is finished" not in shown


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--s385.epochs=1"], "there is no stage 's385'; did you mean 's384'?"),
        (
            ["--stages=s385"],
            "unknown stage 's385'; did you mean s384? (valid: s256, s384, s256_512)",
        ),
        (["--config.optim.momntum=1"], "stage s256: unknown key optim.momntum"),
        (["--config.optim.momntum=1"], "stage s256_512: unknown key optim.momntum"),
        (["--s384.epochs=long"], "stage s384: epochs must be float"),
    ],
)
def test_bad_arguments_exit_with_2(more, message, tmp_path):
    code, shown = start(*arguments(tmp_path / "a", *more))
    assert code == 2
    assert message in shown
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("(dict(name='a'), dict(name='a'))", "two stages are called 'a'"),
        ("(dict(name='s256'), dict(name='b', start='s265'))", "no earlier stage; did you mean 's256'?"),
        ("(dict(name='b', start='c'), dict(name='c'))", "stage b starts from 'c', which is no earlier"),
        ("(dict(name='a/b'),)", "a stage needs a name"),
        ("(dict(name='config'),)", "a stage needs a name"),
        ("(dict(name='a', overides={}),)", "unknown key 'overides'; did you mean 'overrides'?"),
        ("(dict(name='a', overrides=3),)", "overrides must be a dict, got 3"),
        ("(dict(name='a', config=3),)", "config must be a name, got 3"),
        ("(dict(name='a', config='vgg_x'),)", "stage a: no config file 'vgg_x'"),
        ("()", "must return a tuple of stages"),
    ],
)  # fmt: skip
def test_errors_of_get_chain_are_named(rows, message, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import vgg_a\nget_config = vgg_a.get_config\n"
        f"def get_chain():\n    return {rows}\n"
    )
    code, shown = start(tmp_path / "mine.py")
    assert code == 2
    assert message in shown


def test_a_config_without_get_chain_is_refused(tmp_path):
    code, shown = start("alexnet", f"--workdir={tmp_path / 'b'}")
    assert code == 2
    assert "no function get_chain(); train it alone: jaxcnn train --config=" in shown


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("vgg_a", STAGES[1:]), ("vgg_a_lrn", STAGES[1:]), ("vgg_b", STAGES),
        ("vgg_c", STAGES), ("vgg_d", STAGES), ("vgg_e", STAGES),
    ],
)  # fmt: skip
def test_the_papers_order_of_training(column, names):
    """Section 3.1: net A at S = 256; from it the column; S = 384 at a tenth of the rate; S in [256, 512]."""
    stages = {s.name: s for s in read_chain(column, Path("runs"), {})}
    assert list(stages) == names
    values = {
        name: (
            stage.start,
            stage.config["augment"]["scale"],
            stage.config["schedule"]["rate"],
            stage.config["evals"][0]["scale"],
        )
        for name, stage in stages.items()
    }
    expected = {
        "net_a": ("", (256, 256), 1e-2, 256),
        "s256": ("net_a" if "net_a" in names else "", (256, 256), 1e-2, 256),
        "s384": ("s256", (384, 384), 1e-3, 384),
        "s256_512": ("s384", (256, 512), 1e-3, 384),
    }
    assert values == {name: expected[name] for name in names}
    if "net_a" in names:
        assert stages["net_a"].config["model"]["column"] == "A"
        assert len(stages["s256"].config["init"]["layers"]) == 7
        assert stages["s384"].config["init"] | {"seed": 0} == {
            "seed": 0, "from_run": "runs/s256", "layers": (),
        }  # fmt: skip


def test_a_typed_from_run_replaces_a_start(tmp_path):
    """A stage without `start` starts from the run that the user types, and the chain asks for no other."""
    (tmp_path / "mine.py").write_text(
        "from configs import vgg_a\nget_config = vgg_a.get_config\n"
        "def get_chain():\n    return ({'name': 's256'}, {'name': 's384'})\n"
    )
    typed = {"s384": [f"init.from_run={tmp_path / 'elsewhere'}"]}
    stages = read_chain(str(tmp_path / "mine.py"), tmp_path / "a", typed)
    assert [stage.config["init"]["from_run"] for stage in stages] == [
        "",
        str(tmp_path / "elsewhere"),
    ]
    assert unmet(stages[1], stages, ["s384"]) == ""


def test_the_list_as_text_and_as_json(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, shown = start("configs/vgg_e.py", "--list", "--stages=")  # all of them
    assert code == 0
    row = ["s256", "vgg", "E", "256", "0.01", "74", "net_a", "to", "do"]
    assert shown.splitlines()[2].split() == row
    code, shown = start("vgg_e", "--list", "--json")
    assert code == 0
    assert list(json.loads(shown)[1].values()) == [row[0], "vgg E", *row[3:7], "to do"]


def test_the_plateau_rule_applies_to_all_stages(tmp_path):
    typed = {"config": ["schedule.name=plateau", "data.held_out=50000"]}
    stages = read_chain("vgg_d", tmp_path, typed)
    assert [s.config["schedule"]["drops"] for s in stages] == [3, 3, 3, 3]
    assert [s.config["schedule"]["rate"] for s in stages] == [1e-2, 1e-2, 1e-3, 1e-3]
