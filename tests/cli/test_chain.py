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
from jaxcnn.training.stages import read_chain
from tests.training.runs import TINY, send_sigterm, state_of

STAGES = ["net_a", "s256", "s384", "s256_512"]
# The stages that the tests run; the config of the fourth is in test_the_papers_order_of_training.
CHOSEN = STAGES[:3]
SMALL = {
    **{k: v for k, v in TINY.items() if k != "augment.scale"},
    "augment.pca": "off",
    "augment.mean": "(127.5,127.5,127.5)",
    "data.source": "synthetic:2",
    "epochs": "1",
    "mesh.data": "1",
}
# Steps of each stage. With no epochs of its own, s384 saves just what it starts from.
STEPS = {"net_a": 4, "s256": 4, "s384": 0}
# S of 32, 40 and 32 to 48 in place of 256, 384 and 256 to 512.
SCALES = {"net_a": "(32,32)", "s256": "(32,32)", "s384": "(40,40)", "s256_512": "(32,48)"}


def arguments(workdir, *more):
    return [
        "vgg_b",
        f"--workdir={workdir}",
        f"--stages={','.join(CHOSEN)}",
        "--s384.epochs=0",
        *(f"--config.{k}={v}" for k, v in SMALL.items()),
        *(f"--{stage}.augment.scale={scale}" for stage, scale in SCALES.items()),
        *more,
    ]


def start(*given):
    """(exit code, what is printed)."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = chain.main([*map(str, given)])
    return code, shown.getvalue()


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    """(workdir, text of each start) of a chain stopped after its first stage and within its second."""
    workdir = tmp_path_factory.mktemp("chain") / "b"
    printed = []
    with pytest.MonkeyPatch.context() as patch:
        do = chain._train

        def then_stop(stage, command):
            do(stage, command)
            os.kill(os.getpid(), signal.SIGTERM)

        patch.setattr(chain, "_train", then_stop)
        code, shown = start(*arguments(workdir))
        assert code == 143, shown
        printed.append(shown)
    with pytest.MonkeyPatch.context() as patch:
        send_sigterm(patch, "train", 3)
        code, shown = start(*arguments(workdir))
        assert code == 143, shown
        printed.append(shown)
    code, shown = start(*arguments(workdir))
    assert code == 0, shown
    return workdir, [*printed, shown]


def starts(folder):
    return json.loads((folder / "run.json").read_text())["starts"]


def test_a_stop_between_stages_and_one_within_say_how_to_go_on(chained):
    workdir, (between, within, _) = chained
    again = f"To go on: jaxcnn chain vgg_b --workdir={workdir}"
    assert "stopped by SIGTERM" in between
    assert again in between
    assert f"the state is saved in {workdir / 's256'}. {again}" in within


def test_each_stage_is_trained_once(chained):
    workdir, (_, within, last) = chained
    assert sorted(p.name for p in workdir.iterdir()) == sorted(CHOSEN)
    assert {s: [e["step"] for e in starts(workdir / s)] for s in CHOSEN} == {
        "net_a": [0], "s256": [0, 3], "s384": [0],
    }  # fmt: skip
    assert f"stage net_a is finished: {workdir / 'net_a'}" in within
    assert "stage net_a is finished" in last
    assert {stage: int(state_of(workdir / stage).step) for stage in CHOSEN} == STEPS


def test_each_stage_starts_from_the_weights_of_the_one_that_it_names(chained):
    workdir, _ = chained
    from_a, from_256 = (starts(workdir / stage)[0]["started_from"] for stage in CHOSEN[1:])
    assert from_a["path"] == str(workdir / "net_a")
    assert from_a["kept"] == ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]
    assert from_a["new"] == ["conv1_2", "conv2_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2"]
    assert (from_256["path"], from_256["new"]) == (str(workdir / "s256"), [])
    scales = [
        json.loads((workdir / s / "config.json").read_text())["augment"]["scale"] for s in CHOSEN
    ]
    assert scales == [[32, 32], [32, 32], [40, 40]]
    old, new = (state_of(workdir / stage).params for stage in ("s256", "s384"))
    for x, y in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_plan_and_the_results_are_tables(chained):
    workdir, (first, second, last) = chained
    assert [line.split()[0] for line in first.splitlines()[:5]] == ["stage", *STAGES]
    assert first.splitlines()[3].split() == [
        "s384", "vgg", "B", "40", "0.002", "0", "s256", "to", "do",
    ]  # fmt: skip
    assert second.splitlines()[1].endswith("finished")
    assert last.splitlines()[2].endswith("unfinished")
    rows = [line.split() for line in last.splitlines()[-3:]]
    for stage, row in zip(CHOSEN, rows, strict=True):
        (result,) = json.loads((workdir / stage / "report.json").read_text())["results"]
        assert row == [
            stage, f"{STEPS[stage]}", "centre(32->32)", "evaluation", "32",
            f"{result['top1']:.2%}", f"{result['top5']:.2%}", f"{result['loss']:.4f}",
        ]  # fmt: skip


def test_a_finished_chain_trains_nothing(chained, capsys):
    workdir, _ = chained
    before = {p: p.read_bytes() for p in workdir.glob("*/*.json*")}
    code, shown = start(*arguments(workdir))
    assert code == 0
    assert shown.count("is finished") == 3
    code = chain.main([*arguments(workdir), "--json"])
    results, shown = capsys.readouterr()
    assert code == 0
    assert shown.count("is finished") == 3
    assert [row["stage"] for row in json.loads(results)] == CHOSEN
    assert json.loads(results)[0] == {
        "stage": "net_a", **json.loads((workdir / "net_a" / "report.json").read_text())["results"][0]
    }  # fmt: skip
    assert {p: p.read_bytes() for p in workdir.glob("*/*.json*")} == before


def test_a_protocol_that_a_report_lacks_makes_a_stage_unfinished(chained):
    workdir, _ = chained
    rows = "({'name':'centre','scale':32},{'name':'centre','scale':40})"
    _, shown = start(*arguments(workdir, f"--s384.evals={rows}", "--list"))
    states = [line.split()[-1] for line in shown.splitlines()[1:4]]
    assert states == ["finished", "finished", "unfinished"]
    assert shown.splitlines()[4].endswith("to do, not chosen")


def test_a_missing_or_unfinished_start_is_named(chained, tmp_path):
    code, shown = start(*arguments(tmp_path / "b", "--stages=s384"))
    assert code == 1
    assert "stage s384 starts from stage s256, which is missing" in shown
    assert "--stages=s256,s384" in shown
    workdir = shutil.copytree(chained[0], tmp_path / "copy")
    shutil.rmtree(workdir / "s384")
    (workdir / "s256" / "report.json").unlink()
    for folder in workdir.iterdir():  # their own names of the folder they started from
        path = folder / "config.json"
        path.write_text(path.read_text().replace(str(chained[0]), str(workdir)))
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
        (["--stages=s385"], "no stage s385 (there are net_a, s256, s384, s256_512)"),
        (["--config.optim.momntum=1"], "stage net_a: unknown key optim.momntum"),
        (["--config.optim.momntum=1"], "stage s256_512: unknown key optim.momntum"),
        (["--s384.epochs=long"], "stage s384: epochs must be float"),
    ],
)
def test_what_cannot_be_typed(more, message, tmp_path):
    code, shown = start(*arguments(tmp_path / "b", *more))
    assert code == 2
    assert message in shown
    assert not (tmp_path / "b").exists()


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
        ("(dict(name='a', config='vgg_x'),)", "stage a: no config file 'vgg_x'"),
        ("()", "must return a tuple of stages"),
    ],
)  # fmt: skip
def test_a_chain_that_cannot_be_read(rows, message, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from configs import vgg_a\nget_config = vgg_a.get_config\n"
        f"def get_chain():\n    return {rows}\n"
    )
    code, shown = start(tmp_path / "mine.py")
    assert code == 2
    assert message in shown


def test_a_config_without_a_chain(tmp_path):
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


def test_the_list_as_text_and_as_json(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, shown = start("configs/vgg_e.py", "--list")
    assert code == 0
    row = ["s256", "vgg", "E", "256", "0.01", "74", "net_a", "to", "do"]
    assert shown.splitlines()[2].split() == row
    code, shown = start("vgg_e", "--list", "--json")
    assert code == 0
    assert list(json.loads(shown)[1].values()) == [row[0], "vgg E", *row[3:7], "to do"]


def test_the_papers_own_rule_for_the_rate_goes_through_all_stages(tmp_path):
    typed = {"config": ["schedule.name=plateau", "data.held_out=50000"]}
    stages = read_chain("vgg_d", tmp_path, typed)
    assert [s.config["schedule"]["drops"] for s in stages] == [3, 3, 3, 3]
    assert [s.config["schedule"]["rate"] for s in stages] == [1e-2, 1e-2, 1e-3, 1e-3]
