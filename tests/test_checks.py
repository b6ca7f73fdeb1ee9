from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import checks


@pytest.mark.parametrize(
    "good",
    [0, 0.5, np.float32(0.5), np.int64(0), jnp.float32(0.5), np.array(0.5), np.array(jnp.bfloat16(0.5))[()]],
)
def test_number_takes_every_kind_of_scalar(good):
    checks.number("b1", good, ge=0, lt=1)


@pytest.mark.parametrize("bad", [1, 1.0, -1e-9, np.nan, np.inf, jnp.float32(jnp.nan)])
def test_number_refuses_by_name_value_and_domain(bad):
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\), got"):
        checks.number("b1", bad, ge=0, lt=1)


@pytest.mark.parametrize(
    "bad",
    [
        "0.5",
        None,
        True,
        np.bool_(True),
        np.zeros(1),
        1j,
        np.array("0.5"),
        np.array(True),
        jnp.array(1j),
        jax.random.key(0),
        Fraction(1, 2),
    ],
)
def test_number_refuses_what_is_none(bad):
    with pytest.raises(TypeError, match="b1 must be a number"):
        checks.number("b1", bad)


def test_number_shows_open_and_closed_ends():
    with pytest.raises(ValueError, match=r"x must be in \(0, 1\], got 0"):
        checks.number("x", 0, gt=0, le=1)


@pytest.mark.parametrize("good", [1, 2**31 - 1, np.int64(5), jnp.int32(5), np.array(5)])
def test_integer_takes_every_kind_of_scalar(good):
    checks.integer("steps", good, ge=1)


@pytest.mark.parametrize("bad", [0, -1, 2**31, jnp.int32(0)])
def test_integer_refuses_what_no_counter_reaches(bad):
    with pytest.raises(ValueError, match=r"steps must be in \[1, 2147483647\], got"):
        checks.integer("steps", bad, ge=1)


@pytest.mark.parametrize("bad", ["5", None, True, np.bool_(True), 5.0, jnp.float32(5), np.array([5])])
def test_integer_refuses_what_is_none(bad):
    with pytest.raises(TypeError, match="steps must be an integer, got"):
        checks.integer("steps", bad, ge=1)


def test_a_tracer_has_no_value_to_check():
    jax.jit(lambda x: checks.number("x", x, ge=0))(-1.0)
    jax.jit(lambda x: checks.integer("x", x, ge=0))(-1)


def test_is_zero_only_for_what_is_known_to_be():
    assert checks.is_zero(0) and checks.is_zero(0.0)
    assert not checks.is_zero(0.1) and not checks.is_zero(lambda count: 0.0)
    assert not jax.jit(lambda x: jnp.asarray(checks.is_zero(x)))(0.0)


def test_same_shapes_names_the_first_difference_by_path():
    reference = {"a": jnp.zeros(2), "b": [jnp.zeros((1, 3))]}
    checks.same_shapes("gradient", reference, "parameter", reference)
    with pytest.raises(ValueError, match=r"the gradient has no leaf at \['b'\]\[0\]"):
        checks.same_shapes("gradient", {"a": jnp.zeros(2), "b": []}, "parameter", reference)
    with pytest.raises(ValueError, match=r"the parameter has no leaf at \['c'\]"):
        checks.same_shapes("gradient", reference | {"c": 1.0}, "parameter", reference)
    with pytest.raises(ValueError, match=r"gradient at \['b'\]\[0\] has shape \(3,\), but the parameter"):
        checks.same_shapes("gradient", reference | {"b": [jnp.zeros(3)]}, "parameter", reference)
    with pytest.raises(ValueError, match=r"the gradient has shape \(3,\), but the parameter has shape \(2,\)"):
        checks.same_shapes("gradient", jnp.zeros(3), "parameter", jnp.zeros(2))
    with pytest.raises(ValueError, match="the parameter is a single array, but the gradient is a tree"):
        checks.same_shapes("gradient", reference, "parameter", jnp.zeros(2))
