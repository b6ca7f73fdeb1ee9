"""A run that is small enough to be killed often; as a program, it can be told where to die.

python -m tests.training.tiny DIRECTORY [--resume] [--die POINT] [--seconds-per-step S] …
"""

import argparse
import os
import resource
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import training
from optimiz.training.storage import checkpoint

IDENTITY = {"optimizer": "masked adam", "widths": (4, 8)}


def settings(**changes):
    return training.Settings(**{"steps": 20, "log_every": 5, "evaluate_every": 6} | changes)


def task(width=8, batches=None, evaluate=None, share=(0, 1)):
    """Regression by a network with dropout and a bfloat16 layer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 4)).astype(np.float32)
    arrays = {"x": x, "y": np.sin(x.sum(axis=1))}

    def init(key):
        weights = jax.random.uniform(key, (5, width), minval=-1)
        return {"w1": weights[:4], "w2": weights[4].astype(jnp.bfloat16)}

    def loss(params, batch, key):
        hidden = jnp.tanh(batch["x"] @ params["w1"])
        if key is not None:
            hidden = jnp.where(jax.random.bernoulli(key, 0.8, hidden.shape), hidden / 0.8, 0)
        return (hidden @ params["w2"].astype(jnp.float32) - batch["y"]) ** 2

    def mean(params):
        return {"loss": jnp.mean(loss(params, arrays, None))}

    return training.Task(init, loss, batches or training.shuffled(arrays, 8, 0, share), evaluate or mean)


def optimizer(steps=20):
    """NamedTuples, empty and masked nodes, counters, a schedule, float32 and bfloat16 leaves."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.masked(optax.trace(0.9), {"w1": True, "w2": False}),
        optax.scale_by_adam(),
        optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, steps)),
    )


def fit(directory, **changes):
    return training.fit(task(), optimizer(), settings(**changes), directory, identity=IDENTITY, resume=True)


def checkpoints(directory):
    return sorted(path.name for path in (Path(directory) / "checkpoints").iterdir())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point, folder):
    """Die at a point of the second save, or of the step after the first."""
    partial, second = folder / "partial-14", folder / "000000014"
    flush, rmtree = checkpoint.flush, shutil.rmtree

    def dying_flush(path):
        if (point == "written" and partial.exists()) or (point == "renamed" and second.exists()):
            die()
        flush(path)

    def dying_rmtree(path, *args, **kwargs):
        if second.exists() and point == "deleting":
            die()
        rmtree(path, *args, **kwargs)

    def watch():
        while not any(partial.glob("arrays*")):
            time.sleep(1e-4)
        die()

    checkpoint.flush, shutil.rmtree = dying_flush, dying_rmtree
    if point == "writing":
        threading.Thread(target=watch, daemon=True).start()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--die", default="")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--save-every", type=int, default=7)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--file-limit", type=int, default=0)
    parser.add_argument("--seconds-per-step", type=float, default=0)
    parser.add_argument("--seconds-per-evaluation", type=float, default=0)
    args = parser.parse_args()
    arm(args.die, args.directory / "checkpoints")
    plain = task(args.width)

    def batches(step):
        if step == 9 and args.die == "step":
            die()
        if step == 9 and args.file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))
        print("step", step, flush=True)
        time.sleep(args.seconds_per_step)
        return plain.batches(step)

    def evaluate(params):
        print("evaluation", flush=True)
        time.sleep(args.seconds_per_evaluation)
        return plain.evaluate(params)

    if args.calibrate:
        training.calibrate(task(args.width, batches), optimizer(), about={})
    try:
        training.fit(
            task(args.width, batches, evaluate),
            optimizer(args.steps),
            settings(steps=args.steps, save_every=args.save_every, keep=1),
            args.directory,
            identity=IDENTITY,
            resume=args.resume,
        )
    except training.RunError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
