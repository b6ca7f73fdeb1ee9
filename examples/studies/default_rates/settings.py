"""The settings in which default rates are measured, each with what a trainer does by default."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optax

from examples.data import corpus, docstrings, tokenization
from examples.models import pretrained
from examples.shared import optimizers
from examples.shared.budget_arms import HEAD_RATE
from examples.shared.train_each import Plan
from examples.tasks.objectives import Size, causal
from examples.tasks.pretraining import EVALUATION_ROWS, Pretraining
from examples.tasks.text_classification import TextClassification
from optimiz import compare, methods, training


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and how.

    Attributes:
        what: what is trained, in words.
        plan: how a trainer runs an optimizer; its learning rate is replaced.
        multipliers: parameters → multipliers of the rate.
        middle: log10 of the middle of the grids with which a search begins.
        others: the same of optimizers whose steps have another scale.
        problem: makes the task and its model, and says how many examples it is validated on.
        classes: number of classes of the logits.
    """

    what: str
    plan: Plan
    multipliers: Callable[[Any], Any]
    middle: float
    others: Mapping[str, float]
    problem: Callable[[], tuple[TextClassification | Pretraining, int]]
    classes: int

    @property
    def names(self) -> list[str]:
        """Every optimizer that takes a learning rate; Prodigy's is a factor of the one that it estimates."""
        return [name for name, method in methods.METHODS.items() if method.kind != "line search"]

    @property
    def from_scratch(self) -> bool:
        """Whether training begins from random parameters."""
        return self.multipliers is optimizers.one_rate

    def choice(self, name: str) -> optimizers.Choice:
        """An optimizer as a trainer takes it."""
        return optimizers.choose(name, from_scratch=self.from_scratch, classes=self.classes)

    def arms(self, name: str) -> list[compare.Arm]:
        """The grid with which the search for an optimizer's rate begins: three rates, half decades apart."""
        middle = self.others.get(name, self.middle)
        make = functools.partial(_make, self, name)  # one for all rates, which then share a compiled step
        return [compare.Arm(name, float(f"{10 ** (middle + step):.3g}"), make) for step in (-0.5, 0.0, 0.5)]


def _make(setting: Setting, name: str, rate: float) -> optax.GradientTransformation:
    plan = dataclasses.replace(setting.plan, learning_rate=rate)
    return plan.optimizer(setting.choice(name), setting.multipliers)[0]


def _plan(*, steps: int, batch_size: int, weight_decay: float, schedule: str) -> Plan:
    return Plan(
        training.Settings(steps=steps),
        batch_size,
        learning_rate=None,
        warmup=0.1,
        weight_decay=weight_decay,
        output=Path(),
        resume=False,
        schedule=schedule,
    )


def _encoder() -> tuple[TextClassification, int]:
    parts, model = docstrings.load_split(), pretrained.find(None)
    problem = TextClassification(parts, model, length=16, dropout=0.1, pooling="mean")
    return problem, len(parts["validation"].texts)


def _gpt2() -> tuple[Pretraining, int]:
    parts = corpus.split(corpus.standard_library(), {"train": 0.9, "validation": 0.1})
    sample = parts["train"].sample
    vocabulary = tokenization.choose(tokenization.BPE, "causal", _VOCABULARY, sample, kept=None)
    problem = Pretraining(parts, vocabulary, causal(vocabulary, Size(2, 64, 4, 64, dropout=0.0)))
    return problem, min(len(problem.rows["validation"]), EVALUATION_ROWS)


_VOCABULARY = 2048
_TOPICS = "MiniLM-L6 on topics of Python's documentation"
LONGER = "longer_fine_tuning"
_FINE_TUNING = Setting(
    what=_TOPICS + ", as `finetune_text` fine-tunes it",
    plan=_plan(steps=50, batch_size=16, weight_decay=0.01, schedule="linear"),
    multipliers=optimizers.head_multipliers(HEAD_RATE),
    middle=-3.5,
    others={
        **dict.fromkeys(
            ("lion", "rmsprop", "sgd_sai", "sign_sgd", "sophia_g", "sophia_h", "sqrt_size_sgd"), -4.0
        ),
        **dict.fromkeys(("adagrad", "lamb", "muon", "normuon"), -3.0),
        **dict.fromkeys(("adamh", "muonh", "sgd"), -2.5),
        **{"adafactor": -2.0, "lars": -1.0, "prodigy": 0.0, "schedule_free_sgd": -1.5, "signum": -4.5},
    },
    problem=_encoder,
    classes=len(docstrings.TOPICS),
)
SETTINGS = {
    "fine_tuning": _FINE_TUNING,
    LONGER: dataclasses.replace(
        _FINE_TUNING,
        what=_TOPICS + ", as long as `finetune_text` trains by default",
        plan=_plan(steps=150, batch_size=32, weight_decay=0.01, schedule="linear"),
        middle=-4.0,
        others={
            **_FINE_TUNING.others,
            **dict.fromkeys(("lion", "sgd_sai", "sign_sgd", "sqrt_size_sgd"), -4.5),
            **dict.fromkeys(("adagrad", "adamax", "adamaxw", "muon", "normuon"), -3.5),
        },
    ),
    "from_scratch": Setting(
        what="a GPT-2 of two layers and width 64 on Python's library, as `pretrain` trains it",
        plan=_plan(steps=150, batch_size=8, weight_decay=0.1, schedule="cosine"),
        multipliers=optimizers.one_rate,
        middle=-2.5,
        others={
            **dict.fromkeys(("lion", "rmsprop", "signum", "sophia_g", "sophia_h"), -3.0),
            **dict.fromkeys(("adagrad", "adamh", "lamb", "muonh", "normuon", "sgd_sai", "sqrt_size_sgd"), -2.0),
            **{"lars": 0.0, "prodigy": 0.0, "schedule_free_sgd": 0.0, "sgd": -1.0},
        },
        problem=_gpt2,
        classes=_VOCABULARY,
    ),
}
