"""A run continues under the conditions that it was started with: others are refused or logged."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups, schedules, training
from optimiz.training.storage import checkpoint
from optimiz.training.storage import conditions as conditions_page
from optimiz.training.storage.trace_digest import trace_digest
from tests.conftest import ROOT
from tests.training import tiny


def begun(directory, task=None, tx=None):
    """A run that was stopped after its first checkpoint."""
    plain = task or tiny.task()

    def batches(step):
        if step == 9:
            raise KeyError(step)
        return plain.batches(step)

    with pytest.raises(KeyError):
        fit(directory, training.Task(plain.init, plain.loss, batches, plain.evaluate), tx)


def fit(directory, task=None, tx=None):
    settings = tiny.settings(save_every=7, steps=10)
    tx = tx or tiny.optimizer()
    return training.fit(task or tiny.task(), tx, settings, directory, identity={}, resume=True)


def times(table):
    """Multiplies by a constant array."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u: (u * table).astype(u.dtype), updates))


RATE = schedules.over_steps(schedules.linear(0.01), 20)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(optimiz.adamw(0.01), optimiz.adamw(0.01, b2=0.95), marks=pytest.mark.long),
        (optimiz.adamw(0.01, b2=0.999), optimiz.adamw(0.01, b2=0.9990001)),
        pytest.param(optimiz.adamw(0.01, mask=groups.no_decay()), optimiz.adamw(0.01), marks=pytest.mark.long),
        (optimiz.adamw(RATE), optimiz.adamw(schedules.over_steps(schedules.linear(0.01), 21))),
        (
            optax.chain(optimiz.adamw(0.01), times(np.full(8, 0.5, np.float32))),
            optax.chain(optimiz.adamw(0.01), times(np.full(8, 0.25, np.float32))),
        ),
        (optimiz.guard(optimiz.sgd(0.1), 2), optimiz.guard(optimiz.sgd(0.1), 3)),
    ],
    ids=["beta", "another by 1e-7", "mask", "schedule", "a constant array", "guard"],
)
def test_an_optimizer_with_another_number_in_it_is_refused(tmp_path, before, after):
    begun(tmp_path, tx=before)
    with pytest.raises(training.RunError, match="holds a run whose step computed something else"):
        fit(tmp_path, tx=after)
    assert fit(tmp_path, tx=before).steps == 10


@pytest.mark.long
def test_a_loss_with_another_number_in_it_is_refused(tmp_path):
    def task(rate):
        plain = tiny.task()

        def loss(params, batch, key):
            return rate * plain.loss(params, batch, key)

        return training.Task(plain.init, loss, plain.batches, plain.evaluate)

    begun(tmp_path, task(1.0))
    with pytest.raises(training.RunError, match="computed something else"):
        fit(tmp_path, task(1.1))
    assert fit(tmp_path, task(1.0)).steps == 10


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_default_matmul_precision", "highest"),
        ("jax_default_prng_impl", "rbg"),
        ("jax_threefry_partitionable", False),
        ("jax_enable_x64", True),
        ("jax_random_seed_offset", 1),
    ],
)
def test_another_numerical_option_of_jax_is_refused_by_name(tmp_path, name, value):
    begun(tmp_path)
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        said = rf"other settings: jax\.config\.{name} was {json.dumps(before)}, is {json.dumps(value)}$"
        with pytest.raises(training.RunError, match=said):
            fit(tmp_path)
    finally:
        jax.config.update(name, before)
    assert fit(tmp_path).steps == 10


@pytest.mark.quick(1)
@pytest.mark.parametrize("library", ["optax", "jax", "jaxlib"])
def test_another_version_is_logged_and_another_step_then_accepted(tmp_path, monkeypatch, caplog, library):
    version = conditions_page.version
    begun(tmp_path, tx=optimiz.adamw(0.01))
    monkeypatch.setattr(conditions_page, "version", lambda name: "9.9" if name == library else version(name))
    assert fit(tmp_path, tx=optimiz.adamw(0.01, b2=0.95)).steps == 10  # the trace may be the version's
    said = f"continues under other conditions, so results may differ: {library} was {version(library)}, is 9.9"
    assert said in caplog.text


def test_other_flags_of_xla_are_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XLA_FLAGS", "")
    begun(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_cpu_enable_fast_math=true")
    assert fit(tmp_path).steps == 10
    assert "XLA_FLAGS was absent, is --xla_cpu_enable_fast_math=true" in caplog.text


def test_a_plain_resume_logs_no_warning(tmp_path, caplog):
    begun(tmp_path)
    assert fit(tmp_path).steps == 10 and not caplog.records


def test_a_checkpoint_without_conditions_is_resumed(tmp_path, monkeypatch):
    """As those of earlier versions."""
    save = checkpoint.save

    def without(*args, record, **kwargs):
        save(*args, record={name: record[name] for name in ("metrics_bytes", "seconds")}, **kwargs)

    monkeypatch.setattr(checkpoint, "save", without)
    begun(tmp_path, tx=optimiz.adamw(0.01))
    monkeypatch.undo()
    assert fit(tmp_path, tx=optimiz.adamw(0.01, b2=0.95)).steps == 10


PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, optax, optimiz
from optimiz import groups, schedules
from optimiz.training.storage.trace_digest import trace_digest
from tests.training import tiny

if sys.argv[1] == "1":  # another history
    ones = {"w1": jnp.ones((4, 8)), "w2": jnp.ones(8)}
    jax.jit(lambda x: jnp.where(x > 0, x, 0).sum())(ones["w1"])
    tiny.optimizer().update(ones, tiny.optimizer().init(ones), ones)
task = tiny.task()
params = jax.eval_shape(task.init, jax.random.key(0))
batch = jax.eval_shape(lambda: dict(task.batches(0)))
rate = schedules.over_steps(schedules.warmup_cosine(0.01), 20)
found = {}
for name, tx in {
    "tiny": tiny.optimizer(),
    "adamw": optimiz.adamw(rate, mask=groups.no_decay()),
    "salsa": optimiz.salsa(),
    "lbfgs": optax.lbfgs(),
    "sophia_h": optimiz.sophia_h(rate, key=0),
    "low_bit": optimiz.low_bit(optimiz.adamw(rate), optimiz.Int8()),
    "partition": optax.partition({"a": optimiz.lamb(rate), "b": optimiz.sgd(0.1)}, {"w1": "a", "w2": "b"}),
}.items():
    tx = optax.with_extra_args_support(tx)
    def step(params, state, batch):
        value_fn = lambda p: jnp.mean(task.loss(p, batch, jax.random.key(1)))
        value, grads = jax.value_and_grad(value_fn)(params)
        return tx.update(grads, state, params, value=value, grad=grads, value_fn=value_fn)
    found[name] = trace_digest(jax.jit(step).trace(params, jax.eval_shape(tx.init, params), batch).jaxpr)
print(json.dumps(found))
"""


@pytest.mark.long
def test_every_process_finds_the_same_digests_whatever_it_did_before():
    found = []
    for history in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": history, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM, history]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1] and len(set(found[0].values())) == len(found[0])


def digest(function, *arguments):
    return trace_digest(jax.jit(function).trace(*arguments).jaxpr)


def test_a_digest_tells_numbers_operations_and_their_order_apart():
    x, table = jnp.ones(3), np.arange(3.0)
    same = lambda b: lambda x: jnp.where(x > b, jnp.sin(x), table)  # noqa: E731
    functions = [
        same(0.5),
        same(0.25),
        lambda x: jnp.where(x > 0.5, jnp.cos(x), table),
        lambda x: jnp.where(x > 0.5, jnp.sin(x), table + 1),
        lambda x: jnp.where(x < 0.5, table, jnp.sin(x)),
        lambda x: jax.lax.scan(lambda c, _: (c * 0.5, c), x, length=3)[0],
        lambda x: jax.lax.scan(lambda c, _: (c * 0.25, c), x, length=3)[0],
        lambda x: jax.lax.scan(lambda c, _: (c * 0.5, c), x, length=4)[0],
    ]
    digests = [digest(function, x) for function in functions]
    assert len(set(digests)) == len(functions)
    assert digest(same(0.5), x) == digests[0]


def test_the_place_of_the_code_is_not_in_a_digest():
    source = "def f(x):\n    return jax.nn.relu(x) * 0.5"
    digests = set()
    for place, shift in (("a.py", ""), ("b.py", "\n" * 7)):
        names = {"jax": jax}
        exec(compile(shift + source, place, "exec"), names)
        digests.add(digest(jax.checkpoint(names["f"]), jnp.ones(3)))
    assert len(digests) == 1
