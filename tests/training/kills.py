"""Kill a trainer's process repeatedly, at random moments, and resume it each time.

The trainer is ``tests.training.tiny``, which saves every few steps, so many of the moments are during a save.
Its processes are forked from one that has only imported what they need, and they share compilations.
"""

import multiprocessing
import random
import signal
import sys
import time
from pathlib import Path

from tests.training import tiny

STEPS, SAVE_EVERY = 1200, 5
LONGEST = 1.0  # seconds from a session's second step to its end
MOMENTS = ("in a step", "while a save is written", "between rename and clean-up")


def trainer(directory, cache, log):
    """The process: what it prints goes to a file."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    options = ["--resume", "--steps", STEPS, "--save-every", SAVE_EVERY]
    sys.argv = ["tiny", str(directory), *map(str, options)]
    with log.open("w") as sys.stdout:
        tiny.main()


def started(directory, cache):
    """A process under way, and the file with what it prints."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.tiny"])
    log = Path(cache).with_suffix(".log")
    log.unlink(missing_ok=True)
    process = context.Process(target=trainer, args=(directory, cache, log))
    process.start()
    return process, log


def names(directory):
    folder = Path(directory) / "checkpoints"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def complete(directory):
    """The steps of the newest complete checkpoint; 0 where there is none."""
    return max((int(name) for name in names(directory) if name.isdecimal()), default=0)


def moment(directory):
    """What was going on, by what is left of it."""
    left = names(directory)
    whole = [name for name in left if name.isdecimal()]
    if len(whole) > 1 or any(name.startswith("partial-0") for name in left):
        return "between rename and clean-up"
    return "in a step" if len(left) == len(whole) else "while a save is written"


def wait_for(holds, seconds):
    """Wait until something holds, at the most so long: whether it does."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(1e-4)
    return held


def session(directory, cache, rng):
    """Go on until a moment drawn at random: from how many steps it went on."""
    process, log = started(directory, cache)
    try:
        # The first step's batch is made once before compilation and once after it.
        assert wait_for(lambda: log.exists() and log.read_text().count("\n") > 2, 300), "no step was made"
        kind = rng.random()
        if kind < 0.6:
            time.sleep(rng.uniform(0, LONGEST / 2))
        elif kind < 0.8:  # somewhere in the next save
            wait_for(lambda: any(name.startswith("partial-") for name in names(directory)), LONGEST)
            time.sleep(rng.uniform(0, 0.05))
        else:  # as soon as the next checkpoint has its name
            wait_for(lambda: sum(name.isdecimal() for name in names(directory)) > 1, LONGEST)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    return int(log.read_text().split()[1])


def kill_often(directory, cache, times, seed=0):
    """Kill a run so many times: how often at which moment. No session loses a step that was saved."""
    rng = random.Random(seed)
    counts = dict.fromkeys(MOMENTS, 0)
    saved = 0
    for _ in range(times):
        began = session(directory, cache, rng)
        assert began == saved, f"went on from {began}, {saved} were saved"
        saved = complete(directory)
        assert began <= saved < STEPS
        counts[moment(directory)] += 1
    return counts


def finish(directory, cache):
    """Go through to the end."""
    process, _ = started(directory, cache)
    process.join()
    assert process.exitcode == 0 and tiny.checkpoints(directory) == [f"{STEPS:09d}"]
