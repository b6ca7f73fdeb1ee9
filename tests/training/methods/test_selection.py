"""Examples are selected as defined, and the work of selecting them is charged."""

import dataclasses
import itertools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import training
from optimiz.training import Methods, RhoLoss, SelectiveBackprop, Settings
from optimiz.training.methods.selection import percentile_rank, top_examples
from tests.training import layered, tiny

QUICK = [("rho_loss", "salsa")]  # the others are run with the long tests


def rank(history, loss):
    """The definition, one loss at a time."""
    history = np.asarray(history)
    equal = np.any(history == loss)
    return (np.sum(history < loss) + np.sum(history <= loss) + equal) / (2 * len(history))


def test_percentiles():
    """golden, as shares of 1; and the definition on losses of which many are equal."""
    history = jnp.array([1.0, 2.0, 2.0, 3.0])
    assert percentile_rank(history, jnp.array([1.0, 2.0, 3.0, 2.5])).tolist() == [0.25, 0.625, 1.0, 0.75]
    rng = np.random.default_rng(0)
    history, losses = (rng.integers(0, 9, n).astype(np.float32) for n in (40, 20))
    found = percentile_rank(jnp.asarray(history), jnp.asarray(losses), size=30)
    np.testing.assert_allclose(found, [rank(history[:30], loss) for loss in losses], rtol=1e-6)


def test_nan_ranks_highest():
    found = percentile_rank(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([jnp.nan, 3.0]))
    assert found[0] > found[1] and not np.any(np.isnan(found))
    assert top_examples(jnp.array([5.0, jnp.nan, -jnp.inf]), 3).tolist() == [1, 0, 2]


def test_top_examples_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = rng.integers(-4, 4, 50).astype(np.float32)
        expected = np.argsort(-scores, kind="stable")[:20]
        np.testing.assert_array_equal(top_examples(jnp.asarray(scores), 20), expected)


def selecting_by_hand(losses, weights, keys, *, batch, beta, history):
    """Selective back-propagation as a loop over examples: the ids of each batch that is trained on."""
    seen, queue, batches = [], [], []
    ids = iter(range(10**6))
    for row, weight, key in zip(losses, weights, keys, strict=True):
        chances = np.asarray(jax.random.uniform(key, row.shape))
        seen = (seen + [loss for loss, w in zip(row, weight, strict=True) if w])[-history:]
        for loss, w, chance in zip(row, weight, chances, strict=True):
            i = next(ids)
            if w and chance < np.float32(rank(seen, loss)) ** np.float32(beta):
                queue.append(i)
        if len(queue) >= batch:
            batches.append(queue[:batch])
            queue = queue[batch:]
        else:
            batches.append(None)
    return batches, queue


@pytest.mark.parametrize(("beta", "history"), [(1.0, 10), (2.0, 1_000)])
def test_selective_backprop_is_the_loop_one_would_write(beta, history):
    rng = np.random.default_rng(1)
    losses = rng.integers(0, 30, (40, 6)).astype(np.float32)
    weights = (rng.uniform(size=losses.shape) < 0.8).astype(np.float32)
    ids = np.arange(losses.size).reshape(losses.shape)
    keys = jax.random.split(jax.random.key(0), len(losses))
    selection = SelectiveBackprop(batch=9, beta=beta, history=history)
    state = selection.init({"id": ids[0], "weight": weights[0]})
    choose, found = jax.jit(selection.choose), []
    for row, i, weight, key in zip(losses, ids, weights, keys, strict=True):
        state, batch, full = choose(state, row, {"id": i, "weight": weight}, key)
        found.append(batch["id"].tolist() if full else None)
        assert not full or np.all(batch["weight"] == 1)
    expected, queue = selecting_by_hand(losses, weights, keys, batch=9, beta=beta, history=history)
    assert found == expected and sum(batch is not None for batch in found) > 5
    assert state.queue["id"][: state.waiting].tolist() == queue
    assert state.drawn == 40 and state.seen == weights.sum()


def test_the_rate_at_which_examples_are_kept():
    """golden, at β 1, 2 and 3 with the history of 5,000 losses of the source."""
    candidates = {"x": jnp.zeros(128)}

    @jax.vmap
    def kept(beta):
        selection = SelectiveBackprop(batch=128, beta=beta)
        assert selection.history == 5_000

        def draw(state, key):
            loss_key, keep_key = jax.random.split(key)
            losses = jax.random.exponential(loss_key, (128,))
            chosen = selection.choose(state, losses, candidates, keep_key)
            return chosen.state, chosen.full

        state, full = jax.lax.scan(draw, selection.init(candidates), jax.random.split(jax.random.key(0), 100))
        return full.sum() * 128 + state.waiting

    rates = jax.jit(kept)(jnp.arange(1.0, 4.0)) / (100 * 128)
    np.testing.assert_allclose(rates, [0.500, 0.333, 0.250], atol=0.01)


def test_rho_takes_the_top_of_what_can_be_reduced():
    candidates = {
        "id": jnp.arange(6),
        "irreducible": jnp.array([0.0, 2.0, 1.0, 0.0, -1.0, 0.0]),
        "weight": jnp.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
    }
    losses = jnp.array([1.0, 9.0, 2.0, 99.0, 0.0, 1.5])  # minus the others: 1, 7, 1, none, 1, 1.5
    chosen = RhoLoss(batch=3).choose((), losses, candidates, jax.random.key(0))
    assert chosen.batch["id"].tolist() == [1, 5, 0] and bool(chosen.full)
    # Padding comes last, and still weighs nothing.
    chosen = RhoLoss(batch=6).choose((), losses, candidates, jax.random.key(0))
    assert chosen.batch["id"].tolist() == [1, 5, 0, 2, 4, 3] and chosen.batch["weight"][-1] == 0


def rows(result):
    return [row for row in result.history if "loss" in row]


@pytest.mark.long
def test_scoring_is_charged_to_selective_backprop(tmp_path):
    """0.06 s a look at 4 candidates, 0.45 s a step on 8 examples."""
    result = layered.fit("selective_backprop", tmp_path / "often", log_every=1)
    looks = (result.reference_seconds - 0.45 * result.steps) / 0.06
    assert looks == pytest.approx(round(looks), abs=1e-6)
    # Every look keeps about half of 4, and every step takes 8.
    assert 2.5 < looks / result.steps < 6
    spent = [row["fraction"] * 8 for row in rows(result)]
    assert spent[0] > 0 and all(b - a > 0.5 for a, b in itertools.pairwise(spent))
    # Looks are counted in those of 8 examples; the last before a step is not yet in what was spent before it.
    seen = 2 * np.array([row["looks"] for row in rows(result)])
    np.testing.assert_allclose(spent, 0.45 * np.arange(result.steps) + 0.06 * (seen - 1), rtol=1e-5)
    layered.fit("selective_backprop", tmp_path / "seldom", log_every=100)
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (tmp_path / "often", tmp_path / "seldom")]
    assert metrics[0] == metrics[1]


@pytest.mark.long
def test_a_budget_spent_on_candidates_ends_the_run(tmp_path):
    def without_weight(batches):
        return lambda step: batches(step) | {"weight": np.zeros(4, np.float32)}

    result = layered.fit("selective_backprop", tmp_path, without_weight, budget=1.0)
    assert (result.steps, result.reference_seconds) == (0, pytest.approx(17 * 0.06))
    assert [row["fraction"] for row in result.history if "evaluation" in row] == [pytest.approx(0.42), 1.0]
    again = layered.fit("selective_backprop", tmp_path, without_weight, budget=1.0)
    assert again.history == result.history


def test_a_signal_is_honoured_while_no_example_is_kept(tmp_path):
    def without_weight(batches):
        def batch(step):
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            return batches(step) | {"weight": np.zeros(4, np.float32)}

        return batch

    with pytest.raises(training.Preempted):
        layered.fit("selective_backprop", tmp_path, without_weight, budget=1.0)
    assert tiny.checkpoints(tmp_path) == ["000000006"]


def test_scoring_is_charged_to_rho(tmp_path):
    """0.24 s a look at 16 candidates and 0.45 s a step on 8: the cost of the source's 3072 and 1536."""
    result = layered.fit("rho_loss", tmp_path)
    assert result.steps == np.ceil(8 / 0.69)
    assert result.reference_seconds == pytest.approx(0.69 * result.steps)
    assert [row["looks"] for row in rows(result)] == [2 * (step + 1) for step in range(result.steps)]


def test_the_cost_of_an_update():
    """golden, by the authors' table: forward 0.09285 s, step 0.2253 s for 128 examples; 1536 are trained on."""
    forward, step = 0.09285, 0.2253
    for examples, cost in {3072: 1.82, 15360: 5.1}.items():
        assert (examples * forward + 1536 * step) / (1536 * step) == pytest.approx(cost, abs=0.03)


def test_rho_trains_on_what_it_chose_with_the_dropout_of_the_step(tmp_path):
    task = layered.of("rho_loss")
    result = training.fit(
        task, optax.sgd(0.0), Settings(steps=3), tmp_path, identity={}, methods=layered.METHODS["rho_loss"]
    )
    _, run_key = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    params, of = task.init(None), jax.jit(layered.loss)
    for step, row in enumerate(rows(result)):
        batch = task.batches(step)
        losses = np.asarray(of(params, batch, None)) - batch["irreducible"]
        top = np.argsort(-losses, kind="stable")[:8]
        chosen = {name: x[top] for name, x in batch.items()}
        loss = np.mean(of(params, chosen, jax.random.fold_in(run_key, step)))
        assert row["loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.long
def test_texts_without_a_masked_token_are_never_trained_on(tmp_path):
    """A mean over no tokens would be NaN; such an example has weight 0."""

    def loss(params, batch, key):
        masked = batch["masked"]
        losses = jnp.sum(masked * (params["w"] - batch["x"]) ** 2, axis=1) / jnp.maximum(masked.sum(axis=1), 1)
        return losses

    rng = np.random.default_rng(0)

    def batches(step):
        masked = (rng.uniform(size=(8, 3)) < 0.3).astype(np.float32)
        weight = (masked.sum(axis=1) > 0).astype(np.float32)
        x = np.where(weight[:, None] > 0, 1.0, 1e6) * np.ones((8, 3), np.float32)
        return {"x": x.astype(np.float32), "masked": masked, "weight": weight, "irreducible": weight}

    task = training.Task(lambda key: {"w": jnp.zeros(())}, loss, batches)
    for selection in (SelectiveBackprop(batch=8), RhoLoss(batch=4)):
        result = training.fit(
            task,
            optax.sgd(0.1),
            Settings(steps=10),
            tmp_path / type(selection).__name__,
            identity={},
            methods=Methods(selection=selection),
        )
        losses = [row["loss"] for row in result.history]
        assert result.steps == 10 and losses[0] == 1 and losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("method", ["selective_backprop", "rho_loss"])
def test_a_loss_that_is_not_finite_is_reported_and_not_skipped(tmp_path, method):
    def loss(params, batch, key):
        return layered.loss(params, batch, key) + jnp.nan

    task = dataclasses.replace(layered.of(method), loss=loss)
    with pytest.raises(training.Diverged):
        training.fit(
            task, optax.sgd(0.1), Settings(steps=5), tmp_path, identity={}, methods=layered.METHODS[method]
        )


@pytest.mark.long
@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=() if (method, name) in QUICK else pytest.mark.long)
        for method in ("selective_backprop", "rho_loss")
        for name in ("sgd", "adamw", "lion", "sgd_sai", "sophia_g", "salsa")
    ],
)
def test_any_optimizer_learns_from_selected_examples(tmp_path, method, name):
    make = {
        "sgd": lambda: optimiz.sgd(0.05, 0.9),
        "adamw": lambda: optimiz.adamw(0.02),
        "lion": lambda: optimiz.lion(0.005),
        "sgd_sai": lambda: optimiz.sgd_sai(0.02),
        "sophia_g": lambda: optimiz.sophia_g(0.01, classes=layered.CLASSES, update_interval=5),
        "salsa": lambda: optimiz.salsa(),
    }
    result = layered.fit(method, tmp_path, tx=make[name](), budget=30.0, evaluate_at=(0.02,))
    first, last = (row["evaluation"]["loss"] for row in result.history if "evaluation" in row)
    assert last < 0.9 * first


@pytest.mark.parametrize(
    ("selection", "size", "message"),
    [
        (SelectiveBackprop(batch=4), 8, r"no larger than batch=4 and history=5000, got 8 examples"),
        (SelectiveBackprop(batch=8, history=4), 8, r"no larger than batch=8 and history=4, got 8 examples"),
        (RhoLoss(batch=9), 8, "mega-batches must hold at least batch=9 examples, got 8"),
    ],
)
def test_batches_of_another_size_are_refused(tmp_path, selection, size, message):
    with pytest.raises(ValueError, match=message):
        training.fit(
            layered.task(size=size),
            optax.sgd(0.1),
            Settings(steps=1),
            tmp_path,
            identity={},
            methods=Methods(selection=selection),
        )


def test_rho_without_irreducible_losses_is_refused(tmp_path):
    task = layered.task()

    def batches(step):
        return {"x": task.batches(step)["x"], "label": task.batches(step)["label"]}

    with pytest.raises(ValueError, match=r"RHO-loss needs .* of shape \(8,\), got none: Irreducible"):
        training.fit(
            dataclasses.replace(task, batches=batches),
            optax.sgd(0.1),
            Settings(steps=1),
            tmp_path,
            identity={},
            methods=Methods(selection=RhoLoss(batch=4)),
        )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SelectiveBackprop(batch=0), ValueError, r"batch must be in \[1,"),
        (lambda: SelectiveBackprop(batch=8, beta=-1.0), ValueError, r"beta must be in \[0, inf.*, got -1.0"),
        (lambda: SelectiveBackprop(batch=8, history=0), ValueError, r"history must be in \[1,"),
        (lambda: SelectiveBackprop(batch=8.0), TypeError, "batch must be an integer, got 8.0"),
        (lambda: RhoLoss(batch=0), ValueError, r"batch must be in \[1,"),
    ],
)
def test_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
