import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups
from optimiz.numerics import matrix_scales, newton_schulz
from optimiz.optimizers.muon import muon
from tests.golden import fixture_m, parity
from tests.primitives.test_scale_by_muon import first, normal

RATES = fixture_m.RATES
# PyTorch's is a lower bound of the norm, and so is not seen.
WITHOUT_EPS = dataclasses.replace(newton_schulz.KELLER, eps=0.0)


def schedule(rates):
    return lambda count: jnp.asarray(rates)[count]


# What the authors' codes make of fixture M, run in float64; b is Adam's.
GOLDEN = {
    "Keller Jordan's": (
        {"weight_decay": 0.1},
        [0.231761901174, -0.390256106455, -0.462898719613, -0.00972213730807, -0.510241993894, -0.243012215657],
        [0.14676342778, -0.139808351062, 0.448876386001, 0.393110630841, 0.225919895669, 0.506744574927],
    ),
    "torch, no Nesterov": (
        {"weight_decay": 0.1, "momentum": 0.9, "nesterov": False, "newton_schulz": WITHOUT_EPS},
        [0.219391581056, -0.395560655727, -0.451375536047, -0.00918401971872, -0.533700605784, -0.269353769811],
        [0.13666346633, -0.136485718124, 0.448399938987, 0.399109569927, 0.236986222301, 0.519275022024],
    ),
    "Dion's, cautious decay": (
        {
            "weight_decay": 2.0,
            "cautious_decay": True,
            "scale": matrix_scales.spectral,
            # Of a sum, which is 1 / (1 - μ) times the average.
            "newton_schulz": dataclasses.replace(newton_schulz.POLAR_EXPRESS, eps=0.05 * 1e-8),
        },
        [0.181570261105, -0.420951540135, -0.46144343398, 0.0239274097965, -0.487407822306, -0.22325554095],
        [0.108934241824, -0.138916956129, 0.343433501273, 0.35300158827, 0.176461190127, 0.508711926195],
    ),
    "five triples": (
        {"weight_decay": 0.1, "newton_schulz": newton_schulz.FIVE_TRIPLES},
        [0.22492766615, -0.412701113077, -0.476247535101, 0.0123155207543, -0.509688614757, -0.243726228806],
        [0.12681383302, -0.154374988333, 0.430698221813, 0.395471865517, 0.214964421724, 0.528022798788],
    ),
}
ADAM = [0.0954235413758, -0.201757070569]


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", GOLDEN)
def test_the_trajectory_is_that_of_the_authors_code(name):
    settings, a, b = GOLDEN[name]
    with jax.enable_x64(True):
        adam = schedule(0.05 * RATES)
        end = fixture_m.trained(muon(schedule(RATES), adam_learning_rate=adam, **settings))
    np.testing.assert_allclose(end["A"].ravel(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["B"].ravel(), b, rtol=0, atol=1e-12)
    if not settings.get("cautious_decay"):
        np.testing.assert_allclose(end["b"], ADAM, rtol=0, atol=1e-12)


def test_moonlights_sum_is_the_average_of_a_small_eps():
    """Moonlight keeps the sum m, which is 1 / (1 - μ) times the average, so that its ε is as much smaller."""
    a = [0.25697879273, -0.34643959871, -0.448644888057, -0.0483988489862, -0.495067990712, -0.210735511062]
    b = [0.176580251989, -0.112579641014, 0.477577919825, 0.389106947805, 0.244711970056, 0.469145660236]
    smaller = dataclasses.replace(newton_schulz.KELLER, eps=0.05 * 1e-7)
    with jax.enable_x64(True):
        tx = muon(schedule(RATES), scale=matrix_scales.match_adam(), weight_decay=0.1, newton_schulz=smaller)
        end = fixture_m.trained(tx)
    np.testing.assert_allclose(end["A"].ravel(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["B"].ravel(), b, rtol=0, atol=1e-12)


SETTINGS = {"adam_learning_rate": 0.01, "ns_dtype": jnp.float32}


# AdamW of the others


def test_the_others_are_adamws():
    params = {"kernel": normal(3, 4), "bias": normal(4), "embed": normal(5, 3)}
    tx = muon(0.02, weight_decay=0.1, weight_decay_mask=groups.no_decay(), **SETTINGS)
    twin = optax.adamw(0.01, 0.9, 0.95, 1e-10, weight_decay=0.1, mask=groups.no_decay())
    rest = {name: params[name] for name in ("bias", "embed")}
    state, its_state = tx.init(params), twin.init(rest)
    for i in range(3):
        gradients = jax.tree.map(lambda p, i=i: normal(*p.shape, seed=i), params)
        updates, state = tx.update(gradients, state, params)
        wanted, its_state = twin.update({name: gradients[name] for name in rest}, its_state, rest)
        for name in rest:
            np.testing.assert_allclose(updates[name], wanted[name], rtol=2e-5, atol=1e-8)


def test_each_part_decays_at_its_own_rate():
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    tx = muon(0.5, adam_learning_rate=0.25, weight_decay=0.5)
    updates, _ = tx.update(zeros, tx.init(params), params)
    assert np.all(updates["kernel"] == -0.25) and np.all(updates["bias"] == -0.125)
    independent = muon(0.5, adam_learning_rate=0.25, weight_decay=0.5, decay_coupling="independent")
    updates, _ = independent.update(zeros, independent.init(params), params)
    assert np.all(updates["kernel"] == -0.5) and np.all(updates["bias"] == -0.5)


def test_silence_on_the_rate_of_adamw_is_refused_but_for_the_scale_that_suits_both():
    for scale in (None, matrix_scales.keller, matrix_scales.spectral, lambda a, b: 1.0):
        with pytest.raises(ValueError, match="adam_learning_rate must be given"):
            muon(0.02, scale=scale)
    params = {"kernel": normal(3, 4), "bias": normal(4)}
    updates = first(muon(0.02, scale=matrix_scales.match_adam(0.4), ns_dtype=jnp.float32), params)
    np.testing.assert_allclose(np.abs(updates["bias"]), 0.02, rtol=1e-4)
    assert np.sqrt(np.mean(updates["kernel"] ** 2)) == pytest.approx(0.02 * 0.4, rel=0.15)


def test_in_eight_bits_its_state_takes_one_byte_per_parameter():
    params = {"mlp": {"up": {"kernel": jax.ShapeDtypeStruct((768, 3072), jnp.float32)}}}
    tx = optimiz.low_bit(muon(2e-3, scale=matrix_scales.match_adam()), optimiz.Int8())
    assert optimiz.state_bytes(tx, params).per_parameter <= 1.04


def test_both_rates_are_in_the_state():
    tx = muon(optax.linear_schedule(0.2, 0.0, 10), adam_learning_rate=0.1)
    params = {"kernel": normal(3, 4), "bias": normal(4)}
    found = optimiz.hyperparams(tx.init(params))
    assert (found["muon/learning_rate"], found["adamw/learning_rate"]) == (
        pytest.approx(0.2),
        pytest.approx(0.1),
    )


# Extremes


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_zero_and_huge_gradients_of_every_dtype_are_finite(dtype):
    params = {"kernel": jnp.ones((4, 6), dtype), "row": jnp.ones((1, 6), dtype), "bias": jnp.ones(3, dtype)}
    tx = muon(0.1, adam_learning_rate=0.1, matrices={"row": groups.Matrix()})
    for value in (0.0, float(jnp.finfo(dtype).max), float(jnp.finfo(dtype).tiny)):
        updates = first(tx, jax.tree.map(lambda p, value=value: jnp.full_like(p, value), params))
        for name, x in updates.items():
            assert x.dtype == dtype and jnp.isfinite(x).all()
            assert value > 0 or np.all(x == 0), name


# Optax's


def test_optax_takes_biases_embeddings_and_heads_for_matrices_and_no_kernel_of_attention():
    params = {
        "embed": jnp.ones((5, 4)),
        "attention": {"query": {"kernel": jnp.ones((4, 2, 2)), "bias": jnp.ones((2, 2))}},
        "mlp": {"kernel": jnp.ones((4, 8))},
        "head": {"kernel": jnp.ones((4, 5))},
    }

    def matrices(tx):
        momentum = optax.tree.get(tx.init(params).inner_states["muon"], "mu")
        return sorted(x.shape for x in jax.tree.leaves(momentum))

    assert matrices(optax.contrib.muon(0.02)) == [(2, 2), (4, 5), (4, 8), (5, 4)]
    assert matrices(muon(0.02, adam_learning_rate=3e-4)) == [(4, 2, 2), (4, 8)]


def test_without_nesterov_optax_follows_the_same_trajectory_and_with_it_another():
    params = {"w": normal(4, 6)}
    for nesterov, apart in ((False, 0.0), (True, 1e-2)):
        theirs = optax.contrib.muon(1.0, nesterov=nesterov, eps=1e-7)
        ours = muon(1.0, adam_learning_rate=1.0, nesterov=nesterov, ns_dtype=jnp.float32)
        state, its_state = ours.init(params), theirs.init(params)
        for i in range(3):
            g = {"w": normal(4, 6, seed=i)}
            mine, state = ours.update(g, state)
            its, its_state = theirs.update(g, its_state, params)
        difference = np.abs(mine["w"] - its["w"]).max()
        assert difference <= 1e-4 if apart == 0 else difference >= apart


# Bad input


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
        ({"newton_schulz": "keller"}, TypeError, "newton_schulz must be a set of polynomials"),
        ({"scale": 0.2}, TypeError, "scale must be a function of two numbers"),
        ({"scale": matrix_scales.match_adam}, TypeError, "scale must be a function of two numbers"),
        (
            {"scale": lambda a, b: -1.0},
            ValueError,
            r"scale's factor of a matrix of 2 × 3 must be in ",
        ),
        ({"ns_dtype": jnp.float16}, ValueError, "ns_dtype must be one of 'bfloat16', 'float32', 'float64'"),
        ({"ns_dtype": jnp.int8}, TypeError, "ns_dtype must be floating point"),
        ({"matrices": {"kernel": True}}, TypeError, "overrides must be a Matrix or None"),
        (
            {"matrices": groups.matrices(), "scanned": {"a": 0}},
            ValueError,
            "scanned must be given to groups.matrices",
        ),
        ({"scanned": {"absent": 0}}, ValueError, "scanned pattern 'absent' matches no parameter"),
        ({"matrices": {"absent": None}}, ValueError, "'absent' matches no parameter"),
        ({"matrices": {"kernel": None}}, ValueError, "there is no hidden matrix among the parameters"),
        ({"matrices": {"kernel": groups.Matrix((), (0,), (2,))}}, ValueError, "cannot make a matrix of kernel"),
        (
            {"matrices": lambda p: jax.tree.map(lambda _: True, p)},
            TypeError,
            "matrices must give a groups.Matrix",
        ),
        ({"matrices": lambda p: {"kernel": groups.Matrix()}}, ValueError, "bias"),
        ({"adam_learning_rate": -1.0}, ValueError, "adam_learning_rate must be in"),
        ({"adam_learning_rate": "3e-4"}, TypeError, "adam_learning_rate must be a number"),
        ({"adam_b1": 1.0}, ValueError, "b1 must be in"),
        ({"adam_eps": -1.0}, ValueError, "eps must be in"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay must be in"),
        ({"weight_decay": 0.1, "weight_decay_mask": groups.path("absent")}, ValueError, "'absent'"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be in"),
    ],
)
def test_refuses_bad_input_by_name(given, error, message):
    with pytest.raises(error, match=message):
        muon(**{"learning_rate": 0.02, "adam_learning_rate": 3e-4} | given).init(
            {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        )


def test_refuses_complex_matrices_and_gradients_of_another_shape():
    tx = muon(0.02, adam_learning_rate=3e-4)
    with pytest.raises(TypeError, match=r"matrices must be real, got complex64\[2, 3\]: name it None"):
        tx.init({"kernel": jnp.ones((2, 3), jnp.complex64)})
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    state = tx.init(params)
    for given in (params, None):
        with pytest.raises(ValueError, match=r"\['kernel'\] has shape \(3, 2\)"):
            tx.update(params | {"kernel": jnp.ones((3, 2))}, state, given)


def test_a_number_injected_for_a_function_is_refused():
    with pytest.raises(TypeError, match=r"matrices must be known .*static_args"):
        optax.inject_hyperparams(muon)(0.02, adam_learning_rate=3e-4, matrices=lambda count: count).init(
            {"kernel": jnp.ones((2, 3))}
        )
    tx = optax.inject_hyperparams(muon)(0.02, adam_learning_rate=3e-4)
    params = {"kernel": jnp.ones((2, 3))}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert jnp.isfinite(updates["kernel"]).all()


# The sources of the golden trajectories, and our arguments for their settings.


def in_float64(optimizer, case, rate, curvature):
    """A step whose products are in float64 instead of bfloat16."""
    import torch

    given = torch.Tensor.bfloat16
    torch.Tensor.bfloat16 = torch.Tensor.clone  # a copy, as a cast is
    try:
        parity._step(optimizer, case, rate, curvature)
    finally:
        torch.Tensor.bfloat16 = given


def with_adam(code, params, settings):
    """The authors' optimizer of both, for which all arrays of two axes or more are matrices."""
    matrices = [p for p in params if p.ndim > 1]
    rest = [p for p in params if p.ndim <= 1]
    of_rest = {name: settings[name] for name in ("betas", "eps", "weight_decay")}
    of_matrices = {name: x for name, x in settings.items() if name not in ("betas", "eps")}
    return code(
        [{"params": matrices, "use_muon": True} | of_matrices, {"params": rest, "use_muon": False} | of_rest]
    )


class Both:
    """PyTorch's Muon of the arrays of two axes, and its AdamW of the others."""

    def __init__(self, code, params, settings):
        import torch

        of_rest = {name: settings[name] for name in ("betas", "eps", "weight_decay")}
        of_matrices = {name: x for name, x in settings.items() if name not in ("betas", "eps")}
        self.parts = (
            code([p for p in params if p.ndim == 2], adjust_lr_fn="match_rms_adamw", **of_matrices),
            torch.optim.AdamW([p for p in params if p.ndim != 2], **of_rest),
        )

    @property
    def param_groups(self):
        return [group for part in self.parts for group in part.param_groups]

    def step(self):
        for part in self.parts:
            part.step()


def output_first(*ranks):
    """Arrays of these ranks as matrices, whose output comes first as PyTorch's does."""
    axes = groups.Matrix(reduction=(-1,), output=(-2,))
    return lambda params: jax.tree.map(lambda p: axes if p.ndim in ranks else None, params)


def ours(rate, settings, **given):
    return muon(
        rate,
        momentum=settings["momentum"],
        adam_b1=settings["betas"][0],
        adam_b2=settings["betas"][1],
        adam_eps=settings["eps"],
        weight_decay=settings["weight_decay"],
        **given,
    )


PRODUCTS = "The source's products are in float64, not bfloat16."
SOURCES = {
    "muon": parity.Case(
        title="Muon",
        code="muon.SingleDeviceMuonWithAuxAdam",
        home="github:KellerJordan/Muon",
        settings={"momentum": 0.95, "weight_decay": 0.1, "betas": [0.9, 0.95], "eps": 1e-10},
        make=with_adam,
        step=in_float64,
        note=PRODUCTS,
        ours=lambda rate, s: ours(rate, s, adam_learning_rate=rate, matrices=output_first(2, 3)),
    ),
    "muon_match_adam": parity.Case(
        title="Muon with Moonlight's scale",
        code="torch.optim.Muon",
        home="torch",
        settings={
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 0.1,
            "betas": [0.9, 0.95],
            "eps": 1e-8,
        },
        make=Both,
        step=in_float64,
        note=f"With adjust_lr_fn='match_rms_adamw'. {PRODUCTS} The stack is AdamW's, as PyTorch's takes none.",
        ours=lambda rate, s: ours(
            rate,
            s,
            nesterov=s["nesterov"],
            scale=matrix_scales.match_adam(),
            newton_schulz=WITHOUT_EPS,
            matrices=output_first(2),
        ),
    ),
}
