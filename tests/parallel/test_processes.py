"""Runs of several processes: equal results, stops and kills, other device counts, and bad input."""

import re

import numpy as np
import pytest
from PIL import Image

from jaxcnn.parallel import distributed
from jaxcnn.training.workdir_lock import lock_workdir
from tests.parallel.groups import (
    LaunchedGroup,
    assert_whole_epochs,
    free_port,
    ids_by_update,
    losses,
    starts,
)
from tests.parallel.witness import digest
from tests.training.runs import arguments, events, state_of

EXAMPLES = 256  # 16 updates are one epoch
# At TINY's learning rate, rounding grows a thousandfold in twenty updates of this narrow net.
SETTINGS = arguments(
    epochs=1,
    batch_size=16,
    log__every_steps=1,
    schedule__rate=0.0001,
    evals="({'name':'centre','scale':32,'every_epochs':0.5},)",
    checkpoint__every_epochs=0.25,
)
# Every save ends before the next update begins; a dead process is noticed in seconds.
STEADY = {"WAIT_FOR_SAVES": "1", "HEARTBEAT_SECONDS": "10"}


def eval_counts(workdir):
    """(n, correct, correct among five) of each evaluation, as integers."""
    rows = [e for e in events(workdir) if e["kind"] == "eval"]
    return [(e["n"], round(e["n"] * e["top1"]), round(e["n"] * e["top5"])) for e in rows]


def assert_same_run(workdir, other):
    """Losses and counts to rounding: gradients are summed in another order on other devices, and an image
    whose two best scores are equal to rounding may fall on either side."""
    np.testing.assert_allclose(losses(workdir), losses(other), rtol=1e-4)
    mine, theirs = np.array(eval_counts(workdir)), np.array(eval_counts(other))
    np.testing.assert_array_equal(mine[:, 0], theirs[:, 0])
    np.testing.assert_allclose(mine, theirs, atol=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(workdir, ids by update) of a run of one process on one device."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with LaunchedGroup(folder / "group", 1, 1, *SETTINGS, f"--workdir={folder / 'run'}") as group:
        assert group.wait() == [0], group.output()
    ids = ids_by_update([group])
    assert_whole_epochs(ids, EXAMPLES, 1)
    return folder / "run", ids


# Exit codes of a process whose peer is gone: an error if its connection broke; an abort by JAX if a heartbeat
# was missed first, or if the coordination service ended with process 0.
PEER_LOST = {1, -6}
# (processes, devices of each), STRIKE, possible exit codes by process, possible first updates.
STARTS = [
    ((2, 2), "1 train 6 0 KILL", (PEER_LOST, {-9}), {0}),
    ((2, 2), "0 train 10 0 KILL", ({-9}, PEER_LOST), {4}),
    ((2, 2), "1 train 13 0 TERM", ({143}, {143}), {8}),
    # The stop takes effect an update or two after the signal.
    ((1, 1), "", ({0},), {12, 13, 14, 15}),
]


def test_kills_stops_and_other_device_counts_do_not_change_a_run(undisturbed, tmp_path):
    """Four starts of one run: each restores exactly the last saved state and draws the next examples. The
    result equals that of the undisturbed run."""
    folder, groups = tmp_path / "run", []
    for (count, devices), strike, codes, _ in STARTS:
        saved = [(int(s.step), digest(s)) for s in [state_of(folder)]] if groups else []
        with LaunchedGroup(
            tmp_path / f"group_{len(groups)}", count, devices, *SETTINGS, f"--workdir={folder}",
            **STEADY, **({"STRIKE": strike} if strike else {}),
        ) as process_group:  # fmt: skip
            ended = process_group.wait()
        assert all(a in b for a, b in zip(ended, codes, strict=True)), (
            ended,
            process_group.output(),
        )
        assert process_group.restored() == saved * count
        groups.append(process_group)
    # jaxcnn's own message, or the watchdog's and JAX's.
    assert re.search("another process ended first|stopped sending heartbeats", groups[0].err(0))
    assert "loop.py" in groups[0].err(0)
    assert "stopped by SIGTERM of process 1; the state is saved" in groups[2].out(0) + groups[
        2
    ].err(0)
    begun = starts(folder)
    assert [(s["processes"], len(s["devices"])) for s in begun] == [
        (count, count * devices) for (count, devices), *_ in STARTS
    ]
    assert all(s["step"] in steps for s, (*_, steps) in zip(begun, STARTS, strict=True))
    assert ids_by_update(groups) == undisturbed[1]
    assert_same_run(folder, undisturbed[0])
    # Process 0 alone writes and prints; process 1 prints one line.
    assert groups[2].lines(1) == ["process 1/2, 2 local devices, 4 global"]
    assert "process 0/2, 2 local devices, 4 global" in groups[2].lines(0)
    # Each process reads its half of the rows, which together are the batch in its order. One that gets the
    # signal while it waits for its rows has none in the update that then does not count.
    halves, counted = groups[2].ids(), begun[3]["step"]
    assert {len(rows) for step in halves if step <= counted for rows in halves[step]} == {8}
    assert all({len(rows) for rows in halves[step]} <= {0, 8} for step in halves if step > counted)
    assert {p.name for p in folder.iterdir()} == {p.name for p in undisturbed[0].iterdir()}


def wait_in_vain(arguments):
    """Starts a process of two, the other of which never comes."""
    distributed.PATIENCE_SECONDS = 0.1
    index, address, *_ = arguments
    processes = distributed.Processes("SLURM", 2, int(index), address, "deactivate")
    distributed.start(processes, timeout=1.0)


def test_the_wait_for_the_others_ends_with_what_to_check(tmp_path):
    address = f"127.0.0.1:{free_port()}"
    vain = [
        ("1", f"127.0.0.1:{free_port()}", "nothing listens there"),
        ("1", "no-such-host.invalid:8476", "the name no-such-host.invalid does not resolve here"),
        ("0", address, f"process 0 answers at {address}, but not all of the others do"),
    ]
    options = {"main": wait_in_vain, "each": [row[:2] for row in vain], "HTTPS_PROXY": "proxy:3128"}
    with LaunchedGroup(tmp_path / "group", 3, 1, **options) as process_group:
        assert process_group.wait(60) == [1, 1, 1], process_group.output()
    for i, (index, address, why) in enumerate(vain):
        said = process_group.err(i)
        assert f"process {index}/2 (SLURM) waits for the others, 1 s at most: process 0" in said
        assert f"error: process {index}/2 (SLURM) waited 1 s for the others: process 0" in said
        for advice in (address, why, "firewall", "same HOST:PORT and N", "unset HTTPS_PROXY"):
            assert advice in said


# Bad input is reported by both processes before anything is trained.


def refused(tmp_path, *typed, **options):
    """(exit codes, error output) of two processes that both end with an error."""
    with LaunchedGroup(tmp_path / "group", 2, 1, *SETTINGS, *typed, **options) as process_group:
        codes = process_group.wait(60)
    assert set(codes) <= {1, 2}, process_group.output()
    assert "Traceback" not in process_group.err(0) + process_group.err(1)
    return codes, [process_group.err(0), process_group.err(1)]


def test_processes_with_different_configs(tmp_path):
    each = [[], ["--config.seed=1", "--config.optim.momentum=0.8"]]
    codes, said = refused(tmp_path, f"--workdir={tmp_path / 'run'}", each=each)
    assert codes == [1, 1]
    for text in said:
        assert "error: the processes do not have the same config:" in text
        assert "process 0 -> process 1: " in text
        assert "optim.momentum: 0.9 -> 0.8" in text
        assert "seed: 0 -> 1" in text
    assert not (tmp_path / "run").exists()


def test_a_config_that_only_one_process_cannot_read(tmp_path):
    """The other process ends too."""
    each = [[], ["--config.optim.momntum=1"]]
    codes, said = refused(tmp_path, f"--workdir={tmp_path / 'run'}", each=each)
    assert codes == [1, 2]
    assert "error: process 1 failed; its own message says why" in said[0]
    assert "config error: unknown key optim.momntum" in said[1]


def two_places(tmp_path, train=(10, 10)):
    """Two working directories; each has a folder images/ of four classes, with `train` images of each."""
    places = [tmp_path / name for name in ("a", "b")]
    for place, count in zip(places, train, strict=True):
        for split, number in (("train", count), ("val", 1)):
            for label in ("cat", "cow", "dog", "pig"):
                inside = place / "images" / split / label
                inside.mkdir(parents=True)
                for i in range(number):
                    Image.new("RGB", (40, 40), (i, 99, 7)).save(inside / f"{i:02d}.jpg")
    return places


FOLDER = "--config.data.source=folder:images"


def test_processes_with_different_data(tmp_path):
    codes, said = refused(
        tmp_path, FOLDER, f"--workdir={tmp_path / 'run'}", cwds=two_places(tmp_path, (10, 11))
    )
    assert codes == [1, 1]
    for text in said:
        assert "error: the processes do not have the same data:" in text
        assert "process 0 -> process 1: training images: 40 -> 44" in text


def test_a_workdir_that_only_one_process_sees(tmp_path):
    codes, said = refused(tmp_path, FOLDER, "--workdir=here", cwds=two_places(tmp_path))
    assert codes == [1, 1]
    for text in said:
        assert f"process 1 does not see the workdir {tmp_path / 'a' / 'here'} of process 0" in text


def test_a_workdir_in_use(tmp_path):
    with lock_workdir(tmp_path / "run"):
        codes, said = refused(tmp_path, f"--workdir={tmp_path / 'run'}")
    assert codes == [1, 1]
    for text in said:
        assert f"error: {tmp_path / 'run'} is in use by process" in text
        assert "use another --workdir" in text


def test_images_that_only_one_process_cannot_read(tmp_path):
    """Both stop after the same update, with the state saved."""
    places, workdir = two_places(tmp_path), tmp_path / "run"
    for file in (places[1] / "images" / "train").rglob("*.jpg"):
        file.write_bytes(b"no image")
    with LaunchedGroup(
        tmp_path / "group", 2, 2, *SETTINGS, FOLDER, f"--workdir={workdir}", cwds=places
    ) as process_group:
        assert process_group.wait() == [1, 1], process_group.output()
    for i in range(2):
        assert "error: 10 of the first 10 images are corrupt" in process_group.err(i)
    assert int(state_of(workdir).step) == 1  # process 1 lacked two rows of the second batch
    assert [e["step"] for e in events(workdir)] == [1]
