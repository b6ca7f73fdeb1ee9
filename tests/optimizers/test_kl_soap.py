import jax
import numpy as np
import pytest

from optimiz.optimizers.kl_soap import kl_soap
from tests.golden import fixture_s, parity
from tests.optimizers.test_muon import schedule
from tests.optimizers.test_soap import FIRST_FACTORS, EachLayer, in_float64, ours


def test_the_trajectory_is_that_of_the_authors_code():
    """Theirs takes matrices only."""
    settings = {"precondition_frequency": 2, "b1": 0.9, "b2": 0.98, "shampoo_beta": 0.9}
    with jax.enable_x64(True):
        end, _ = fixture_s.trained(kl_soap(schedule(fixture_s.RATES), weight_decay=0.0, **settings), 0.1)
    found = [0.244540415749, -0.400239332812, -0.461837205855, 0.0617515323692, -0.388976308625]
    found += [-0.126258141671, -0.44341548688, -0.340301607618, 0.168054838672]
    np.testing.assert_allclose(end["S"].ravel(), found, rtol=0, atol=1e-12)


def test_refuses_a_first_eigenvalue_of_zero():
    with pytest.raises(ValueError, match=r"init_factor must be in \(0, inf\]?\)?"):
        kl_soap(0.1, init_factor=0.0)


# The source of the golden trajectory, and our arguments for its settings.


def beside_vectors(code, params, settings):
    from soap import SOAP

    return EachLayer(code, params, settings, SOAP)


SOURCES = {
    "kl_soap": parity.Case(
        title="KL-SOAP",
        code="optim.kl_opt.KLOpt",
        home="github:yorkerlin/KL-Methods",
        paper="Lin et al., [2509.03378](https://arxiv.org/abs/2509.03378)",
        settings={
            "betas": [0.9, 0.98],
            "eps": 1e-8,
            "weight_decay": 0.0,
            "precondition_frequency": 3,
            "using_klsoap": True,
            "init_factor": 0.1,
            "cast_dtype": "torch.float64",
        },
        make=beside_vectors,
        step=in_float64,
        note=f"{FIRST_FACTORS} Vectors, which the source refuses, are SOAP's without bias correction.",
        ours=lambda rate, s: ours(kl_soap, rate, s),
    ),
}
