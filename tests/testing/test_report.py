"""A report says what is kept, what is broken and how, and what does not apply."""

import subprocess
import sys

import jax.numpy as jnp
import optax
import pytest

import optimiz.testing as ot
from tests.conftest import ROOT
from tests.testing.mutants import MUTANTS, SOUND, sound

STATE = "state keeps its tree, shapes, dtypes and weak types"
DECAY = "with a gradient of zero weight decay only shrinks"


def test_a_failure_names_promise_leaf_dtype_and_step():
    report = ot.check(optax.adam, only=[STATE])
    message = report.broken[0].message
    assert message == (
        f"adam breaks {STATE!r}: state[0].mu['kernel'] is float32[4, 16], expected bfloat16[4, 16] "
        "(step 1, parameters bfloat16, gradients float32)"
    )
    with pytest.raises(ot.BrokenPromise) as raised:
        report.raise_for_failures()
    assert str(raised.value) == message


def test_a_report_is_a_table_with_the_reasons():
    report = ot.check(optax.adam, only=[STATE, DECAY, "jit equals eager"])
    head, *lines = str(report).splitlines()
    assert head == "adam: 1 kept, 1 broken, 1 not applicable"
    assert [line.strip() for line in lines] == [
        f"✗ {STATE}",
        report.broken[0].message,
        "✓ jit equals eager",
        f"– {DECAY}",
        "it has no argument weight_decay",
    ]
    assert all(outcome.seconds >= 0 for outcome in report.outcomes)


def test_conventions_are_checked_on_request_only():
    name = "refuses a bad learning rate by name"
    assert ot.check(optax.sgd, only=[name]).outcomes == ()
    assert str(ot.check(optax.sgd, only=[name], conventions=True).broken[0].promise) == name


def test_an_exempt_promise_does_not_apply_and_says_why():
    mutant = MUTANTS["it minimizes a quadratic"].factory
    options = {"only": ["it minimizes a quadratic"], "exempt": {"it minimizes a quadratic": "it ascends"}}
    (outcome,) = ot.check(mutant, **options).not_applicable
    assert outcome.message == "it ascends"


def test_an_exception_in_a_check_breaks_its_promise():
    def fails(learning_rate):
        def update_fn(updates, state, params=None):
            raise RuntimeError("no update today")

        return optax.GradientTransformation(optax.init_empty_state, update_fn)

    (outcome,) = ot.check(fails, only=["jit equals eager"]).broken
    assert outcome.message == "fails breaks 'jit equals eager': RuntimeError: no update today"


def test_extra_arguments_and_a_period_are_given_to_those_that_need_them():
    def needs_value(learning_rate):
        def update_fn(updates, state, params=None, *, value, **extra):
            return optax.tree.scale(-learning_rate * value, updates), state

        return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)

    only = ["chain takes it", "jit equals eager"]
    assert len(ot.check(needs_value, only=only).broken) == 2
    ot.check(needs_value, only=only, extra_args=lambda g, p: {"value": jnp.float32(1)}).raise_for_failures()

    def every_other(learning_rate):
        return optax.MultiSteps(optax.sgd(learning_rate), 2).gradient_transformation()

    only = ["MultiSteps emits exact zeros in between", "it minimizes a quadratic"]
    assert ot.check(every_other, only=only).broken
    ot.check(every_other, only=only, period=2).raise_for_failures()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ot.check("adam"), TypeError, "factory must be a function from a learning rate"),
        (lambda: ot.check(lambda rate: rate), TypeError, "must be a"),
        (lambda: ot.check(optax.sgd, period=0), ValueError, "period must be in"),
        (lambda: ot.check(optax.sgd, only=["shines"]), ValueError, "only must name promises .*, got 'shines'"),
        (
            lambda: ot.check(optax.sgd, exempt={"shines": "it does not"}),
            ValueError,
            "exempt must name promises .*, got 'shines'",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.long
def test_three_lines_make_tests_of_pytest(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import optax\n"
        "import optimiz.testing as ot\n\n"
        "@ot.parametrize(optax.adam)\n"
        "def test_contract(promise):\n"
        "    promise.check()\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null"]
    chosen = ["-k", "state_keeps or weight or cond"]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", *chosen, tmp_path / "test_mine.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert "1 passed, 2 skipped" in done.stdout, done.stdout + done.stderr
    assert "it has no argument weight_decay" in done.stdout


def test_a_case_is_named_by_its_promise():
    (case, *_) = ot.promises(sound, **SOUND)
    assert str(case) == case.promise.name == STATE
