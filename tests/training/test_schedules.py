"""Learning-rate schedules (papers.md section 6, O5), and steps and epochs."""

import pytest

from jaxcnn.training.schedules import SCHEDULES, Plateau, Progress, constant, exponential, listed

# Every schedule must have its facts here.
FACTS = {
    "constant": (constant(rate=0.1), {0: 0.1, 50: 0.1}),
    "listed": (
        listed(rate=1e-2, drops=(20.0, 40.0, 60.0)),
        {0: 1e-2, 19.999: 1e-2, 20: 1e-3, 40: 1e-4, 73.9: 1e-5},
    ),
    "exponential": (
        exponential(rate=1.0),
        {0: 1, 7: 1, 7.999: 1, 8: 0.96, 16: 0.9216, 60: 0.7514, 100: 0.6127, 249: 0.2821},
    ),
    "plateau": (Plateau(rate=1e-2), {0.0: 1e-2, 500.0: 1e-2}),  # its drops are in test_plateau.py
}


def test_every_schedule_has_facts():
    assert FACTS.keys() == SCHEDULES.keys()


@pytest.mark.parametrize("name", FACTS)
def test_each_schedule_has_its_values(name):
    schedule, values = FACTS[name]
    for epoch, rate in values.items():
        assert schedule(epoch) == pytest.approx(rate, rel=1e-4), epoch


@pytest.mark.parametrize(
    ("make", "keyword"),
    [
        (lambda: constant(rate=0.0), "rate"),
        (lambda: listed(rate=1.0, drops=(3.0, 1.0)), "drops"),
        (lambda: listed(rate=1.0, drops=(), factor=2.0), "factor"),
        (lambda: exponential(rate=1.0, every=0.0), "every"),
        (lambda: Plateau(rate=0.0), "rate"),
        (lambda: Plateau(rate=1.0, factor=0.0), "factor"),
        (lambda: Plateau(rate=1.0, patience=0), "patience"),
        (lambda: Plateau(rate=1.0, drops=-1), "drops"),
        (lambda: Plateau(rate=1.0, every_epochs=0.0), "every_epochs"),
    ],
)
def test_errors_name_values_out_of_range(make, keyword):
    with pytest.raises(ValueError, match=keyword):
        make()


def test_runs_have_the_papers_numbers_of_steps():
    """74 epochs of 1,281,167 images at 256 are the paper's 370 K iterations; 90 at 128 are 900,821."""
    assert Progress(1_281_167, 256, 74.0).total == 370_338
    assert Progress(1_281_167, 256, 370_000 * 256 / 1_281_167).epochs == pytest.approx(
        73.93, abs=0.005
    )
    assert Progress(1_281_167, 128, 90.0).total == 900_821


def test_epochs_are_exact_at_whole_steps():
    progress = Progress(examples=1437, batch_size=64, epochs=64.0)
    assert progress.total == 1437
    assert progress.epoch(1437) == 64.0
    assert sum(progress.due(step, 4.0) for step in range(1, progress.total + 1)) == 16
    assert progress.due(progress.total, 0.0)
    assert not progress.due(1, 0.0)
