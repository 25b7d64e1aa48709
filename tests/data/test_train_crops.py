import dataclasses

import pytest

from jaxcnn.data.train_crops import Sampling


def test_defaults_are_the_settings_of_vgg_and_googlenet():
    sampling = Sampling()
    assert (sampling.sampling, sampling.scale) == ("random_crop", (256, 256))
    assert sampling.area == (0.08, 1.0)
    assert sampling.aspect == (3 / 4, 4 / 3)
    assert sampling.interpolation == ("bilinear",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sampling": "random_crops"},
            r"unknown sampling 'random_crops'; did you mean 'random_crop'\? \(valid: 'random_crop'",
        ),
        ({"aspect_law": "loguniform"}, r"unknown aspect_law.*did you mean 'log_uniform'\?"),
        ({"interpolation": ("bilinear", "bicubic")}, r"unknown interpolation 'bicubic'.*'cubic'\?"),
        ({"interpolation": ()}, "interpolation is empty: name one or more of 'bilinear', 'area'"),
        ({"scale": (40, 30)}, r"scale must be \(lowest, highest\).*got \(40, 30\)"),
        ({"scale": (0, 30)}, r"0 < lowest <= highest, got \(0, 30\)"),
        ({"area": (0.0, 1.0)}, r"area must be.*0 < smallest <= largest <= 1, got \(0.0, 1.0\)"),
        ({"area": (0.5, 1.5)}, r"got \(0.5, 1.5\)"),
        ({"area": (0.5, 0.1)}, r"got \(0.5, 0.1\)"),
        ({"area": (float("nan"), 1.0)}, "area must be"),
        ({"aspect": (0.0, 1.0)}, r"aspect must be \(narrowest, widest\).*got \(0.0, 1.0\)"),
        ({"aspect": (1.5, 1.0)}, r"got \(1.5, 1.0\)"),
        ({"aspect": (1.0, float("inf"))}, "aspect must be"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**changes)


def test_all_errors_are_reported_together():
    with pytest.raises(
        ValueError, match=r"unknown sampling 'x'.*scale must be.*area must be"
    ) as error:
        Sampling(sampling="x", scale=(2, 1), area=(2.0, 3.0))
    assert "aspect" not in str(error.value)


def test_subclass_keeps_the_checks():
    @dataclasses.dataclass(frozen=True)
    class More(Sampling):
        flip: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()

    assert More(scale=(3, 4), flip=False).scale == (3, 4)
    with pytest.raises(ValueError, match="scale must be"):
        More(scale=(4, 3))
