import dataclasses
import math
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import optimiz
from examples.models import small
from examples.models.adapters import from_nnx
from examples.studies.heterogeneity import report, two_blocks
from examples.studies.heterogeneity.measures import Study
from examples.studies.heterogeneity.results import Results
from optimiz import compare, training
from optimiz.diagnostics.heterogeneity import gini
from tests.compare import records
from tests.conftest import ROOT


def transformer(norm_first, seed=0):
    return from_nnx(small.PatchTransformer(10, norm_first, rngs=nnx.Rngs(seed)))


@pytest.mark.long
def test_the_transformers_differ_only_in_the_placement_of_layer_norm():
    (post, apply_post), (pre, apply_pre) = transformer(False), transformer(True)
    jax.tree.map(np.testing.assert_array_equal, post, pre)
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
    assert apply_post(post, images).shape == apply_pre(pre, images).shape == (3, 10)
    assert np.abs(apply_post(post, images) - apply_pre(pre, images)).max() > 0.1
    # Post-LN is normalized at the end of a layer, whatever comes in; Pre-LN passes it on.
    tokens = 100 * jax.random.normal(jax.random.key(0), (1, small.TOKENS, small.WIDTH))
    for norm_first, expected in ((False, 1.0), (True, 100.0)):
        layer = small.PatchTransformer(10, norm_first, rngs=nnx.Rngs(0)).layers[0]
        assert float(jnp.std(layer(tokens, jnp.ones((1, small.TOKENS)), None))) == pytest.approx(
            expected, rel=0.05
        )


def test_patches_are_squares_of_pixels():
    params, apply = transformer(True)
    params["position"] = jnp.zeros_like(params["position"])
    images = np.zeros((2, 8, 8, 1), np.float32)
    images[0, 2:4, 4:6, 0] = images[1, 6:8, 0:2, 0] = [[1, 2], [3, 4]]  # without positions, tokens are a set
    first, second = apply(params, images)
    np.testing.assert_allclose(first, second, atol=1e-5)
    images[1, 6:8, 0:2, 0] = [[1, 3], [2, 4]]
    assert np.abs(np.subtract(*apply(params, images))).max() > 1e-3


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_is_a_convolution(stride):
    conv = small.Conv(2, 3, stride, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 2))
    kernel = conv.kernel[...].reshape(3, 3, 2, 3)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)


def test_two_blocks_need_the_steps_that_can_be_calculated():
    # Of one curvature, SGD is there in one step, whatever the gradients.
    unequal = two_blocks.measure(10.0, 1.0)
    assert (unequal["sgd"], unequal["gradient_weighted"], unequal["size_weighted"]) == (1, 1.0, 1.0)
    assert unequal["sign_sgd"] == two_blocks.measure(0.1, 1.0)["sign_sgd"] > 1
    assert two_blocks.measure(1.0, 1.0)["sign_sgd"] == 1
    # A constant rate of at most 2 / 100 leaves (1 - 0.02)^n of the flat block, and 0.1 of it is the target.
    measured = two_blocks.measure(1.0, 100.0)
    assert measured["sgd"] > math.log(0.1) / math.log(1 - 0.02) and measured["size_weighted"] == 50.5
    assert two_blocks.measure(3.0, 100.0)["gradient_weighted"] == pytest.approx((1 + 9 * 100) / 10)
    assert two_blocks.steps_needed((1.0, 1.0), (1.0, 1e8), optimiz.sgd) is None


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of one epoch of large batches, and the command that made it."""
    output = tmp_path_factory.mktemp("study")
    given = {"models": "post_ln", "optimizers": "sgd,adam", "learning_rates": "1e-3,1e-1", "epochs": 1}
    given |= {"batch_size": 350, "seeds": 2, "curvatures": 0, "output": output}
    command = [
        sys.executable,
        "-m",
        "examples.studies.heterogeneity.study",
        *(f"--{n}={x}" for n, x in given.items()),
    ]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return output, command


@pytest.mark.long
def test_the_best_of_a_grid_runs_from_every_seed_and_the_report_is_rendered_from_the_record(study):
    output, command = study
    record = compare.Record.read(output / "record.json")
    assert record.settings["updates"] == 4 and record.environment["versions"]["optimiz"]
    results = Results(record)
    assert results.models == ["post_ln"] and results.optimizers("post_ln") == ["sgd", "adam"]
    for optimizer in ("sgd", "adam"):
        grid = {run.learning_rate: run for run in results.runs("post_ln", optimizer) if run.seed == 0}
        best = min(grid, key=lambda rate: grid[rate].test["train_loss"])
        assert set(grid) == {1e-3, 1e-1} and results.best_rate("post_ln", optimizer) == best
        chosen = results.best_runs("post_ln", optimizer)
        assert [(run.learning_rate, run.seed) for run in chosen] == [(best, 0), (best, 1)]
    starts = [run.extra["heterogeneity"][0] for run in record.runs if run.seed == 0]
    assert starts == [starts[0]] * 4  # before the first update neither rate nor optimizer matters
    assert (output / "report.md").read_text() == report.render(record)
    assert (output / "study.png").stat().st_size > 10_000

    shutil.rmtree(next(output.glob("runs/post_ln/sgd_*/seed_0")))  # as if it had been stopped before this run
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    again = compare.Record.read(output / "record.json")
    assert [run.extra for run in again.runs] == [
        run.extra for run in record.runs
    ] and again.extra == record.extra


@pytest.mark.long
def test_gradients_and_curvatures_are_those_of_weights_and_scales(tmp_path):
    study = Study(epochs=1, batch_size=32, iterations=2)
    measured = study.curvature("conv_net", 0)
    assert len(measured["blocks"]) == len(measured["eigenvalue"]) == len(measured["norm"]) == 16
    assert not any("bias" in block for block in measured["blocks"])
    tx = study.arm("conv_net", "sgd", 0.1).optimizer()
    result = training.fit(study.task("conv_net", 0), tx, training.Settings(steps=1), tmp_path, identity={})
    first = study.by_epoch(None, 0, result)["heterogeneity"][0]
    assert float(gini(jnp.array(measured["norm"]))) == pytest.approx(first["gini_norm"], rel=1e-4)


def run(optimizer, seed, loss, rate=0.1, model="post_ln", gini_norm=0.5):
    start = dict.fromkeys(report.SHOWN, gini_norm)
    extra = {
        "model": model,
        "loss": [loss],
        "heterogeneity": [start, {name: x / 2 for name, x in start.items()}],
    }
    test = {"train_loss": loss, "accuracy": 0.9}
    return records.run(optimizer, 0.9, rate=rate, seed=seed, test=test, extra=extra)


def results_of(runs, two_blocks=()):
    extra = {"curvature": [], "two_blocks": list(two_blocks)}
    return Results(dataclasses.replace(records.record(*runs), extra=extra))


def test_what_diverged_is_the_worst_of_a_grid_and_a_lead_is_in_decades():
    runs = [run("sgd", 0, None, rate=10.0), run("sgd", 0, 1.0), run("sgd", 1, 2.0)]
    results = results_of([*runs, run("adam", 0, 0.01), run("adam", 1, 0.02)])
    assert results.best_rate("post_ln", "sgd") == 0.1
    assert results.lead("post_ln", "sgd").mean == pytest.approx(2.0)
    assert results.at_start("post_ln") == [0.5, 0.5] and results.in_training("post_ln", "adam") == [0.25, 0.25]


@pytest.mark.parametrize(("post", "pre", "message"), [
    ([0.6, 0.7, 0.65], [0.4, 0.5, 0.46], "Post-LN is **more** heterogeneous than Pre-LN at the start"),
    ([0.4, 0.5, 0.46], [0.6, 0.7, 0.65], "Post-LN is **less** heterogeneous than Pre-LN at the start"),
    ([0.4, 0.7, 0.50], [0.6, 0.5, 0.55], "**no significant difference** between Post-LN and Pre-LN"),
])  # fmt: skip
def test_the_words_follow_from_the_numbers(post, pre, message):
    cells = [two_blocks.measure(n, c) for n in (0.1, 10.0) for c in (1.0, 100.0)]
    runs = []
    for model, ginis in (("post_ln", post), ("pre_ln", pre)):
        for seed, value in enumerate(ginis):
            runs += [run("sgd", seed, 1.0 + seed, model=model, gini_norm=value)]
            runs += [run("adam", seed, 0.1 if model == "post_ln" else 0.5, model=model, gini_norm=value)]
    words = report.in_words(results_of(runs, cells))
    assert message in words and words.startswith("All models were trained from scratch")
    alike = sum(post) > sum(pre)  # Adam leads by more with Post-LN
    assert ("does order the models" in words, "does **not** order the models" in words) == (alike, not alike)
