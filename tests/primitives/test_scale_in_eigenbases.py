"""What SOAP and KL-SOAP have in common."""

import re

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from examples.benchmarks import matrix_costs
from optimiz import groups, kl_soap, scale_by_kl_soap, scale_by_soap, soap
from optimiz.numerics import eigenbases
from tests.primitives.test_scale_by_muon import normal


def directions(tx, *gradients):
    """The direction of each update, and the last state."""
    update, state, found = jax.jit(tx.update), tx.init(gradients[0]), []
    for g in gradients:
        direction, state = update(g, state)
        found.append(direction)
    return found, state


def square(*shape, n=4):
    """Gradients of several steps."""
    return [normal(*shape, seed=i) for i in range(n)]


FORMS = {"soap": scale_by_soap, "kl_soap": scale_by_kl_soap}
forms = pytest.mark.parametrize("form", FORMS)


@pytest.mark.quick(1)
@forms
def test_a_transposed_gradient_has_the_transposed_direction(form):
    tx = FORMS[form](precondition_frequency=2)
    gradients = square(5, 5)
    found, _ = directions(tx, *({"w": g} for g in gradients))
    transposed, _ = directions(tx, *({"w": g.T} for g in gradients))
    assert not np.any(found[0]["w"])
    for a, b in zip(found[1:], transposed[1:], strict=True):
        np.testing.assert_allclose(a["w"], b["w"].T, atol=2e-4)


def test_the_signs_of_a_basis_have_no_part_in_the_direction():
    tx, (g, *more) = scale_by_soap(), square(5, 5)
    _, state = tx.update({"w": g}, tx.init({"w": g}))
    flipped = state._replace(
        bases=jax.tree.map(lambda q: q * jnp.array([1.0, -1.0, 1.0, -1.0, -1.0]), state.bases)
    )
    for g in more:
        one, state = tx.update({"w": g}, state)
        other, flipped = tx.update({"w": g}, flipped)
        np.testing.assert_allclose(one["w"], other["w"], atol=1e-5)


@pytest.mark.quick(1)
@forms
def test_layers_heads_and_experts_are_each_alone(form):
    """A query of (in, heads, width) is one matrix, scanned layers and experts are stacks."""
    tx = FORMS[form](precondition_frequency=2, max_precond_dim=4, scanned={"^layers/": 0})
    gradients = [
        {
            "layers/attention/query": normal(3, 4, 2, 3, seed=i),
            "layers/experts": normal(3, 2, 4, 6, seed=10 + i),
            "layers/attention/out": normal(3, 2, 3, 4, seed=20 + i),
        }
        for i in range(4)
    ]
    alone = FORMS[form](precondition_frequency=2, max_precond_dim=4)
    together = directions(tx, *gradients)[0]

    def split(tree):
        parts = {f"query_{i}": x.reshape(4, 6) for i, x in enumerate(tree["layers/attention/query"])}
        parts |= {f"out_{i}": x.reshape(6, 4) for i, x in enumerate(tree["layers/attention/out"])}
        experts = tree["layers/experts"]
        return parts | {f"expert_{i}_{j}": experts[i, j] for i, j in np.ndindex(3, 2)}

    apart = directions(alone, *map(split, gradients))[0]
    for one, other in zip(together, apart, strict=True):
        for name, x in split(one).items():
            np.testing.assert_allclose(x, other[name], atol=1e-4, err_msg=name)


def test_a_side_that_is_too_long_is_left_alone_and_the_other_is_rotated():
    """As one loop over steps in NumPy, of the outputs alone."""
    tx = scale_by_soap(0.9, 0.8, 1e-8, shampoo_beta=0.7, precondition_frequency=2, max_precond_dim=3)
    gradients = square(6, 3, n=5)
    found, state = directions(tx, *({"w": g} for g in gradients))
    assert state.factors.value[0]["w"] == optax.MaskedNode()
    factor, m, v, q = np.zeros((3, 3)), np.zeros((6, 3)), np.zeros((6, 3)), None
    for k, g in enumerate(np.asarray(g, np.float64) for g in gradients):
        if q is None:
            factor = 0.3 * g.T @ g
            q = np.linalg.eigh(factor)[1][:, ::-1]
            continue
        y = g @ q
        m, v = 0.9 * m + 0.1 * y, 0.8 * v + 0.2 * y**2
        wanted = np.sqrt(1 - 0.8**k) / (1 - 0.9**k) * (m / (np.sqrt(v) + 1e-8)) @ q.T
        np.testing.assert_allclose(found[k]["w"], wanted, atol=2e-4)
        factor = 0.7 * factor + 0.3 * g.T @ g
        if k % 2 == 0:
            order = np.argsort(-np.diag(q.T @ factor @ q))
            back, v = m @ q.T, v[:, order]
            q = np.linalg.qr(factor @ q[:, order])[0]
            m = back @ q


def test_which_parameters_are_rotated_along_which_sides():
    shapes = {
        "embed/embedding": (50, 4),
        "head/kernel": (4, 50),
        "layers/0/attn/c_attn/kernel": (4, 12),
        "layers/0/attn/query/bias": (2, 2),
        "layers/0/conv/kernel": (3, 3, 8, 5),
        "moe/router/kernel": (4, 6),
        "norm/scale": (4,),
        "unknown": (4, 4, 4),
    }
    params = {path: jax.ShapeDtypeStruct(shape, jnp.bfloat16) for path, shape in shapes.items()}
    left, right = scale_by_soap(max_precond_dim=12).init(params).factors.value
    found = {path: tuple(getattr(tree[path], "shape", ()) for tree in (left, right)) for path in shapes}
    assert {path: sides for path, sides in found.items() if any(sides)} == {
        "embed/embedding": ((), (4, 4)),
        "head/kernel": ((4, 4), ()),
        "layers/0/attn/c_attn/kernel": ((4, 4), (12, 12)),  # queries, keys and values are one
        "layers/0/conv/kernel": ((), (5, 5)),  # the input has 72 axes
    }
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((left, right)))


@pytest.mark.parametrize(("m", "n", "longest"), [(6, 6, 10_000), (6, 24, 10_000), (6, 24, 6)])
def test_the_state_takes_the_bytes_of_the_formula(m, n, longest):
    sides = sum(side**2 for side in (m, n) if side <= longest)
    params = {"w": jnp.zeros((5, m, n))}
    given = {"max_precond_dim": longest, "scanned": {"w": 0}}
    taken = optimiz.state_bytes(scale_by_soap(**given), params).total
    assert taken == 5 * (8 * m * n + 8 * sides) + 4
    roots = sum(side for side in (m, n) if side <= longest)
    assert optimiz.state_bytes(scale_by_kl_soap(**given), params).total == taken + 5 * 4 * roots


def equations(jaxpr, within=()):
    """All equations, with the names of the primitives that they are in."""
    for equation in jaxpr.eqns:
        yield equation, within
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner, (*within, equation.primitive.name))


def jaxpr_of(tx, params, wrap=lambda f: f):
    return jax.make_jaxpr(wrap(lambda g: tx.update(g, tx.init(g))[0]))(params).jaxpr


@pytest.mark.parametrize("longest", [10_000, 6])
def test_the_operations_of_an_update_and_of_a_refresh_are_those_of_the_formula(longest):
    m, n = 6, 10
    params, sides = {"w": jnp.ones((m, n))}, [(a, b) for a, b in ((m, n), (n, m)) if a <= longest]
    of_update, of_refresh = matrix_costs.of_update(scale_by_soap(max_precond_dim=longest), params)
    assert of_update == sum(6 * a * a * b for a, b in sides)
    assert of_refresh == pytest.approx(sum(20 / 3 * a**3 + 2 * a * a * b for a, b in sides))
    of_kl, _ = matrix_costs.of_update(scale_by_kl_soap(max_precond_dim=longest), params)
    assert of_kl == of_update + (2 * m * n * (m + n) if len(sides) == 2 else 0)


# The bases


DECOMPOSITIONS = {"eigh", "qr"}


@forms
def test_bases_are_decomposed_within_a_branch(form):
    params = {"up": jnp.ones((4, 6)), "gate": jnp.ones((4, 6)), "mix": jnp.ones((4, 4)), "bias": jnp.ones(3)}
    found = [
        (equation, within)
        for equation, within in equations(jaxpr_of(FORMS[form](), params))
        if equation.primitive.name in DECOMPOSITIONS
    ]
    assert {equation.primitive.name for equation, _ in found} == DECOMPOSITIONS
    assert all("cond" in within for _, within in found)
    # Of equal matrices there is one stack, which a CPU takes one by one.
    shapes = {equation.invars[0].aval.shape for equation, _ in found}
    assert shapes == {(2, 4, 4), (2, 6, 6), (1, 4, 4), (4, 4), (6, 6)}


def test_also_under_vmap_over_learning_rates():
    params = {"w": jnp.ones((4, 4))}

    def run(rate):
        tx = soap(rate)
        return tx.update(params, tx.init(params), params)[0]

    jaxpr = jax.make_jaxpr(jax.vmap(run))(jnp.array([0.1, 0.2])).jaxpr
    found = [within for e, within in equations(jaxpr) if e.primitive.name in DECOMPOSITIONS]
    assert found and all("cond" in within for within in found)


def test_a_refresh_is_computed_every_fth_update_and_no_more(monkeypatch):
    times = []

    def counted(x):
        jax.debug.callback(lambda: times.append(1))
        return eigenbases.jax.lax.linalg.qr(x, full_matrices=False)[0]

    monkeypatch.setattr(eigenbases, "_orthogonal", counted)
    tx = scale_by_soap(precondition_frequency=3)
    g = {"w": normal(7, 5)}  # a shape of its own, so that no other test has compiled it
    update, state, refreshed = jax.jit(tx.update), tx.init(g), []
    for _ in range(8):
        _, state = update(g, state)
        jax.effects_barrier()
        refreshed.append(len(times))
    assert refreshed == [0, 0, 0, 2, 2, 2, 4, 4]  # two sides, at k = 3 and 6


def test_the_decomposition_has_at_least_float32():
    for dtype, wanted in ((jnp.float16, "float32"), (jnp.bfloat16, "float32"), (jnp.float64, "float64")):
        with jax.enable_x64(wanted == "float64"):
            found = equations(jaxpr_of(scale_by_soap(), {"w": jnp.ones((4, 4), dtype)}))
            used = {
                (e.primitive.name, str(e.invars[0].aval.dtype))
                for e, _ in found
                if e.primitive.name in DECOMPOSITIONS | {"dot_general"}
            }
        assert {d for _, d in used} == {wanted} and {name for name, _ in used} > {"dot_general"}


def test_products_have_all_bits():
    found = equations(jaxpr_of(scale_by_kl_soap(), {"w": jnp.ones((4, 6))}))
    precisions = {e.params["precision"] for e, _ in found if e.primitive.name == "dot_general"}
    assert precisions == {(jax.lax.Precision.HIGHEST,) * 2}


@pytest.mark.quick(1)
@forms
def test_a_basis_stays_orthogonal_and_nears_the_eigenvectors(form):
    """After a thousand float32 updates, of gradients whose squares span nine decades."""
    scales = jnp.logspace(0, -4.5, 8)

    def step(state, key):
        g = {"w": scales[:, None] * jax.random.normal(key, (8, 12))}
        direction, state = tx.update(g, state)
        return state, jnp.max(jnp.abs(direction["w"]))

    tx = FORMS[form](precondition_frequency=1)
    start = tx.init({"w": jnp.zeros((8, 12))})
    state, largest = jax.jit(lambda: jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 1000)))()
    for tree in state.bases.value:
        q = np.asarray(tree["w"], np.float64)
        assert np.abs(q.T @ q - np.eye(len(q))).max() < 3e-6
    assert np.all(np.isfinite(largest)) and largest.max() < 20
    if form == "soap":  # the factor, up to scale, is diagonal in its basis
        factor, q = (np.asarray(tree.value[0]["w"], np.float64) for tree in (state.factors, state.bases))
        rotated = q.T @ factor @ q
        off = rotated - np.diag(np.diag(rotated))
        assert np.abs(off).max() < 2e-2 * rotated.max()
        assert np.all(np.diff(np.log(np.diag(rotated))) < 0.5)  # sorted, but for those that just changed places


# Extremes


@pytest.mark.quick(2)
@forms
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_extreme_gradients_of_every_dtype_leave_directions_and_state_finite(form, dtype):
    """A factor of zeros, or of equal columns, is singular when its basis is found and refreshed."""
    tx = FORMS[form](precondition_frequency=1)
    largest, tiny = float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).tiny)
    shapes = {"square": (4, 4), "wide": (3, 7), "bias": (3,), "scalar": ()}
    for values in ((0, 0, 0), (0, 0, 1), (tiny, tiny, 0), (largest, largest, 1), (1, 1, largest)):
        steps = [{name: jnp.full(x, value, dtype) for name, x in shapes.items()} for value in values]
        found, state = directions(tx, *steps)
        for x in jax.tree.leaves((found, state)):
            assert jnp.isfinite(x).all(), values
        assert all(x.dtype == dtype for x in jax.tree.leaves(found))
        assert any(values) or not any(np.any(x) for x in jax.tree.leaves(found))
        for q in jax.tree.leaves(state.bases):
            np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-5, err_msg=str(values))


@pytest.mark.quick(1)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 2])
def test_what_is_not_finite_is_seen_in_its_own_matrix_alone(value, at):
    gradients = [{"layers": normal(3, 4, 4, seed=i), "other": normal(4, 4, seed=9 + i)} for i in range(4)]
    gradients[at]["layers"] = gradients[at]["layers"].at[1, 0, 0].set(value)
    found, _ = directions(scale_by_soap(scanned={"layers": 0}, precondition_frequency=2), *gradients)
    for direction in found[at:]:
        assert not jnp.isfinite(direction["layers"][1]).any()
        assert jnp.isfinite(direction["layers"][jnp.array([0, 2])]).all()
        assert jnp.isfinite(direction["other"]).all()


@pytest.mark.quick(1)
@forms
def test_a_guarded_step_that_is_not_finite_leaves_factors_and_bases_as_they_were(form):
    """Also where it would be the first, or one after which bases are refreshed."""
    tx = optimiz.guard(FORMS[form](precondition_frequency=2), 3)
    g = {"w": normal(4, 6), "b": normal(3)}
    bad = {"w": g["w"].at[0, 0].set(jnp.nan), "b": g["b"]}
    update = jax.jit(tx.update)
    state = tx.init(g)
    for _ in range(4):
        before = jax.device_get(state.inner_state)
        skipped, after = update(bad, state)
        assert not any(np.any(x) for x in jax.tree.leaves(skipped))
        jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(after.inner_state))
        direction, state = update(g, state)
    wanted, _ = directions(FORMS[form](precondition_frequency=2), *[g] * 4)
    np.testing.assert_allclose(direction["b"], wanted[-1]["b"], rtol=1e-5)


def test_in_few_bits_are_the_moments_and_nothing_else():
    tx = optimiz.low_bit(soap(0.1, precondition_frequency=2), optimiz.Int8(block=16), min_size=16)
    params = {"w": normal(16, 16), "b": normal(16)}
    state = tx.init(params)
    codes = state.inner_state[0]
    assert {x.dtype for x in jax.tree.leaves((codes.mu, codes.nu))} == {jnp.dtype(jnp.int8)}
    assert {x.dtype for x in jax.tree.leaves((codes.factors, codes.bases))} == {jnp.dtype(jnp.float32)}
    exact = soap(0.1, precondition_frequency=2)
    update, its_update, its = jax.jit(tx.update), jax.jit(exact.update), exact.init(params)
    for i in range(6):
        g = {"w": normal(16, 16, seed=i), "b": normal(16, seed=i)}
        updates, state = update(g, state, params)
        wanted, its = its_update(g, its, params)
    for q in jax.tree.leaves(state.inner_state[0].bases):
        np.testing.assert_allclose(q.T @ q, np.eye(16), atol=1e-5)
    away = np.linalg.norm(updates["w"] - wanted["w"]) / np.linalg.norm(wanted["w"])
    assert 0 < away < 0.1


# Bad input


@forms
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"b1": 1.0}, ValueError, r"b1 must be in \[0, 1\)"),
        ({"b2": -0.1}, ValueError, r"b2 must be in \[0, 1\)"),
        ({"eps": -1.0}, ValueError, "eps must be in"),
        ({"shampoo_beta": 1.0}, ValueError, r"shampoo_beta must be in \[0, 1\)"),
        ({"shampoo_beta": "0.9"}, TypeError, "shampoo_beta must be a number"),
        ({"precondition_frequency": 0}, ValueError, r"precondition_frequency must be in \[1, "),
        ({"precondition_frequency": 2.5}, TypeError, "precondition_frequency must be an integer"),
        ({"max_precond_dim": -1}, ValueError, r"max_precond_dim must be in \[0, "),
        ({"max_precond_dim": "all"}, TypeError, "max_precond_dim must be an integer"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be in"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be in"),
        ({"matrices": {"absent": None}}, ValueError, "'absent' matches no parameter"),
        ({"matrices": {"kernel": groups.Matrix(sizes=(1, 2))}}, ValueError, r"sizes must be None.*\(1, 2\)"),
        ({"matrices": {"kernel": None}}, ValueError, "there is no hidden matrix"),
        ({"matrices": {"bias": groups.Matrix()}}, ValueError, "cannot make a matrix of bias"),
        ({"scanned": {"absent": 0}}, ValueError, "scanned pattern 'absent' matches no parameter"),
        ({"precond_frequency": 5}, TypeError, "precond_frequency"),
    ],
)
def test_refuses_bad_input_by_name(form, given, error, message):
    method = {"soap": soap, "kl_soap": kl_soap}[form]
    with pytest.raises(error, match=message):
        method(**{"learning_rate": 0.02} | given).init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)})


def test_refuses_complex_matrices_and_gradients_of_another_shape():
    tx = soap(0.02)
    with pytest.raises(TypeError, match=r"matrices must be real, got complex64\[2, 3\]"):
        tx.init({"kernel": jnp.ones((2, 3), jnp.complex64)})
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"\['kernel'\] has shape \(3, 2\)"):
        tx.update(params | {"kernel": jnp.ones((3, 2))}, tx.init(params), params)


def test_what_determines_the_shapes_must_be_static_and_the_rest_may_be_injected():
    params = {"kernel": jnp.ones((2, 3))}
    injected = optax.inject_hyperparams(soap, static_args=("max_precond_dim",))(0.02)
    jax.eval_shape(injected.update, params, injected.init(params), params)
    injected = optax.inject_hyperparams(soap)(0.02)
    state = injected.init(params)
    with pytest.raises(TypeError, match=r'static_args=\("max_precond_dim",\)'):
        jax.eval_shape(injected.update, params, state, params)


# Devices


QUICK = ("fsdp, auto",)
LONG = tuple(
    f"{split}, {axes}{mesh}"
    for split in ("fsdp", "replicated")
    for axes in ("auto", "explicit")
    for mesh in ("", ", 2D")
)


@pytest.mark.long
@pytest.mark.parametrize("layouts", [QUICK, pytest.param(LONG, marks=pytest.mark.long)], ids=["quick", "all"])
def test_a_device_decomposes_whole_matrices_of_its_own(program, layouts):
    """What moves is whole stacks, in and out: were a QR split, it would need collectives of another kind."""
    found = program("tests.primitives.eigenbases_devices", *layouts, devices=8)
    for layout, row in found.items():
        kind = {"fsdp": "all-to-all", "replicated": "all-gather"}[layout.split(", ")[0]]
        assert set(row["collectives"]) == {kind}, layout
        assert row["decomposed"] == [1], layout  # of three of a kind
        assert row["difference"] < 5e-3, layout
        assert row["work"] < 0.45, layout


@pytest.mark.long
def test_layers_that_are_split_stay_where_they_are(program):
    row = program("tests.primitives.eigenbases_devices", "layers, explicit", devices=8)["layers, explicit"]
    assert row["collectives"] == {} and row["decomposed"] == [1]  # one after the other, as on any CPU
    assert row["difference"] < 1e-3 and row["work"] < 0.15


@forms
def test_rows_and_columns_may_be_split_by_explicit_axes(program, form):
    assert program("tests.primitives.rows_and_columns", form, devices=8)[form] < 2e-3


@forms
def test_a_cpu_decomposes_one_matrix_after_the_other(form):
    """Of several stacks, each divided among all threads of XLA, none was ever done: on two cores it hung."""
    params = {f"{i}/kernel": jnp.ones((8 + i // 2, 4 + i // 2)) for i in range(4)}  # two stacks of two
    tx = FORMS[form]()
    program = jax.jit(tx.update).lower(params, tx.init(params)).compile().as_text()
    calls = re.findall(r" = \(?\w+\[([\d,]+)\].*custom_call_target=\"lapack_s(\w+)_ffi\"", program)
    assert {name for _, name in calls} == {"syevd", "geqrf", "orgqr"}
    assert {shape.count(",") for shape, _ in calls} == {1}, calls
