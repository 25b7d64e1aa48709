"""Comparisons of the smallest net on generated images, and finished runs written by hand."""

import json
from pathlib import Path

from jaxcnn import config as configs
from jaxcnn.research.comparison.grid import make_grid
from jaxcnn.research.comparison.spec import comparison_from_dict

CONFIGS = Path(__file__).parent.parent.parent / "configs"

# Eight steps an epoch of 32 generated images of 4 classes, by the smallest VGG.
TINY = {
    "batch_size": 32,
    "epochs": 3.0,
    "model.width": 0.0625,
    "model.image_size": 32,
    "data.source": "synthetic:4",
    "augment.scale": (32, 40),
    "evals": ({"name": "centre", "scale": 32, "every_epochs": 1.0},),
    "schedule.rate": 0.002,
    "schedule.drops": (2.0, 2.5),
    "log.every_steps": 4,
    "log.tensorboard": False,
}
PROTOCOL = "centre(32->32)"


def comparison(name="tiny", **fields):
    variants = {"base": {}, "column B": {"model.column": "B"}}
    fields = {"base": "vgg_a", "variants": variants, "seeds": (0, 1), **fields}
    return comparison_from_dict(
        name, {**fields, "overrides": {**TINY, **fields.get("overrides", {})}}
    )


def plan(out, **fields):
    return make_grid([comparison(**fields)], out)[0]


def finish(run, top1=0.5, errors=(0.75, 0.5, 0.25)):
    """The files of a finished run, with an evaluation an epoch and `errors` as its training errors at
    even distances."""
    run.folder.mkdir(parents=True)
    configs.save_config(run.config, run.folder / "config.json")
    row = {"protocol": PROTOCOL, "split": "evaluation", "n": 64, "step": run.steps}
    events = [
        {
            "kind": "train",
            "step": 1,
            "epoch": 3.0 * i / len(errors),
            "loss": 1.0,
            "top1": 1.0 - e,
            "learning_rate": 0.01,
            "images_per_second": 100.0,
        }
        for i, e in enumerate(errors, 1)
    ]
    row |= {"top5": 1.0, "loss": 1.0}
    events += [{"kind": "eval", **row, "epoch": float(e), "top1": top1 * e / 3} for e in (1, 2, 3)]
    lines = "".join(json.dumps(event) + "\n" for event in events)
    (run.folder / "metrics.jsonl").write_text(lines)
    report = {"step": run.steps, "results": [{**row, "top1": top1}]}
    report |= {"images_per_second": 100.0 * (1 + run.config["seed"]), "seconds": 30.0}
    (run.folder / "report.json").write_text(json.dumps(report))
    start = {"devices": ["cpu (cpu)"], "git_commit": "0123456789abcdef", "git_modified": False}
    start |= {
        "examples": 32,
        "versions": {"jaxcnn": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
        "step": 0,
    }
    (run.folder / "run.json").write_text(json.dumps({"starts": [start]}))
    (run.folder / "holder.json").write_text(json.dumps({"pid": 1, "machine": "a machine, 2 cores"}))


def diverge(run):
    run.folder.mkdir(parents=True)
    (run.folder / "diverged.json").write_text('{"message": "not finite"}')
