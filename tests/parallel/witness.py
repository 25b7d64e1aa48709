"""jaxcnn train with a witness, for tests of several processes.

Each process writes a file of JSON lines to the folder in the variable WITNESS: the ids that it drew for each
update, the state that it restored, and the signal that it sent itself. With STRIKE="PROCESS PHASE NUMBER
DELAY SIGNAL", that process sends itself a signal DELAY seconds after it starts the batch of update NUMBER
("train"), image NUMBER of its evaluations ("evaluation") or the save of update NUMBER ("save"); DELAY 0
sends it immediately, in the main thread. With WAIT_FOR_SAVES=1, each save finishes before the next update
starts. HEARTBEAT_SECONDS is the time after which a dead process is noticed; failed ones then exit quickly.
"""

import collections
import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path


class Witness:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.struck = False

    def note(self, **what):
        import jax

        path = self.folder / f"process_{jax.process_index()}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def reach(self, phase, count):
        import jax

        index, wanted, at, delay, name = os.environ.get("STRIKE", "-1 none 0 0 TERM").split()
        here = (jax.process_index(), phase) == (int(index), wanted) and count >= int(at)
        if here and not self.struck:
            self.struck = True
            number = signal.Signals[f"SIG{name}"]
            if float(delay):
                threading.Timer(float(delay), self.strike, [number]).start()
            else:
                self.strike(number)

    def strike(self, number):
        self.note(struck=time.time(), signal=number)
        os.kill(os.getpid(), number)


def digest(state):
    """SHA-256 of a state with all its values on this process."""
    import jax
    import numpy as np

    total = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()


def attend(witness):
    """Patches the run so that `witness` records what it does."""
    from jax.experimental import multihost_utils

    from jaxcnn import data as room
    from jaxcnn.evaluation import run_protocol
    from jaxcnn.parallel import distributed, process_group
    from jaxcnn.training import run_setup
    from jaxcnn.training.checkpoint import Checkpoints
    from jaxcnn.training.prefetch import Prefetcher

    made, drawn, saved, restored = (
        room.TrainLoader, room.TrainLoader.__next__, Checkpoints.save, Checkpoints.restore,
    )  # fmt: skip
    done, ahead, given = [0], collections.deque(), Prefetcher.next

    def make(*arguments, start_step, **keys):
        done[0] = start_step
        ahead.clear()
        return made(*arguments, start_step=start_step, **keys)

    def next_batch(batches):
        batch = drawn(batches)
        ahead.append(batch["id"].tolist())  # in a thread, ahead of its update
        return batch

    def next_update(*arguments):
        taken = given(*arguments)
        if ahead:
            done[0] += 1
            witness.note(step=done[0], ids=ahead.popleft())
            witness.reach("train", done[0])
        return taken

    class EvalLoader(run_protocol.EvalLoader):
        seen = 0

        def __next__(self):
            EvalLoader.seen += 1
            witness.reach("evaluation", EvalLoader.seen)
            return super().__next__()

    def save(self, state, *arguments, **keys):
        if self.folder.name == "checkpoints":  # not the probe at the start
            witness.reach("save", int(state.step))
        saved(self, state, *arguments, **keys)
        if os.environ.get("WAIT_FOR_SAVES"):
            self.wait()

    def restore(self, *arguments):
        found = restored(self, *arguments)
        if found is not None and self.folder.name == "checkpoints":
            whole = multihost_utils.process_allgather(found[0], tiled=True)
            witness.note(restored=int(whole.step), state=digest(whole))
        return found

    if seconds := os.environ.get("HEARTBEAT_SECONDS"):
        distributed.HEARTBEAT_SECONDS = int(seconds)
        process_group._LEAVE_SECONDS = 0.5
    made.__next__ = next_batch
    run_setup.TrainLoader = make
    Prefetcher.next = next_update
    run_protocol.EvalLoader, Checkpoints.save, Checkpoints.restore = EvalLoader, save, restore


def watched_main(arguments):
    """`jaxcnn train` with these arguments; returns its exit code."""
    from jaxcnn.cli.main import main

    attend(Witness(os.environ["WITNESS"]))
    return main(["train", *arguments])
