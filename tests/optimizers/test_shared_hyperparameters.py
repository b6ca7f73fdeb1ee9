"""A hyperparameter that several optimizers share is documented in one wording.

``help`` of each optimizer is complete by itself, so the wording is repeated there; this page is where to change
it.
"""

import inspect
import re

import pytest

from optimiz import optimizers

SECOND_MOMENT = "dtype of the second moment; None for the parameters' dtype, at least float32."
ROOT = "ε ≥ 0, added to the root of the second moment."

# An entry begins with these words and may go on.
WORDING = {
    "learning_rate": "learning rate η ≥ 0, a number or a schedule of the 0-based update count",
    "b1": "β₁ in [0, 1), decay rate of ",  # whose average it is differs
    "b2": "β₂ in [0, 1), decay rate of ",
    "eps": ROOT,
    "eps_root": "ε_root ≥ 0, added to the second moment under the root.",
    "momentum": "μ in [0, 1), decay rate of the momentum",
    "nesterov": "whether to use Nesterov's momentum",
    "weight_decay": "decoupled weight decay λ ≥ 0, a number or a schedule",
    "weight_decay_mask": "mask of the parameters that decay, such as ``groups.no_decay()``;",
    "decay_coupling": "how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.",
    "scanned": 'axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``;',
    "mu_dtype": "dtype of the first moment; None for the parameters' dtype.",
    "nu_dtype": SECOND_MOMENT,
    "c": "c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.",
    "init_step": "initial step size η > 0.",
    "shrink": "factor in (0, 1) for a step size that is rejected.",
    "growth": "factor ≥ 1 for the step size before each search",
    "max_trials": "maximum number of forward passes per search, ≥ 1.",
    "max_step": "largest step size, > 0.",
    "tolerance": "rounding error of the loss that the search allows for, ≥ 0, in units in the last place.",
}
WORDING["mask"] = WORDING["weight_decay_mask"]
ALIAS = "alias of ``mask``, under the name that all optimizers share."

# Where one means something else. A moment by another name: what Lion, Sophia and SGD-SaI keep is a momentum.
DEPARTURES = {
    "decay_coupling": {"prodigy"},  # with the distance
    "learning_rate": {"prodigy", "scale_by_prodigy"},  # a factor of it
    "b1": {"lion", "scale_by_lion", "schedule_free_adamw", "schedule_free_sgd"},
    "eps": {
        "adafactor",  # added to the squared gradient
        "adagrad",
        "adamax",
        "adamaxw",
        "lars",
        "prodigy",  # times the distance
        "rmsprop",
        "scale_by_adamax",
        "scale_by_factored_rms",
        "scale_by_prodigy",
        "scale_by_rms",
        "scale_by_rss",
        "sgd_sai",
        "sophia_g",
        "sophia_h",
    },
    "mu_dtype": {
        "lion",
        "muon",
        "muonh",
        "normuon",
        "scale_by_lion",
        "sgd_sai",
        "sophia_g",
        "sophia_h",
        "sqrt_size_sgd",
    },
    "nu_dtype": {
        "adafactor",
        "adamax",
        "adamaxw",
        "amsgrad",
        "rmsprop",
        "scale_by_adamax",
        "scale_by_amsgrad",
        "scale_by_factored_rms",
        "scale_by_rms",
        "sophia_g",
        "sophia_h",
    },
    "weight_decay": {"adafactor", "lars"},  # an alias; part of the gradient
}

OPTIMIZERS = {
    name: inspect.getdoc(function)
    for name, function in vars(optimizers).items()
    if inspect.isfunction(function)
}


def entries(documentation):
    """The entries of the section Args, by name."""
    section = re.search(r"^Args:\n(.*?)\n\n", documentation + "\n\n", flags=re.M | re.S)
    found = re.findall(r"^    (\w+): (.*?)(?=\n    \w|\Z)", section[1], flags=re.M | re.S)
    return {name: " ".join(text.split()) for name, text in found}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_documents_every_argument(name):
    assert list(entries(OPTIMIZERS[name])) == list(inspect.signature(getattr(optimizers, name)).parameters)


@pytest.mark.parametrize("hyperparameter", WORDING)
def test_is_documented_in_one_wording(hyperparameter):
    texts = {
        name: entries(doc)[hyperparameter] for name, doc in OPTIMIZERS.items() if hyperparameter in entries(doc)
    }
    others = {name for name, text in texts.items() if not text.startswith((WORDING[hyperparameter], ALIAS))}
    assert others == DEPARTURES.get(hyperparameter, set()), {name: texts[name] for name in others}
