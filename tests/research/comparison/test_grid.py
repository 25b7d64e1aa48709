"""Comparisons as data, and their runs."""

import dataclasses

import pytest

from jaxcnn import models
from jaxcnn.config import ConfigError
from jaxcnn.research.comparison import grid
from jaxcnn.research.comparison.grid import make_grid, scale_durations
from jaxcnn.research.comparison.spec import comparison_from_dict, read_comparisons, slug
from tests.research.made import CONFIGS, comparison, plan


def test_runs_of_a_grid_seed_by_seed(tmp_path):
    made = plan(
        tmp_path,
        variants={"ReLU": {}, "no drop": {"model.dropout": 0.0}},
        grid={"schedule.rate": (0.01, 0.03)},
    )
    runs = made.runs()
    assert [str(run.folder.relative_to(tmp_path)) for run in runs] == [
        f"tiny/{cell}/seed_{seed}"
        for seed in (0, 1)
        for cell in ("relu_rate_0.01", "relu_rate_0.03", "no_drop_rate_0.01", "no_drop_rate_0.03")
    ]
    last = runs[-1].config
    assert (last["seed"], last["init"]["seed"], last["data"]["seed"]) == (1, 1, 1)
    assert (last["schedule"]["rate"], last["model"]["dropout"]) == (0.03, 0.0)
    assert last["model"]["num_classes"] == 4
    assert runs[-1].name == "tiny: no drop, schedule.rate=0.03, seed 1"
    assert {run.steps for run in runs} == {24}  # 3 epochs of 256 images in batches of 32
    assert made.examples == 256


def test_equal_epochs_is_the_default(tmp_path):
    assert [cell.config["epochs"] for cell in plan(tmp_path).cells] == [3.0, 3.0]


def test_a_budget_of_multiply_adds(tmp_path):
    """At width 1/16 and 32 pixels the convolutions of A have 4, 8, 16 and 32 channels: by hand
    110,592 + 2 x 73,728 + 147,456 + 73,728 + 147,456 + 2 x 36,864 = 700,416, and 32 x 256 + 256 x 256 +
    256 x 4 in the head. B adds 147,456 in blocks 1 and 2 each."""
    made = plan(tmp_path, budget="macs")
    a, b = made.cells
    assert a.macs == 700_416 + 32 * 256 + 256 * 256 + 256 * 4
    assert b.macs == a.macs + 2 * 147_456
    assert a.config["epochs"] == 3.0
    assert b.config["epochs"] == pytest.approx(3.0 * a.macs / b.macs, abs=5e-5)
    # the learning rate drops at the same share of the run
    share = b.config["epochs"] / 3.0
    assert b.config["schedule"]["drops"] == pytest.approx((2.0 * share, 2.5 * share), abs=5e-5)


def test_auxiliary_heads_count_in_the_budget(tmp_path):
    """Without its two heads GoogLeNet trains longer for the same multiply-adds; the evaluated net is the
    same."""
    made = make_grid([_googlenet()], tmp_path)[0]
    with_heads, without = made.cells
    assert with_heads.parameters == without.parameters
    assert with_heads.macs > without.macs
    assert without.config["epochs"] == pytest.approx(4.0 * with_heads.macs / without.macs, abs=5e-5)
    assert without.config["schedule"]["every"] == pytest.approx(without.config["epochs"] * 2)


def _googlenet():
    tiny = {"model.width": 0.0625, "model.image_size": 224, "data.source": "synthetic:4"}
    return comparison_from_dict(
        "heads",
        {
            "base": "googlenet",
            "variants": {"base": {}, "no heads": {"model.auxiliary": False}},
            "overrides": {**tiny, "epochs": 4.0, "batch_size": 32},
            "seeds": (0,),
            "budget": "macs",
        },
    )


def test_durations_are_scaled_with_the_epochs():
    config = {"epochs": 10.0, "schedule": {"drops": (4.0, 8.0), "rate": 0.1}, "average": {}}
    assert scale_durations(config, 0.5) == {"epochs": 5.0, "schedule.drops": (2.0, 4.0)}
    config = {"epochs": 8.0, "schedule": {"every": 2.0}, "average": {"from_epoch": 6.0}}
    assert scale_durations(config, 1.5) == {
        "epochs": 12.0, "schedule.every": 3.0, "average.from_epoch": 9.0,
    }  # fmt: skip


def test_errors_of_all_variants_are_reported_at_once(tmp_path):
    wrong = comparison(
        variants={
            "base": {},
            "a": {"model.colum": "B"},
            "b": {"optim.momentum": "much", "model.dropout": 2.0},
        }
    )
    with pytest.raises(ConfigError) as caught:
        make_grid([wrong, comparison("other", overrides={"batch_size": 0})], tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("tiny, a: unknown key model.colum; did you mean model.column?")
    assert any(line.startswith("tiny, b: optim.momentum must be float") for line in lines)
    assert any(line.startswith("tiny, b: ") and "dropout=2.0" in line for line in lines)
    assert lines[-1] == "other: batch_size must be at least 1, got 0"  # once, not for each variant
    assert not any(tmp_path.iterdir())


def test_identical_variants_are_an_error(tmp_path):
    """The dropout of VGG is 0.5 already."""
    with pytest.raises(ConfigError, match="base and dropout are the same config"):
        plan(tmp_path, variants={"base": {}, "dropout": {"model.dropout": 0.5}})


def test_comparisons_in_configs_resolve(tmp_path, monkeypatch):
    """Every one resolves, on generated images in place of its own, its nets are built, and its variants
    differ. Counting the parameters of whole nets would take longer than all else here."""

    def counts(**model):
        assert models.build(**model)
        return 1, 1

    monkeypatch.setattr(grid, "_parameters_and_macs", counts)
    for path in sorted((CONFIGS / "comparisons").glob("*.py")):
        found = read_comparisons(path)
        assert found
        for name, comparison_of in found.items():
            images = {**comparison_of.overrides, "data.source": "synthetic:10"}
            changed = dataclasses.replace(comparison_of, overrides=images)
            (made,) = make_grid([changed], tmp_path)
            assert len(made.runs()) == len(made.cells) * len(comparison_of.seeds) > 1
            assert made.comparison.about, name


def test_top1_needs_an_evaluation(tmp_path):
    with pytest.raises(ConfigError, match="measure top1 needs a row in evals"):
        plan(tmp_path, overrides={"evals": ()})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"variant": {}}, "unknown key variant; did you mean variants?"),
        ({"seeds": (0, "1")}, r"seeds must be .*got \(0, '1'\)"),
        ({"seeds": (0, 0)}, r"seeds must be different whole numbers, 0 or more, got \(0, 0\)"),
        ({"seeds": ()}, "seeds must be different"),
        ({"budget": "hours"}, "budget must be one of epochs, macs, got 'hours'"),
        ({"measure": "top3"}, "unknown measure 'top3'"),
        (
            {"grid": {"schedule.rate": 0.1}},
            "grid.schedule.rate must be a tuple of different values",
        ),
        ({"grid": {"schedule.rate": (0.1, 0.1)}}, "tuple of different values"),
        ({"variants": {}}, "variants is empty"),
        ({"variants": {"a b": {}, "A_b": {}}}, "'A_b' would share the folder 'a_b' with 'a b'"),
        ({"variants": {"?": {}}}, "'\\?' has no letters"),
        ({"variants": {"base": "model.lrn=off"}}, "must be a dict of overrides"),
        ({"variants": {"long": {"epochs": 9.0}}}, "'long' may not set epochs"),
        ({"overrides": {"seed": 3}}, "may not set seed"),
        (
            {"variants": {"a": {"schedule.rate": 1.0}}, "grid": {"schedule.rate": (0.1, 0.2)}},
            "'a' sets schedule.rate, and so does the grid",
        ),
    ],
)
def test_bad_comparisons(fields, message):
    with pytest.raises(ConfigError, match=message):
        comparison(**fields)


def test_names_must_be_usable_as_folders():
    with pytest.raises(ConfigError, match="since it names a folder"):
        comparison("../up")
    with pytest.raises(ConfigError, match=r"(?s)missing key base.*missing key variants"):
        comparison_from_dict("x", {})
    assert slug("no LRN, rate=0.03") == "no_lrn_rate_0.03"
