"""What a probe costs at a step at which it does not measure, and the record of it.

python -m tests.diagnostics.probe_cost

A training step with a probe and one without take turns, A B B A, in one process and on one thread. What is
measured is processor time, which other programs change far less than the time that passes. The cost is the
median over rounds of the ratio of the two, with the interval in which the median of very many rounds lies with
a confidence of 95 % (order statistics).
"""

import datetime
import functools
import json
import math
import os
import time
from pathlib import Path

RECORD = Path(__file__).parents[1] / "records/probe_cost.json"
NEVER = 2**31 - 1  # but for the first step
TARGET = 1.02
STEPS = 2  # of a turn


def main():
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    from optimiz.training.environment import environment  # after the flags are set

    record = {
        "command": "python -m tests.diagnostics.probe_cost",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "flags": os.environ["XLA_FLAGS"],
        "target": TARGET,
        "steps_per_turn": STEPS,
        "cost": {name: measure(*case(), rounds) for name, (case, rounds) in CASES.items()},
    }
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(RECORD.read_text())


def transformer():
    """A Transformer of 0.14 million parameters in 69 arrays, on 32 images of 16 tokens."""
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from examples.models import small
    from examples.models.adapters import from_nnx

    params, apply = from_nnx(small.PatchTransformer(10, norm_first=False, rngs=nnx.Rngs(0)))
    images, labels = jnp.ones((32, 8, 8, 1)), jnp.arange(32) % 10
    losses = optax.softmax_cross_entropy_with_integer_labels
    return params, lambda params: losses(apply(params, images), labels).mean()


def wide():
    """Two matrices of 10.5 million parameters together, on 32 rows."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((32, 2048))
    params = {"up": jnp.full((2048, 2560), 1e-3), "down": jnp.full((2560, 2048), 1e-3)}
    return params, lambda params: jnp.mean((jax.nn.relu(x @ params["up"]) @ params["down"]) ** 2)


def encoder():
    """MiniLM-L6 with dropout, 22.6 million parameters, on 16 sentences of 16 tokens."""
    import jax

    from examples.data import docstrings
    from examples.models import pretrained
    from examples.tasks.text_classification import TextClassification
    from optimiz import training

    problem = TextClassification(
        docstrings.load_split(), pretrained.find(None), length=16, dropout=0.1, pooling="mean"
    )
    task, key = problem.task(16, 0), jax.random.key(0)
    batch = jax.device_put(task.batches(0))
    return task.init(key), lambda params: training.mean_loss(task.loss(params, batch, key), batch)


CASES = {
    "MiniLM-L6, 22.6 million parameters in 103 arrays": (encoder, 60),
    "transformer, 0.14 million parameters in 69 arrays": (transformer, 240),
    "two matrices, 10.5 million parameters": (wide, 60),
}


def measure(params, loss, rounds):
    """The cost of the probe beside AdamW, as a ratio of processor times."""
    import jax
    import optax

    import optimiz
    from optimiz import diagnostics

    def turns(tx):
        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state):
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return optax.apply_updates(params, updates), state

        carry = [jax.tree.map(lambda p: p.copy(), params), tx.init(params)]

        def turn():
            started = time.process_time()
            for _ in range(STEPS):
                carry[:] = step(*carry)
            jax.block_until_ready(carry)
            return time.process_time() - started

        return turn

    adamw = optimiz.adamw(1e-4)
    without, probed = turns(adamw), turns(optax.chain(diagnostics.probe(every=NEVER), adamw))
    for turn in (without, probed) * 5:  # compiles, and takes the one measurement
        turn()
    ratios, seconds = [], []
    for _ in range(rounds):
        a, b, c, d = without(), probed(), probed(), without()
        ratios.append((b + c) / (a + d))
        seconds.append((a + d) / (2 * STEPS))
    return summary(ratios) | {"milliseconds_per_step": 1000 * sorted(seconds)[rounds // 2]}


def summary(ratios):
    """The median of some ratios, and its interval."""
    ordered, n = sorted(ratios), len(ratios)
    reach = math.ceil(0.98 * math.sqrt(n))  # 1.96 standard deviations of the number below the median
    low, high = ordered[n // 2 - reach], ordered[min(n // 2 + reach, n - 1)]
    return {"n": n, "median": ordered[n // 2], "low": low, "high": high, "upper_decile": ordered[n * 9 // 10]}


if __name__ == "__main__":
    main()
