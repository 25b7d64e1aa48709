"""Low limits of the system: raised where that is allowed, else one line that says what to type."""

import resource

import pytest

from jaxcnn.cli import main as program_module
from jaxcnn.cli.exit_codes import EXIT_ERROR, exit_code
from jaxcnn.limits import ENOUGH_FILES, LimitError, raise_limits

NO = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """The limits by number, which setrlimit changes; not those of this process."""
    known = {resource.RLIMIT_NOFILE: (256, 4096), resource.RLIMIT_AS: (NO, NO)}
    monkeypatch.setattr(resource, "getrlimit", known.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", known.__setitem__)
    return known


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((20, 4096), (4096, 4096)),
        ((1024, 1_048_576), (ENOUGH_FILES, 1_048_576)),
        ((1024, NO), (ENOUGH_FILES, NO)),
        ((NO, NO), (NO, NO)),
        ((100_000, 200_000), (100_000, 200_000)),
        ((40, 40), (40, 40)),
    ],
)
def test_open_files_are_raised_as_far_as_allowed(limits, before, after):
    limits[resource.RLIMIT_NOFILE] = before
    raise_limits()
    assert limits[resource.RLIMIT_NOFILE] == after


def test_too_few_files_or_addresses_are_an_error(limits, monkeypatch, capsys):
    limits[resource.RLIMIT_NOFILE] = (20, 20)
    with pytest.raises(LimitError, match=r"may open 20 files and needs 40; .* ulimit -n 1024"):
        raise_limits()
    limits[resource.RLIMIT_NOFILE] = (1024, 1024)
    limits[resource.RLIMIT_AS] = (2_500_000_000, NO)
    monkeypatch.setattr(program_module, "main", lambda _: pytest.fail("it must not start"))
    with pytest.raises(SystemExit) as left:
        program_module.program(["check", "vgg_a"])
    assert left.value.code == EXIT_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: this process may use 2.5 GB of addresses")
    assert "ulimit -v unlimited" in said
    assert said.count("\n") == 1


def test_no_more_threads_is_one_line(capsys):
    def work():
        raise RuntimeError("can't start new thread")

    assert exit_code(work, kept="") == EXIT_ERROR
    said = capsys.readouterr().err
    assert said.startswith("error: can't start new thread: raise the limit on processes (ulimit -u")
    assert said.count("\n") == 1
