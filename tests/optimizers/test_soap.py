import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.soap import soap
from tests.golden import fixture_s, parity
from tests.optimizers.test_muon import schedule

# What the authors' code makes of fixture S, run in float64, eigenvectors and QR too.
EVERY_OTHER = {"precondition_frequency": 2}
GOLDEN = {
    "f 2": (
        EVERY_OTHER,
        0.1,
        [
            0.245735013371,
            -0.432229077374,
            -0.429845245151,
            0.0741574705002,
            -0.403713198095,
            -0.140780669355,
            -0.467609254643,
            -0.315600408925,
            0.197974694843,
        ],
        [0.0361705593852, -0.128152850214],
    ),
    "f 1, other betas": (
        {"precondition_frequency": 1, "b1": 0.9, "b2": 0.98, "shampoo_beta": 0.8},
        0.0,
        [
            0.237580819655,
            -0.435047901635,
            -0.457735991462,
            0.037252229782,
            -0.415184053086,
            -0.150804607446,
            -0.471415989215,
            -0.332700804223,
            0.157318811577,
        ],
        [0.0387315263016, -0.130258454537],
    ),
    "sides too long": (
        EVERY_OTHER | {"max_precond_dim": 2},
        0.1,
        [
            0.195431669678,
            -0.421840321035,
            -0.537053257291,
            0.0310066657337,
            -0.397573760433,
            -0.108830938222,
            -0.40939098939,
            -0.431616690709,
            0.180389154246,
        ],
        [0.0361705593852, -0.128152850214],
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", GOLDEN)
def test_the_trajectory_is_that_of_the_authors_code(name):
    settings, decay, s, b = GOLDEN[name]
    with jax.enable_x64(True):
        tx = soap(schedule(fixture_s.RATES), weight_decay=0.0, **settings)
        end, (state, *_) = fixture_s.trained(tx, decay)
    np.testing.assert_allclose(end["S"].ravel(), s, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["b"], b, rtol=0, atol=1e-12)
    if name == "f 2":
        left, right = (np.diag(tree["S"]) for tree in state.factors.value)
        np.testing.assert_allclose(left, [0.321715152069, 0.283312564729, 0.403255586732], atol=1e-12)
        np.testing.assert_allclose(right, [0.362163822285, 0.313275599452, 0.332843881793], atol=1e-12)
        nu = [0.401527677294, 0.0254580690792, 0.000427462829901, 0.0454986485196, 0.259410072964]
        nu += [0.0440388489462, 0.00200638547045, 0.0361717772565, 0.00590787416582]
        np.testing.assert_allclose(state.nu["S"].ravel(), nu, atol=1e-12)
        mu = [0.153008227359, 0.0407731255511, 0.00520340675415, 0.0880807464626, 0.141132231519]
        mu += [0.0295704707542, 0.00140915823116, 0.00777191509169, 0.0409051328353]
        np.testing.assert_allclose(np.abs(state.mu["S"]).ravel(), mu, atol=1e-12)


# The sources of the golden trajectories, and our arguments for their settings.


def in_float64(optimizer, case, rate, curvature):
    """A step whose decompositions are in float64 instead of float32."""
    import torch

    given = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.clone  # a copy, as a cast is
    try:
        with torch.compiler.set_stance("force_eager"):
            parity._step(optimizer, case, rate, curvature)
    finally:
        torch.Tensor.float = given


class EachLayer:
    """The authors' optimizer, for which each layer of an array of three axes is a parameter.

    The factors begin as diagonal matrices instead of zeros, as one gradient does not determine a basis of the
    longer side of a matrix.
    """

    def __init__(self, code, params, settings, code_of_vectors=None):
        self.parts = [(p, list(p.detach()) if p.ndim == 3 else [p.detach()]) for p in params]
        each = [x for _, parts in self.parts for x in parts]
        of_vectors = {name: settings[name] for name in ("betas", "eps", "weight_decay")}
        if code_of_vectors is None:
            self.optimizers = [code(each, **settings)]
        else:
            self.optimizers = [
                code([x for x in each if x.ndim > 1], **settings),
                code_of_vectors([x for x in each if x.ndim <= 1], correct_bias=False, **of_vectors),
            ]
        self._begin = self.optimizers[0].init_preconditioner
        self.optimizers[0].init_preconditioner = self._begin_with_diagonals

    def _begin_with_diagonals(self, grad, state, **given):
        import torch

        self._begin(grad, state, **given)
        state["GG"] = [
            x + torch.diag(FIRST * torch.arange(1, len(x) + 1)) if len(x) else x for x in state["GG"]
        ]

    @property
    def param_groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        for p, parts in self.parts:
            for x, g in zip(parts, p.grad if p.ndim == 3 else [p.grad], strict=True):
                x.grad = g
        for optimizer in self.optimizers:
            optimizer.step()


FIRST = 0.01


def beginning_with_diagonals(tx):
    """Ours, whose factors begin as those of :class:`EachLayer`."""

    def diagonal(x):
        return x + jnp.diag(FIRST * jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype))

    def init(params):
        first, *rest = tx.init(params)
        return (first._replace(factors=jax.tree.map(diagonal, first.factors)), *rest)

    return optax.GradientTransformationExtraArgs(init, tx.update)


def ours(method, rate, settings, **given):
    names = {"shampoo_beta", "precondition_frequency", "max_precond_dim", "init_factor"} & settings.keys()
    return beginning_with_diagonals(
        method(
            rate,
            **parity.moments(settings),
            **{name: settings[name] for name in names},
            weight_decay=0.0,
            matrices=lambda params: jax.tree.map(lambda p: groups.Matrix() if p.ndim > 1 else None, params),
            **given,
        )
    )


FIRST_FACTORS = (
    "Without weight decay, which the source has after the step. Decompositions are in float64, and both begin "
    f"with the factors {FIRST} · diag(1, 2, …), as one gradient does not determine the basis of a longer side."
)
SOAP_CODE = {
    "code": "soap.SOAP",
    "home": "github:nikhilvyas/SOAP",
    "paper": "Vyas et al., [2409.11321](https://arxiv.org/abs/2409.11321)",
    "make": EachLayer,
    "step": in_float64,
    "note": FIRST_FACTORS,
    "ours": lambda rate, s: ours(soap, rate, s),
}
SOURCES = {
    "soap": parity.Case(
        title="SOAP",
        settings={"betas": [0.95, 0.95], "eps": 1e-8, "weight_decay": 0.0, "precondition_frequency": 3},
        **SOAP_CODE,
    ),
    "soap_one_sided": parity.Case(
        title="SOAP, without the longest sides, refreshed at every step",
        settings={
            "betas": [0.9, 0.95],
            "shampoo_beta": 0.8,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "precondition_frequency": 1,
            "max_precond_dim": 8,
        },
        **SOAP_CODE,
    ),
}
