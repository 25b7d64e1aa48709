"""The papers' tables with results of runs: which run fills which row, means over seeds, ensembles."""

import csv
import io
import json
import statistics

import numpy as np
import pytest

from jaxcnn.data.classes import classes_digest
from jaxcnn.evaluation import ProtocolRun, ensemble
from jaxcnn.research import evaluate_run
from jaxcnn.research.evaluate_run import FinishedRun
from jaxcnn.research.paper_tables.matching import ensemble_matches, in_proportion, trains_for
from jaxcnn.research.paper_tables.side_by_side import (
    check_same_data,
    is_missing,
    side_by_side,
    wanted_evaluations,
)
from jaxcnn.research.paper_tables.tables import TABLES, Contribution
from tests.evaluation.small import CLASSES, Images
from tests.research.untrained import few_images, untrained

D = Contribution("vgg", TABLES["vgg3"].rows[0].parts[0].protocol, "D", (256, 512))


def settings(name="vgg", scale=(256, 512), side=224, sampling="random_crop", **model):
    own = {
        "vgg": {"column": "D"},
        "alexnet": {
            "towers": 2, "ungrouped": False, "lrn": "tower", "pooling": "overlapping",
            "activation": "relu", "drop_layer": "",
        },
        "googlenet": {"module": "reduced", "head": "average", "lrn": True},
    }[name]  # fmt: skip
    model = {"name": name, "image_size": side, **own, **model}
    return {"model": model, "augment": {"scale": scale, "sampling": sampling}}


@pytest.mark.parametrize(
    ("part", "given", "fits"),
    [
        (D, settings(), True),
        (D, settings(width=0.125), True),
        (D, settings(scale=(64, 128), side=56), True),  # S in proportion to the images
        (D, settings(scale=(73, 146), side=64), True),
        (D, settings(scale=(256, 256)), False),
        (D, settings(scale=(256, 512), side=56), False),
        (D, settings(sampling="random_resized_crop"), False),  # it has no S
        (D, settings(column="C"), False),
        (D, settings("alexnet"), False),
        (Contribution("vgg", D.protocol, "B", (256, 512)), settings(column="B-5x5"), False),
        (Contribution("alexnet", D.protocol), settings("alexnet", scale=(96, 96), side=84), True),
        (Contribution("alexnet", D.protocol), settings("alexnet", lrn="off"), False),
        (Contribution("alexnet", D.protocol), settings("alexnet", towers=1), False),
        (Contribution("googlenet", D.protocol), settings("googlenet"), True),
        (Contribution("googlenet", D.protocol), settings("googlenet", module="naive"), False),
    ],
)
def test_runs_match_the_nets_of_the_papers(part, given, fits):
    assert trains_for(part, given) == fits


def test_scales_in_proportion():
    assert in_proportion((256, 512), 224) == (256, 512)
    assert in_proportion((256, 512), 56) == (64, 128)
    assert in_proportion((256, 384), 64) == (73, 110)


class Given(FinishedRun):
    """A run that only has a config."""

    def __init__(self, name, config):
        self.name, self.config, self.trained_config = name, config, config


def test_ensembles_take_the_kth_runs_of_each_net():
    runs = [Given(f"{c}{i}", settings(column=c)) for i in range(3) for c in "DE"]
    row = TABLES["vgg6"].rows[3]  # D and E, multi-crop and dense
    found, why = ensemble_matches(row, runs)
    assert why == ""
    names = [[run.name for run, _ in parts] for parts in found]
    assert names == [["D0", "D0", "E0", "E0"], ["D1", "D1", "E1", "E1"], ["D2", "D2", "E2", "E2"]]
    assert [p.label(224) for _, p in found[0][:2]] == [
        "multi_crop(256,384,512->224)",
        "dense(256,384,512)",
    ]
    seven = TABLES["googlenet3"].rows[5]
    nets = [Given(f"g{i}", settings("googlenet", side=56)) for i in range(15)]
    found, _ = ensemble_matches(seven, nets)
    assert [[run.name for run, _ in parts] for parts in found] == [
        [f"g{i}" for i in range(7)],
        [f"g{i}" for i in range(7, 14)],
    ]
    assert found[0][0][1].label(56) == "crops_144(64,72,80,88->56)"


@pytest.mark.parametrize(
    ("table", "row", "why"),
    [
        ("vgg3", 0, "no run of vgg A, S 256"),
        ("vgg3", 8, "no run of vgg D, S [256;512]"),
        ("googlenet3", 5, "7 runs of googlenet needed, 0 given"),
        ("alexnet2", 0, "another method"),
        ("vgg6", 1, "no run of vgg D, S [256;512]; no run of vgg E, S [256;512]"),
    ],
)
def test_rows_without_runs_name_the_missing_runs(table, row, why):
    assert ensemble_matches(TABLES[table].rows[row], []) == ([], why)


@pytest.mark.parametrize("name", TABLES)
def test_every_table_prints_without_runs(name):
    found = side_by_side(TABLES[name], [])
    text, head = found.text(), found.header()
    assert TABLES[name].title in text
    for row, line in zip(TABLES[name].rows, found.body(), strict=True):
        assert line[: len(row.cells)] == list(row.cells)
        assert len(line) == len(head)
        assert line[-1] or name == "vgg2"
    rows = list(csv.reader(io.StringIO(found.csv())))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert found.markdown().count("\n| ") == len(TABLES[name].rows) + 2


def test_parameters_need_no_run():
    body = side_by_side(TABLES["vgg2"], []).body()
    assert body[0][:3] == ["A", "133", "132.86"]
    assert body[-1][:3] == ["E", "144", "143.67"]


@pytest.fixture(autouse=True)
def _drawn_posteriors(monkeypatch):
    """Draws posteriors in place of an evaluation, which tests/cli/test_evaluate.py has."""

    def evaluate(forward, params, source, protocol, *, split, keep, **_):
        label = protocol.label(forward.net.image_size)
        seed = [*np.asarray(params["fc8"]["bias"]).tobytes(), *label.encode()]
        drawn = ensemble.Posteriors(
            source.ids.astype(np.int32),
            np.arange(len(source), dtype=np.int32) % CLASSES,
            np.random.default_rng(seed).dirichlet(np.ones(CLASSES), len(source)).astype(np.float32),
            classes_digest(source.class_names),
            {"protocol": label, "split": split},
        )
        return ProtocolRun(ensemble.error_rates([drawn]), [], drawn if keep else None)

    monkeypatch.setattr(evaluate_run, "evaluate", evaluate)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two seeds of a narrow net A at the paper's S = 256 in proportion, one of net D jittered."""
    base = tmp_path_factory.mktemp("runs")
    for name, seed, column, scale in (
        ("a0", 0, "A", (37, 37)),
        ("a1", 1, "A", (37, 37)),
        ("d", 2, "D", (37, 73)),
        ("e", 3, "E", (37, 73)),
    ):
        untrained(base / name, seed=seed, augment={"scale": scale}, column=column)
    return [base / name for name in ("a0", "a1", "d", "e")]


def finished_run(folder):
    run = FinishedRun(folder, batch_size=64)
    run.data = few_images(Images([(40, 40)]), Images([(40, 44 + i // 4) for i in range(10)]))
    return run


def evaluated(name, folders):
    runs = [finished_run(folder) for folder in folders]
    check_same_data(runs)
    for run_, protocol, keep in wanted_evaluations(TABLES[name], runs):
        if is_missing(run_, protocol, keep):
            run_.evaluate(protocol, keep=keep)
    return side_by_side(TABLES[name], runs), runs


def reported(folder, protocol):
    rows = json.loads((folder / "report.json").read_text())["results"]
    (row,) = [r for r in rows if r["protocol"] == protocol]
    return row


def test_means_over_seeds_are_those_of_the_reports(folders):
    found, runs = evaluated("vgg3", folders)
    errors = [100 * (1 - reported(f, "dense(37)")["top1"]) for f in folders[:2]]
    line = found.body()[0]
    expected = f"{statistics.fmean(errors):.2f} ± {statistics.stdev(errors):.2f}"
    assert line == ["A", "256", "256", "29.6", "10.4", expected, line[6], "2", ""]
    d = next(line for line in found.body() if line[:3] == ["D", "[256;512]", "384"])
    assert d[5] == f"{100 * (1 - reported(folders[2], 'dense(55)')['top1']):.2f}"
    row = next(csv.DictReader(io.StringIO(found.csv())))
    assert float(row["ours top-1"]) == pytest.approx(statistics.fmean(errors))
    assert row["paper top-1 val"] == "29.6"
    assert "a0: vgg A, width 0.07, images of 32, S 37, seed 0" in found.text()
    assert not wanted_missing("vgg3", runs)


def wanted_missing(name, runs):
    return [w for w in wanted_evaluations(TABLES[name], runs) if is_missing(*w)]


def test_ensembles_are_means_of_saved_posteriors(folders):
    found, runs = evaluated("vgg6", folders)
    line = found.body()[3]
    assert line[:2] == ["D, E", "multi-crop & dense"]
    end = f"{runs[0].data.eval_split}.step_7.npz"
    names = (f"multi_crop_37_55_73_32.{end}", f"dense_37_55_73.{end}")
    files = [
        ensemble.load_posteriors(folder / "posteriors" / name)
        for folder in folders[2:]
        for name in names
    ]
    assert line[5] == f"{100 * (1 - ensemble.error_rates(files).top1):.2f}"
    assert found.body()[0][-1].startswith("no run of vgg D, S 256; no run of vgg D, S 384")
    assert not wanted_missing("vgg6", runs)
    assert not wanted_missing("vgg5", runs[:3])  # the same posteriors serve another table


def test_results_of_older_weights_do_not_count(tmp_path):
    folder = untrained(tmp_path / "a0", augment={"scale": (37, 37)})
    one = finished_run(folder)
    (protocol,) = {p for _, p, _ in wanted_evaluations(TABLES["vgg3"], [one])}
    one.evaluate(protocol, keep=True)
    assert not is_missing(one, protocol, True)
    assert one.known_result(protocol)
    untrained(folder, augment={"scale": (37, 37)}, step=9)
    later = finished_run(folder)
    assert later.step == 9
    assert later.known_result(protocol) is None
    assert later.saved_posteriors(protocol) is None


def test_runs_of_different_data_are_an_error(folders, tmp_path):
    other = untrained(tmp_path / "other", classes=6)
    with pytest.raises(
        ensemble.PosteriorsError, match=r"a0, evaluated on 5 classes.*other, evaluated on 6"
    ):
        check_same_data([FinishedRun(folders[0]), FinishedRun(other)])
