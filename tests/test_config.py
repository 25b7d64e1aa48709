"""Configs: every file resolves, all errors are reported at once, and differences are shown."""

import json
from pathlib import Path

import pytest

from jaxcnn import config as configs
from jaxcnn.config import migration
from jaxcnn.config.files import difference
from jaxcnn.files import FileError
from jaxcnn.training import schema

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(p.stem for p in FOLDER.glob("*.py"))


def read(name, *overrides):
    return schema.read_resolved(name, overrides)[1]


def errors(name, *overrides):
    with pytest.raises(configs.ConfigError) as caught:
        read(name, *overrides)
    return str(caught.value)


def test_each_paper_has_its_config_files():
    papers = {"alexnet", "vgg_a", "vgg_a_lrn", "vgg_b", "vgg_c", "vgg_d", "vgg_e", "googlenet"}
    assert set(FILES) == papers | {"quickstart", "cifar10", "cifar10_cuda_convnet"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_resolves_and_survives_json(name, tmp_path):
    config = read(name)
    configs.save_config(config, tmp_path / "config.json")
    again = configs.load_config(tmp_path / "config.json")
    assert difference(again, config) == []
    assert schema.resolve_config(again) == config


def test_configs_hold_the_papers_numbers():
    facts = {
        "alexnet": (90.0, 128, 0.01, 5e-4),
        **{f"vgg_{c}": (74.0, 256, 1e-2, 5e-4) for c in ("a", "a_lrn", "b", "c", "d", "e")},
        "googlenet": (250.0, 32, 0.01, 2e-4),
    }
    for name, (epochs, batch, rate, decay) in facts.items():
        config = read(name)
        assert (config["epochs"], config["batch_size"]) == (epochs, batch)
        assert config["schedule"]["rate"] == rate
        assert (config["optim"]["momentum"], config["optim"]["weight_decay"]) == (0.9, decay)
        assert config["data"]["source"] == "tfds:imagenet2012"
        if name != "googlenet":
            assert len(config["schedule"]["drops"]) == 3


def test_all_errors_at_once_each_with_the_nearest_key():
    text = errors("vgg_e", "optim.momntum=1", "lr=3", "epochs=x", "model.colum=E", "evals=3")
    for part in (
        "unknown key optim.momntum; did you mean optim.momentum?",
        "unknown key lr; did you mean schedule.rate?",
        "epochs must be float, got 'x'",
        "unknown key model.colum; did you mean model.column?",
        "evals must be a tuple of rows",
    ):
        assert part in text
    assert len(text.splitlines()) == 5


def test_range_errors_are_reported_together_with_wrong_keys_and_types():
    text = errors(
        "vgg_e", "modle.width=2", "batch_size=-3", "model.width=-1", "optim.momentum=2", "epochs=x"
    )
    for part in (
        "unknown key modle.width",
        "batch_size must be",
        "width=-1.0",
        "momentum must lie",
        "epochs must",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=1.5", "batch_size must be int, got 1.5"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("epochs=-1", "epochs must be 0 or more and finite, got -1"),
        ("epochs=1e999", "epochs must be 0 or more and finite, got inf"),
        ("seed=99999999999", "seed must lie in 0 to"),
        ("modle.width=2", "unknown key modle.width; did you mean model.width?"),
        ("model.dropout=1.5", "dropout=1.5 is not a probability"),
        ("model.column=Z", "column='Z' is not one of"),
        ("lrn=off", "unknown key lrn (valid: "),
        ("model.name=", "unknown model.name ''"),
        ("schedule.name=lsted", "unknown schedule.name 'lsted'; did you mean 'listed'?"),
        ("optim.momentum=2", "momentum must lie in [0, 1), got 2.0"),
        ("augment.scale=256", "augment.scale must be tuple[int, int], got 256"),
        ("augment.scale=(128,256)", "must not start below model.image_size 224"),
        ("evals=(dict(name='centre'),)", "evals must be a tuple of rows"),
        (
            "evals=({'name': 'centre', 'scale': 100},)",
            "evals[0]: centre at scale 100 is smaller than",
        ),
        ("evals=({'name': 'center'},)", "unknown evals[0].name 'center'; did you mean 'centre'?"),
        ("evals=({'name': 'centre', 'skale': 300},)", "unknown key evals[0].skale"),
        ("data.source=imagenet", "source must be tfds:NAME, folder:PATH, packed:DIR or synthetic"),
        ("data=3", "data is a section; set its keys one by one"),
        ("model.width", "--config.model.width needs a value"),
        ("model.width=-1", "width=-1.0 must be above 0"),
        ("mesh.data=-1", "data, model and bucket_mb must be 0 or more, got -1, 0, 0"),
        ("mesh.plan=pipeline", "plan must be auto or one of data, towers, fully_connected"),
        ("grad_accum_steps=0", "grad_accum_steps must be at least 1"),
        ("checkpoint.keep=0", "keep must be at least 1"),
        ("log.every_steps=0", "every_steps must be at least 1"),
    ],
)
def test_each_error_names_its_key_and_what_is_valid(override, message):
    assert message in errors("vgg_e", override)


def test_overrides_take_the_type_of_their_key():
    config = read(
        "vgg_e", "epochs=1e1", "batch_size=1e2", "model.remat=true", "augment.scale=(256,512)"
    )
    assert (config["epochs"], config["batch_size"]) == (10.0, 100)
    assert config["model"]["remat"] is True
    assert config["augment"]["scale"] == (256, 512)
    assert read("vgg_e", "data.data_dir=5")["data"]["data_dir"] == "5"


def test_a_new_section_name_drops_the_keys_that_only_the_old_name_accepts():
    config = read("alexnet", "data.held_out=100", "schedule.name=plateau")
    assert config["schedule"] == {
        "name": "plateau", "rate": 0.01, "factor": 0.1, "patience": 5, "drops": 3, "every_epochs": 1.0,
    }  # fmt: skip
    config = read("alexnet", "data.held_out=100", "schedule.drops=2", "schedule.name=plateau")
    assert config["schedule"]["drops"] == 2
    with pytest.raises(configs.ConfigError, match=r"unknown key schedule\.patience"):
        read("alexnet", "schedule.patience=2")


def test_missing_keys_are_named():
    given = configs.read_config(FOLDER / "vgg_e.py")
    del given["batch_size"], given["schedule"]["rate"], given["data"]["source"]
    with pytest.raises(configs.ConfigError) as caught:
        schema.resolve_config(given)
    for key in ("batch_size", "schedule.rate (float)", "data.source (str)"):
        assert f"missing key {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "override", "message"),
    [
        ("epochs=float('nan')", "seed=1", "epochs must be 0 or more and finite, got nan"),
        ("loss=5", "loss.auxiliary_weight=1", "loss must be a section of keys, got 5"),
        ("optim=3", "optim.name=momentum", "optim must be a section of keys, got 3"),
    ],
)
def test_each_error_of_a_file_names_its_key(line, override, message, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\n"
        f"def get_config():\n    return ConfigDict(dict(model=dict(name='alexnet'), {line}))\n"
    )
    assert message in errors(str(tmp_path / "mine.py"), override)


def test_seeds_default_to_the_one_seed():
    config = read("vgg_e", "seed=7")
    assert (config["init"]["seed"], config["data"]["seed"]) == (7, 7)
    config = read("vgg_e", "seed=7", "data.seed=3")
    assert (config["init"]["seed"], config["data"]["seed"]) == (7, 3)


def test_a_missing_config_file_suggests_the_nearest():
    assert "did you mean --config=vgg_e?" in errors("configs/vgg_ee.py")


def test_a_file_without_get_config_is_an_error(tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(configs.ConfigError, match="has no function get_config"):
        configs.read_config(tmp_path / "mine.py")


def test_epochs_log_and_checkpoint_may_differ_on_resume_and_optim_may_not():
    old = read("quickstart")
    new = read(
        "quickstart", "epochs=50", "log.every_steps=3", "checkpoint.keep=5", "optim.momentum=0.8"
    )
    assert configs.forbidden_difference(old, new) == ["optim.momentum: 0.9 -> 0.8"]
    assert len(difference(old, new)) == 4


SAVED = sorted((FOLDER.parent / "results").rglob("config.json"))


@pytest.mark.parametrize("version", [3, 0, "2", None, True, [2]])
def test_a_config_of_an_unknown_version_is_an_error(version, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"version": version}))
    with pytest.raises(FileError, match=r"has version .* of the format"):
        configs.load_config(path)


def test_configs_saved_by_earlier_versions_are_migrated():
    """results/ holds configs of several earlier versions."""
    assert len(SAVED) > 60
    for path in SAVED:
        saved = json.loads(path.read_text())
        config = schema.resolve_config(configs.load_config(path))
        assert config["grad_accum_steps"] == saved["loss"]["accumulate"]
        assert config["schedule"] == configs.plain(saved["schedule"])
        assert config["model"].items() >= configs.plain(saved["model"]).items()


def test_migration_renames_keys_and_values_and_drops_harmless_keys(monkeypatch):
    monkeypatch.setitem(migration.RENAMED_KEYS, "model.width", "optim.width")
    monkeypatch.setitem(migration.RENAMED_VALUES, "augment.sampling", (("old", "new"),))
    monkeypatch.setitem(migration.REMOVED_KEYS, "mesh.unused", 0)
    monkeypatch.setitem(migration.REMOVED_KEYS, "mesh.speed", migration.ANY)
    old = {
        "model": {"width": 2},
        "loss": {"accumulate": 4},
        "augment": {"sampling": "old"},
        "mesh": {"unused": 0, "speed": 7},
    }
    copy = json.loads(json.dumps(old))
    assert migration.migrate(old) == {
        "grad_accum_steps": 4,
        "optim": {"width": 2},
        "augment": {"sampling": "new"},
    }
    assert old == copy
    # A removed key with a value that mattered stays, so that reading it is an error.
    assert migration.migrate({"mesh": {"unused": 1}}) == {"mesh": {"unused": 1}}


def test_a_run_whose_ungrouped_net_had_whole_lrn_keeps_it(tmp_path):
    """Files of the first format, without a version, are of nets whose ungrouped=True changed LRN as well."""
    config = read("alexnet", "model.ungrouped=True")
    assert config["model"]["lrn"] == "tower"
    path = tmp_path / "config.json"
    configs.save_config(config, path)
    assert configs.load_config(path) == config
    saved = json.loads(path.read_text())
    assert saved.pop("version") == 2
    for ungrouped, before, now in (
        (True, "tower", "whole"),
        (True, "off", "off"),
        (False, "tower", "tower"),
    ):
        saved["model"].update(ungrouped=ungrouped, lrn=before)
        path.write_text(json.dumps(saved))
        assert configs.load_config(path)["model"]["lrn"] == now


def test_migration_keeps_a_flip_probability_and_converts_an_old_switch():
    """1.0 equals True in Python; a saved flip probability of 1.0 must not become 0.5."""
    for value in (0.0, 1.0, 0.3):
        assert migration.migrate({"augment": {"flip": value}}) == {"augment": {"flip": value}}
    assert migration.migrate({"augment": {"flip": True}}) == {"augment": {"flip": 0.5}}


def test_an_old_name_is_an_error_that_gives_the_new_one(monkeypatch):
    assert errors("vgg_e", "loss.accumulate=2") == "loss.accumulate is now grad_accum_steps"
    assert errors("vgg_e", "augment.sampling=area") == (
        "augment.sampling='area' is now 'random_resized_crop'"
    )
    monkeypatch.setitem(migration.RENAMED_VALUES, "data.train_split", (("old", "train"),))
    assert errors("vgg_e", "data.train_split=old") == "data.train_split='old' is now 'train'"


def test_a_printed_config_gives_the_origin_of_each_value():
    given, config = schema.read_resolved("vgg_e", ["optim.momentum=0.8"])
    shown = configs.format_config(config, given, ["optim.momentum=0.8"])
    assert "optim.momentum = 0.8  # command line" in shown
    assert "model.column = 'E'  # file" in shown
    assert "grad_accum_steps = 1  # default" in shown


def test_init_from_run_may_differ_on_resume_and_init_layers_may_not():
    old, new = read("vgg_d", "init.from_run=runs/a"), read("vgg_d", "init.from_run=/other/a")
    assert configs.forbidden_difference(old, new) == []
    new = read("vgg_d", "init.from_run=runs/a", "init.layers=('fc6',)")
    assert configs.forbidden_difference(old, new) == ["init.layers: () -> ('fc6',)"]


def test_the_protocol_of_the_held_out_images_must_stay_on_resume():
    rows = "evals=({'name':'centre','scale':256},{'name':'centre','scale':384})"
    other = "evals=({'name':'centre','scale':384},)"
    free = [read("vgg_d", text) for text in (rows, other)]
    assert configs.forbidden_difference(*free) == []
    held = [read("vgg_d", "data.held_out=10", text) for text in (rows, other)]
    assert configs.forbidden_difference(*held) == ["evals[0].scale: 256 -> 384"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.interpolation=bilinear", r"for one value: \('bilinear',\)"),
        ("augment.scale=384", r"such as \(384, 384\)"),
    ],
)
def test_type_errors_give_an_example_of_a_valid_value(override, message):
    with pytest.raises(configs.ConfigError, match=message):
        read("vgg_d", override)


def test_an_average_that_never_begins_is_an_error():
    text = errors("vgg_d", "average.from_epoch=90", "average.kind=uniform")
    assert "average.from_epoch 90 is not below epochs 74" in text


@pytest.mark.parametrize("value", [3, [[]], {"name": {}}, {"a": {"b": 1}}, [{"name": {}}]])
def test_a_section_of_any_type_is_an_error_of_the_config(value):
    """In the place of a section or of the rows of evals, with overrides inside it."""
    config = configs.read_config(FOLDER / "quickstart.py")
    for section in ("model", "optim", "schedule", "evals"):
        overrides = [f"{section}.name=x", f"{section}.momentum=0.8"]
        with pytest.raises(configs.ConfigError, match=section):
            schema.resolve_config({**config, section: value}, overrides)
