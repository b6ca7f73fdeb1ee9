"""The loop trains like one written by hand, and reports what it does."""

import dataclasses
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules, training
from optimiz.training import RunError, RunExists, Settings, Task, fit
from tests.training import tiny

TX = optax.adam(0.05)


def run(task, directory, tx=TX, progress=None, resume=False, overwrite=False, identity=None, **settings):
    return fit(
        task,
        tx,
        tiny.settings(**settings),
        directory,
        identity=identity or {},
        resume=resume,
        overwrite=overwrite,
        progress=progress,
    )


def quadratic(batches=None, **parts):
    """Half the squared distance to 3: loss and gradient are known."""

    def loss(params, batch, key):
        return 0.5 * (params["w"] - batch["target"]) ** 2

    targets = {"target": np.full(4, 3.0, np.float32)}
    task = Task(lambda key: {"w": jnp.zeros(())}, loss, batches or (lambda step: targets))
    return dataclasses.replace(task, **parts)


def test_the_loop_is_the_hand_written_one(tmp_path):
    task = tiny.task()
    result = run(task, tmp_path, seed=4)

    init_key, run_key = jax.random.split(jax.random.key(4))
    params = task.init(init_key)
    state = TX.init(params)

    @jax.jit
    def step(params, state, batch, key):
        mean = lambda params: jnp.mean(task.loss(params, batch, key))  # noqa: E731
        loss, grads = jax.value_and_grad(mean)(params)
        updates, state = TX.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, optax.tree.norm(grads)

    rows = [row for row in result.history if "loss" in row]
    assert [row["step"] for row in rows] == list(range(20))
    for index, row in enumerate(rows):
        key = jax.random.fold_in(run_key, index)
        params, state, loss, norm = step(params, state, task.batches(index), key)
        assert row["loss"] == pytest.approx(float(loss), rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-2)  # its bfloat16 sum
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-2), result.params, params)


def test_a_directory_that_cannot_be_read_back_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    def refuse(checkpoints):
        raise RunError(f"{checkpoints} cannot be read back")

    monkeypatch.setattr(training.loop.checkpoint, "probe", refuse)
    drawn = []
    task = quadratic(lambda step: drawn.append(step) or {"target": np.full(4, 3.0, np.float32)})
    with pytest.raises(RunError, match="cannot be read back"):
        run(task, tmp_path)
    assert set(drawn) <= {0} and not (tmp_path / "metrics.jsonl").exists()


def test_history_and_progress(tmp_path):
    seen = []
    result = run(tiny.task(), tmp_path, steps=8, log_every=3, progress=seen.append)
    assert result.steps == 8
    evaluations = [row["steps"] for row in result.history if "evaluation" in row]
    assert evaluations == [6, 8]
    looks = [progress.steps for progress in seen if "gradient_norm" in progress.metrics]
    assert looks == [1, 3, 6, 8]
    assert str(seen[-1]).startswith(f"step 8/8  {result.seconds:.1f} s  loss ")
    assert training.read_metrics(tmp_path / "metrics.jsonl") == result.history
    assert result.compile_seconds > 0
    assert [row for progress in seen for row in progress.rows] == result.history
    assert [progress.share for progress in seen if "gradient_norm" in progress.metrics] == [
        1 / 8,
        3 / 8,
        0.75,
        1,
    ]


def test_steps_are_compiled_once_and_traced_once(tmp_path):
    traces = []
    task = quadratic()

    def loss(params, batch, key):
        traces.append(batch)
        return task.loss(params, batch, key)

    run(quadratic(loss=loss), tmp_path, steps=12)
    assert len(traces) == 1


def test_the_host_waits_at_looks_alone(tmp_path, monkeypatch):
    fetched = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda x: fetched.append(len(x)) or device_get(x))
    task = quadratic()

    def batches(step):
        # From the second step to the look at the tenth, only explicit transfers are allowed.
        jax.config.update("jax_transfer_guard", "disallow" if 1 <= step < 9 else "allow")
        return task.batches(step)

    try:
        run(quadratic(batches), tmp_path, steps=20, log_every=10)
    finally:
        jax.config.update("jax_transfer_guard", "allow")
    assert fetched == [1, 9, 10]


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(28, "full")])
def test_whoever_watches_a_run_does_not_stop_it(tmp_path, caplog, error):
    seen = []

    def progress(progress):
        seen.append(progress.steps)
        raise error

    assert run(quadratic(), tmp_path, progress=progress).steps == 20
    assert seen == [1] and "continues without progress" in caplog.text


def test_a_line_search_gets_value_grad_and_value_fn(tmp_path):
    def rosenbrock(params, batch, key):
        x, y = params["x"], params["y"]
        return batch["one"] * ((1 - x) ** 2 + 100 * (y - x**2) ** 2)

    start = {"x": jnp.asarray(-1.0), "y": jnp.asarray(1.0)}
    task = Task(lambda key: start, rosenbrock, lambda step: {"one": np.ones(2, np.float32)})
    result = run(task, tmp_path, optax.lbfgs(), steps=40)
    assert float(result.params["x"]) == pytest.approx(1, abs=1e-3)
    assert float(start["x"]) == -1  # donation consumed a copy


def test_value_fn_is_the_loss_under_the_same_dropout(tmp_path):
    def update(updates, state, params, *, value, grad, value_fn, **extra):
        return updates, jnp.maximum(state, jnp.abs(value_fn(params) - value))

    probe = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    seen = []
    task = dataclasses.replace(tiny.task(), evaluate=lambda params: seen.append(params) or {})
    run(task, tmp_path, optax.chain(probe, optax.sgd(0.1)), steps=5)
    manifest = next(iter((tmp_path / "checkpoints").iterdir()))
    assert seen and manifest.name == "000000005"
    with training.storage.checkpoint.ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(manifest / "arrays")
    assert float(arrays[".opt_state[0]"]) == 0


def test_aliased_and_weakly_typed_state_is_copied(tmp_path):
    shared = jnp.ones(3)

    def update(updates, state, params=None):
        return updates, (state[0] + 1, params)

    tx = optax.GradientTransformation(lambda params: (jnp.asarray(1.0), params), update)
    task = Task(
        lambda key: {"a": shared, "b": shared},
        lambda params, batch, key: batch["x"] * jnp.sum(params["a"] * params["b"]),
        lambda step: {"x": np.ones(2, np.float32)},
    )
    run(task, tmp_path, optax.chain(tx, optax.sgd(0.1)), steps=3)
    np.testing.assert_array_equal(shared, 1)


def test_weights_make_the_mean_exact(tmp_path):
    batch = {"target": np.array([1, 2, 90], np.float32), "weight": np.array([1, 1, 0])}
    result = run(quadratic(lambda step: batch), tmp_path, steps=1)
    assert result.history[0]["loss"] == 0.5 * (1 + 4) / 2
    assert result.history[0]["gradient_norm"] == 1.5


def test_a_batch_of_padding_alone_has_loss_zero(tmp_path):
    batch = {"target": np.ones(3, np.float32), "weight": np.zeros(3, np.float32)}
    result = run(quadratic(lambda step: batch), tmp_path, steps=1)
    assert (result.history[0]["loss"], result.history[0]["gradient_norm"]) == (0, 0)


def test_the_gradient_norm_does_not_overflow_in_half_precision(tmp_path):
    task = Task(
        lambda key: {"w": jnp.ones(4, jnp.float16)},
        lambda params, batch, key: batch["x"] * jnp.sum(params["w"]),
        lambda step: {"x": np.full(2, 1000, np.float16)},
    )
    result = run(task, tmp_path, optax.sgd(1e-3), steps=1)
    assert result.history[0]["gradient_norm"] == 2000


def test_seconds_count_batches_and_neither_compilation_nor_evaluation(tmp_path):
    task = quadratic()

    def batches(step):
        time.sleep(0.02)
        return task.batches(step)

    slow = quadratic(batches, evaluate=lambda params: time.sleep(1) or {})
    result = run(slow, tmp_path, steps=10, evaluate_every=0)
    assert 0.2 <= result.seconds < 1


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's statm")
@pytest.mark.survives("1,000 steps")
def test_a_thousand_steps_take_one_compilation_and_no_more_memory(tmp_path, caplog):
    resident, compiled = {}, {}
    task = dataclasses.replace(tiny.task(), evaluate=None)

    def batches(step):
        resident[step] = int(Path("/proc/self/statm").read_text().split()[1])
        if step in (2, 999):
            compiled[step] = [said for said in caplog.messages if said.startswith("Compiling jit(")]
        return task.batches(step)

    with jax.log_compiles():
        watched = dataclasses.replace(task, batches=batches)
        run(watched, tmp_path, steps=1000, log_every=10, save_every=50)
    assert max(resident[step] for step in range(100, 1000)) < 1.02 * resident[100]
    assert len([said for said in compiled[2] if said.startswith("Compiling jit(train)")]) == 1
    assert compiled[999] == compiled[2]


@pytest.mark.survives("resuming a finished run")
def test_a_finished_run_is_read_back(tmp_path, caplog):
    first = run(quadratic(), tmp_path, steps=3)
    second = run(quadratic(), tmp_path, steps=3, resume=True)
    assert second.history == first.history and second.seconds == first.seconds
    assert second.temporary_bytes == first.temporary_bytes > 0
    assert float(second.params["w"]) == float(first.params["w"])
    assert "is finished after 3 steps" in caplog.text


def test_when_to_look_and_save_may_change_on_resume(tmp_path):
    def leave(step):
        if step == 3:
            raise KeyError("out")
        return quadratic().batches(step)

    with pytest.raises(KeyError):
        run(quadratic(leave), tmp_path, steps=6, save_every=2)
    seen = []
    changes = {"log_every": 1, "save_every": 0, "keep": 1}
    result = run(quadratic(), tmp_path, steps=6, resume=True, progress=seen.append, **changes)
    assert result.history == run(quadratic(), tmp_path / "other", steps=6).history
    # A person who looks on is given the rows of the earlier session too, all at once.
    assert [len(progress.rows) for progress in seen] == [3, 1, 1, 1]
    assert [row for progress in seen for row in progress.rows] == result.history


@pytest.mark.parametrize("changes", [{"steps": 1}, {"seed": 1}, {"identity": {"rate": 0.2}}])
@pytest.mark.survives("resuming with other settings, another optimizer, width or dtype")
def test_what_decides_the_trajectory_may_not_change_on_resume(tmp_path, changes):
    run(quadratic(), tmp_path, identity={"rate": 0.1}, steps=2)
    with pytest.raises(RunError, match="holds a run with other settings"):
        run(quadratic(), tmp_path, resume=True, **{"steps": 2, "identity": {"rate": 0.1}} | changes)


def test_what_the_optimizer_reports_of_each_update_is_in_its_row(tmp_path):
    schedule = schedules.over_steps(schedules.linear(0.1), 4)
    history = run(quadratic(), tmp_path / "sgd", optimiz.sgd(schedule), steps=4).history
    assert [row["learning_rate"] for row in history] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    assert all("count" not in row for row in history)
    history = run(tiny.task(), tmp_path / "search", optimiz.optimizers.armijo_sgd(), steps=4).history
    rows = [row for row in history if "loss" in row]
    assert all(len(row["step_size"]) == 1 and row["step_size"][0] > 0 for row in rows)
    trials = [row["evaluations"] for row in rows]
    assert trials == sorted(trials) and trials[0] >= 1 and all(isinstance(count, int) for count in trials)


def test_seeds_share_a_compiled_step_and_others_do_not(tmp_path):
    traces = []
    task = quadratic()

    def loss(params, batch, key):
        traces.append(batch)
        return task.loss(params, batch, key)

    shared = quadratic(loss=loss)
    first, second = (run(shared, tmp_path / str(seed), steps=3, seed=seed) for seed in (0, 1))
    assert len(traces) == 1
    assert second.temporary_bytes == first.temporary_bytes > 0
    run(shared, tmp_path / "other", optax.adam(0.05), steps=3)
    run(quadratic(lambda step: {"target": np.full(2, 3.0, np.float32)}, loss=loss), tmp_path / "size", steps=3)
    assert len(traces) == 3


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"loss": lambda p, b, k: jnp.mean(b["target"]) * p["w"]}, r"of shape \(4,\), one loss"),
        ({"loss": lambda p, b, k: b["target"].astype(int)}, "it is int32 of shape"),
        ({"loss": lambda p, b, k: 1.0}, "it is float of shape None"),
        ({"init": lambda key: {}}, "the parameter tree has no leaves"),
        ({"init": lambda key: {"w": jnp.arange(3)}}, r"params\['w'\] has dtype int32"),
        ({"init": lambda key: {"w": jnp.zeros((0, 2))}}, r"params\['w'\] has shape \(0, 2\)"),
        ({"batches": lambda step: {}}, r"batches\(0\) must be a non-empty dict"),
        ({"batches": lambda step: [1]}, r"batches\(0\) must be .* got list"),
        ({"batches": lambda step: {"x": 1.0}}, r"batches\(0\)\['x'\] must be an array"),
        (
            {"batches": lambda step: {"x": np.ones(2), "y": np.ones(3)}},
            r"batches\(0\) has entries with different leading dimensions: \{'x': 2, 'y': 3\}",
        ),
        (
            {"batches": lambda step: {"target": np.ones(0, np.float32)}},
            r"batches\(0\) has no rows: .* at least 1",
        ),
        (
            {"batches": lambda step: {"weight": np.ones((2, 1))}},
            r"batches\(0\)\['weight'\] must have shape \[B\], got \(2, 1\)",
        ),
        (
            {"batches": lambda step: {"target": np.ones(2 + step // 2, np.float32)}},
            r"batches\(2\) has .*\(3,\).*, earlier batches had .*\(2,\)",
        ),
        ({"evaluate": lambda params: 0.5}, "evaluate must return numbers by name, got 0.5"),
    ],
)
def test_a_task_that_cannot_be_trained_says_why(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message) as raised:
        run(quadratic(**parts), tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("init", {"w": 1.0}, r"must be a function, key → parameters; got dict$"),
        ("loss", None, r"must be a function, \(parameters, batch, key\) → losses \[B\]; got NoneType$"),
        (
            "batches",
            iter([{}]),
            r".*step → batch; got list_iterator\. .* training\.shuffled; .* batches\[step % len",
        ),
        ("batches", (x for x in ()), r".*; got generator\. A run is resumed by its step"),
        ("batches", [{}], r".*step → batch; got list\."),
        ("evaluate", {"x": 1}, r".*parameters → metrics by name, or None; got dict$"),
        ("logits", True, r".*or None; got bool$"),
        ("depth", 4, r".*parameters → number of layers, or None; got int$"),
    ],
)
def test_a_part_of_a_task_that_is_not_a_function_is_refused_with_its_signature(part, value, message):
    with pytest.raises(TypeError, match=rf"Task\({part}=\) {message}"):
        if part == "batches":  # given by name, also where it is false
            Task(dict, dict, value)
        quadratic(**{part: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tx", "adamw", r"tx must be an optimizer or another .*GradientTransformation, got 'adamw'"),
        ("tx", optimiz.adamw, r"tx must be .*, got the function adamw itself; call it: adamw\(…\)"),
        ("tx", None, r"tx must be .*, got None"),
        ("task", {"init": 1}, r"task must be a training.Task; got {'init': 1}"),
        ("settings", 100, r"settings must be .*training.Settings\(steps=1_000\); got 100"),
        ("identity", "adamw", r"identity must be a mapping .*; got 'adamw'"),
        ("methods", None, r"methods must be a training.Methods; got None"),
        ("layout", "data:2", r"layout must be a training.Layout or None; got 'data:2'"),
        ("reference", 2.0, r"reference must be a training.Reference or None; got 2.0"),
        ("progress", True, r"progress must be a function .*; got True"),
        ("directory", None, r"directory must be a path, such as 'runs/mine'; got None"),
        ("resume", "no", r"resume must be True or False; got 'no'"),
        ("overwrite", "no", r"overwrite must be True or False; got 'no'"),
    ],
)
def test_an_argument_of_the_wrong_type_is_refused_with_the_expected_one(tmp_path, name, value, message):
    arguments = {"task": quadratic(), "tx": optax.sgd(0.1), "settings": Settings(steps=1), "identity": {}}
    with pytest.raises(TypeError, match=message) as raised:
        fit(**arguments | {"directory": tmp_path / "run", name: value})
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_what_has_init_and_update_is_an_optimizer(tmp_path):
    assert run(quadratic(), tmp_path, optax.MultiSteps(optax.sgd(0.1), 2)).steps


def test_a_cell_that_is_run_again_is_refused_or_overwrites(tmp_path):
    first = run(quadratic(), tmp_path)
    with pytest.raises(RunExists, match=r"holds a run: .*\(resume=True\).*\(overwrite=True\)"):
        run(quadratic(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    again = run(quadratic(), tmp_path, steps=2, overwrite=True)
    assert again.steps == 2 < first.steps and (tmp_path / "notes.txt").exists()
    assert run(quadratic(), tmp_path, steps=2, resume=True).history == again.history


def test_a_result_is_shown_in_one_line(tmp_path):
    result = run(quadratic(evaluate=lambda params: {"accuracy": 0.5}), tmp_path)
    metrics = f"loss {result.history[-2]['loss']:.4g}, accuracy 0.5"
    assert repr(result) == f"<Result of {result.steps} steps, {result.seconds:.1f} s: 1 parameters, {metrics}>"
    assert repr(dataclasses.replace(result, history=[])).endswith("1 parameters>")


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (jnp.zeros((), jnp.bfloat16), r"changes opt_state from float32\[\] to bfloat16\[\]"),
        (jnp.zeros(2), r"changes opt_state from float32\[\] to float32\[2\]"),
        ((jnp.zeros(()),), "changes the tree structure of its state"),
    ],
)
def test_an_optimizer_that_changes_its_state_says_where(tmp_path, after, message):
    tx = optax.GradientTransformation(lambda p: jnp.zeros(()), lambda g, s, p=None: (g, after))
    with pytest.raises(ValueError, match=message):
        run(quadratic(), tmp_path, tx)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"log_every": 0}, ValueError, "log_every must be at least 1, got 0"),
        ({"keep": 0}, ValueError, "keep must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"save_every": -1}, ValueError, "save_every must be at least 0, got -1"),
        ({"evaluate_every": 1.5}, TypeError, "evaluate_every must be an integer, got 1.5"),
        ({"steps": "10"}, TypeError, "steps must be an integer, got '10'"),
        ({"steps": True}, TypeError, "steps must be an integer, got True"),
        ({"steps": np.float32(2)}, TypeError, r"steps must be an integer, got np\.float32"),
        ({"seed": 2**32}, ValueError, r"seed must be less than 2\^32, got 4294967296"),
        ({"budget": 1.0, "evaluate_at": 0.5}, TypeError, "evaluate_at must be a list of fractions, got 0.5"),
        ({"keep_best": 1, "lower_is_better": True}, TypeError, r"keep_best must be .*, got 1 and True"),
        ({"keep_best": "f1", "lower_is_better": "no"}, TypeError, r"keep_best must .*, got 'f1' and 'no'"),
    ],
)
def test_settings_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        Settings(**{"steps": 1} | changes)


def test_settings_take_numpys_integers_as_pythons():
    settings = Settings(steps=np.int64(5), seed=np.uint32(2**32 - 1))
    assert type(settings.steps) is int and settings == Settings(steps=5, seed=2**32 - 1)


@pytest.mark.parametrize("value", [math.nan, np.float32(1), object()])
def test_an_identity_that_is_not_json_is_refused_by_name(tmp_path, value):
    with pytest.raises(TypeError, match=r"identity\['rate'\] is not plain JSON"):
        run(quadratic(), tmp_path / "run", identity={"rate": value})
    assert not (tmp_path / "run").exists()
