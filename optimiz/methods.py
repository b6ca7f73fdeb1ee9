"""The table of methods: what is known of every optimizer of the suite, in one row each.

The contract, the records of parity and memory, the benchmark of updates, the command lines of the examples and
the tables of the documentation are derived from :data:`METHODS`. What a signature or a docstring already says
is read from there; a row holds the rest. A new method is a new row.
"""

import dataclasses
import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import optax

from optimiz import checks, groups, numerics, optimizers
from optimiz.primitives.scale_by_groups import scale_by_groups

Kind = Literal["rate", "line search", "second order"]
"""What a method takes, see :attr:`Method.kind`."""

FINE_TUNING_RATES = (
    "one run each of 50 updates on the topics of sentences from Python's documentation, from rates half a "
    "decade apart, by validation loss (examples/studies/default_rates); those of adamw, its next of kin and "
    "lion from runs of 150 larger batches, as finetune_text trains by default, in which the best rate is half "
    "a decade lower (adam and nadam as adamw and nadamw); those of sgd, sgd_sai, sign_sgd and signum by longer "
    "runs, which agree"
)
"""How the rates for fine-tuning in :data:`METHODS` were chosen."""

FROM_SCRATCH_RATES = (
    "one run each of 150 steps of a GPT-2 of two layers and width 64, from rates half a decade apart, and "
    "taken half a decade below the best (examples/studies/default_rates), as the best rate falls by that or "
    "more to a model of nine million parameters (examples/studies/language_model); those of lion, sgd, "
    "sgd_sai, sign_sgd, signum and sophia_g are the best themselves"
)
"""How the rates from scratch in :data:`METHODS` were chosen."""

# By the name of an argument, a value that every method with that argument refuses.
_REFUSED: dict[str, Any] = {
    "b1": 1.0,
    "b2": -0.1,
    "beta": 1.0,
    "c": 1.0,
    "classes": 1,
    "clipping_threshold": -1.0,
    "decay": "L2",
    "decay_coupling": "rate",
    "decay_rate": -1.0,
    "eps": -1e-8,
    "eps_root": -1.0,
    "every": 0,
    "gamma": -1.0,
    "initial_accumulator_value": -1.0,
    "max_step": 0.0,
    "max_trials": 0,
    "min_norm": -1.0,
    "min_rms": 0.0,
    "mode": "soft",
    "r": -1.0,
    "momentum": 1.0,
    "normalize": "mean",
    "others": "all",
    "shrink": 1.0,
    "together": -1,
    "trust": "mean",
    "update_interval": 0,
    "warmup_steps": -1,
    "weight_decay": -1.0,
    "weight_lr_power": -1.0,
}
_LOSS = ("value", "grad", "value_fn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """One method of the suite.

    Attributes:
        factory: the public function that makes the optimizer; its name is the method's.
        paper: where the method is published, as Markdown; empty for a baseline.
        avoid: when not to use the method, in a phrase that completes "not".
        needs: keyword arguments that ``update`` must be offered beside the parameters: ``value``, ``grad`` and
            ``value_fn`` for a line search, ``logits_fn`` or ``obj_fn`` for an estimate of the curvature.
        settings: keyword arguments that the method is meant to be called with and that are not its defaults.
        beside: further learning rates that the method needs, by the names of their arguments, as multiples of
            the learning rate, at which programs run it.
        fine_tuning_rate: peak learning rate for fine-tuning, chosen as :data:`FINE_TUNING_RATES` says; None
            for a line search.
        from_scratch_rate: peak learning rate for a model that begins from random parameters, chosen as
            :data:`FROM_SCRATCH_RATES` says; None for a line search.
        refused: keyword arguments outside their domains, each refused on its own, beyond those that several
            methods share.
        solves: arguments by which the method solves a small quadratic within 200 steps while its learning rate
            decays to zero: the learning rate, or the first step size of a line search, if it is not 0.02; and
            settings.
        constant_rate: whether the learning rate is meant to stay constant after its warm-up.
        torch: name and keyword arguments of PyTorch's class for the same method; None where there is none.
        read_before: number of arrays of the parameters' size that must be read before the first entry of a step
            is known, because norms or means are taken of them.
        sums_over_gradient: sums are taken over the gradient as it arrives. Behind another transformation, such
            as a clip, a copy of the gradient is then held in memory, unless
            ``optimiz.low_memory_update`` is around both.
        held_bytes: bytes for each float32 parameter that XLA holds on a CPU during an update, where that cannot
            be avoided, such as for an array of the state that the gradient itself replaces.
    """

    factory: Callable[..., optax.GradientTransformationExtraArgs]
    paper: str
    avoid: str
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: Mapping[str, float] = dataclasses.field(default_factory=dict)
    fine_tuning_rate: float | None = None
    from_scratch_rate: float | None = None
    refused: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    solves: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    constant_rate: bool = False
    torch: tuple[str, Mapping[str, Any]] | None = None
    read_before: int = 0
    sums_over_gradient: bool = False
    held_bytes: float = 0.0

    @property
    def name(self) -> str:
        """Name of the factory, by which a command line calls the method."""
        return self.factory.__name__

    @property
    def page(self) -> str:
        """Name of its page in ``optimiz/optimizers``, which may hold several methods."""
        return self.factory.__module__.rpartition(".")[2]

    @property
    def summary(self) -> str:
        """The method in one line, the first of the factory's documentation."""
        return (inspect.getdoc(self.factory) or self.name).partition("\n")[0]

    @property
    def kind(self) -> Kind:
        """Whether it takes a learning rate and nothing else, searches for one, or estimates the curvature."""
        if "value_fn" in self.needs:
            return "line search"
        return "second order" if self.needs else "rate"

    @property
    def rate_argument(self) -> str:
        """Name of the argument that the learning rate is; of a line search, that of its first step size."""
        return "init_step" if self.kind == "line search" else "learning_rate"

    @property
    def optax_twin(self) -> Callable[..., optax.GradientTransformation] | None:
        """The function of that name in ``optax``, whose arguments the factory takes too; None without one."""
        return getattr(optax, self.name, None)

    @property
    def solving_rate(self) -> float:
        """The learning rate, or the first step size of a line search, in ``solves``."""
        return self.solves.get(self.rate_argument, 0.02)

    @property
    def solving_settings(self) -> dict[str, Any]:
        """The keyword arguments that go with it."""
        given = {**self.settings, **self.solves}
        given.pop(self.rate_argument, None)
        return given

    @property
    def required(self) -> set[str]:
        """Names of the arguments without a default, but for learning rates."""
        parameters = inspect.signature(self.factory).parameters.values()
        return {p.name for p in parameters if p.default is p.empty} - {self.rate_argument, *self.beside}

    @property
    def bad_arguments(self) -> dict[str, Any]:
        """Keyword arguments outside their domains; the factory refuses each on its own."""
        shared = {name: value for name, value in _REFUSED.items() if self.takes(name)}
        return shared | dict(self.refused)

    def takes(self, argument: str) -> bool:
        """Whether the factory has an argument of that name."""
        return argument in inspect.signature(self.factory).parameters

    def at(self, learning_rate: optax.ScalarOrSchedule, **given: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer at a learning rate, and at the rates that go with it.

        Args:
            learning_rate: a number or a schedule.
            **given: further arguments of the factory.

        Raises:
            TypeError: the rate is neither, or as for the factory.
            ValueError: the rate is NaN, infinite or negative, or as for the factory.

        Example:
            >>> import jax.numpy as jnp
            >>> from optimiz import hyperparams
            >>> params = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
            >>> state = METHODS["muonh"].at(0.75).init(params)
            >>> float(hyperparams(state)["adamw/learning_rate"])
            0.125
        """
        checks.schedule("learning_rate", learning_rate)
        beside = {name: _multiple(share, learning_rate) for name, share in self.beside.items()}
        return self.factory(learning_rate, **beside | given)

    def build(
        self,
        learning_rate: optax.ScalarOrSchedule | None = None,
        *,
        weight_decay: optax.ScalarOrSchedule | None = None,
        mask: Any | Callable[[optax.Params], Any] | None = None,
        multipliers: Any | Callable[[optax.Params], Any] | None = None,
        classes: int | None = None,
        scanned: Mapping[str, int] | None = None,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer, by arguments that mean the same for every method.

        Args:
            learning_rate: a number or a schedule; for a line search that can shorten its steps, a schedule of
                the share of the step size that is taken.
            weight_decay: λ ≥ 0, decoupled; None for the method's default.
            mask: which parameters decay, see ``optimiz.adamw``; None for the method's default.
            multipliers: of the step size, by parameter, see ``optimiz.scale_by_groups``; None for none.
            classes: number of classes that the logits tell apart, for a method that draws labels from them.
            scanned: axis along which layers are stacked, by pattern of path, for a method that has to know.

        Returns:
            The optimizer, with the row's settings.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: it is outside its domain, or the method does not take it.

        Example:
            >>> import jax.numpy as jnp
            >>> tx = METHODS["signum"].build(0.5, weight_decay=0.0, multipliers=0.1)
            >>> updates, _ = tx.update(jnp.array(3.0), tx.init(jnp.array(1.0)), jnp.array(1.0))
            >>> round(float(updates), 3)  # -0.1 × 0.5 × sign(3)
            -0.05
        """
        searches = self.kind == "line search"
        asked = {
            "decay" if searches else "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "weight_decay_mask": mask,
            "multipliers": multipliers,
            "classes": classes,
            "scanned": scanned,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        after = None if self.takes("multipliers") or searches else given.pop("multipliers", None)
        if not self.takes("classes"):
            given.pop("classes", None)
        for name in given:
            if not self.takes(name):
                raise ValueError(f"{self.name} takes no {name}, got {name}={given[name]!r}")
        rate = given.pop("learning_rate", None) if self.beside else None
        made = self.factory if rate is None else functools.partial(self.at, rate)
        tx = made(**{**self.settings, **given})
        return tx if after is None else optax.chain(tx, scale_by_groups(after))


def _multiple(share: float, rate: optax.ScalarOrSchedule) -> optax.ScalarOrSchedule:
    return (lambda count: share * rate(count)) if callable(rate) else share * rate


def find(name: str) -> Method:
    """The method of that name.

    Args:
        name: one of :data:`METHODS`.

    Returns:
        Its row.

    Raises:
        ValueError: there is none; the message offers the nearest names.

    Example:
        >>> find("adamw").kind
        'rate'
    """
    if name in METHODS:
        return METHODS[name]
    raise ValueError(f"optimizer {name!r} is unknown: {nearest(name, METHODS)}there are {', '.join(METHODS)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name.

    Args:
        name: the name that is unknown.
        known: the names there are.

    Returns:
        A question that ends in a space, empty if no known name is near.

    Example:
        >>> nearest("adawm", ["adam", "adamw", "sgd"])
        'did you mean adamw or adam? '
    """
    asked = name.lower()

    def likeness(other: str) -> float:  # two letters that changed places still count
        pairs = ((asked, other), (sorted(asked), sorted(other)))
        return sum(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs) / 2

    near = sorted((other for other in known if likeness(other) > 0.6), key=likeness, reverse=True)[:2]
    return f"did you mean {' or '.join(near)}? " if near else ""


_ADAM = "Kingma and Ba, [1412.6980](https://arxiv.org/abs/1412.6980)"
_ADAMW = "Loshchilov and Hutter, [1711.05101](https://arxiv.org/abs/1711.05101)"
_DOZAT = "Dozat (ICLR workshop 2016)"
_BERNSTEIN = "Bernstein et al., [1802.04434](https://arxiv.org/abs/1802.04434)"
_SOPHIA = "Liu et al., [2305.14342](https://arxiv.org/abs/2305.14342)"
_SLS = "Kenneweg et al., [2403.18506](https://arxiv.org/abs/2403.18506)"
_SCHEDULE_FREE = "Defazio et al., [2405.15682](https://arxiv.org/abs/2405.15682)"
_REFUSED_BY_SOAP = {
    "shampoo_beta": 1.0,
    "precondition_frequency": 0,
    "max_precond_dim": -1,
    "matrices": {"kernel": True},
}
_SALSA = "Kenneweg, Kenneweg and Hammer, [2407.20650](https://arxiv.org/abs/2407.20650)"
_HYPERBALL = "[2606.16899](https://arxiv.org/abs/2606.16899) (Hyperball)"

_REFUSED_BESIDE_ADAMW = {
    "adam_learning_rate": -1.0,
    "adam_b1": 1.0,
    "adam_b2": 1.0,
    "adam_eps": -1.0,
    "matrices": {"kernel": True},
}
_REFUSED_BY_MUON = _REFUSED_BESIDE_ADAMW | {"newton_schulz": "polar", "ns_dtype": "int8"}
# AdamW's rate from scratch, 3e-3, beside the author's angle, 0.018.
_BESIDE_AN_ANGLE = {"adam_learning_rate": 1 / 6}

_ROWS = (
    Method(
        factory=optimizers.adafactor,
        avoid="where AdamW's state fits: it keeps a second moment of rank one",
        paper="Shazeer and Stern, [1804.04235](https://arxiv.org/abs/1804.04235)",
        fine_tuning_rate=1e-2,
        from_scratch_rate=0.03,
        solves={"learning_rate": 0.05},
        torch=("Adafactor", {}),
        read_before=3,
        sums_over_gradient=True,
    ),
    Method(
        factory=optimizers.adagrad,
        avoid="for long runs: its steps only become shorter",
        paper="Duchi, Hazan and Singer (JMLR 12, 2011)",
        fine_tuning_rate=1e-3,
        from_scratch_rate=0.03,
        solves={"learning_rate": 0.3},
        torch=("Adagrad", {}),
    ),
    Method(
        factory=optimizers.adam,
        avoid="with weight decay: take adamw",
        paper=_ADAM,
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
        torch=("Adam", {}),
    ),
    Method(
        factory=optimizers.adam_atan2,
        avoid="where ε does no harm: it changes nothing else",
        paper="Everett et al., [2407.05872](https://arxiv.org/abs/2407.05872)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
        refused={"a": 0.0, "b": 0.0},
    ),
    Method(
        factory=optimizers.adam_mini,
        avoid="where AdamW's state fits, which it approximates",
        paper="Zhang et al., [2406.16793](https://arxiv.org/abs/2406.16793)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-3,
        read_before=1,
        sums_over_gradient=True,
    ),
    Method(
        factory=optimizers.adam_sls,
        avoid="where a good rate is known, or forward passes are dear",
        paper=_SLS,
        needs=_LOSS,
    ),
    Method(
        factory=optimizers.adamax,
        avoid="but to reproduce older runs",
        paper=_ADAM,
        fine_tuning_rate=3e-4,
        from_scratch_rate=1e-3,
        torch=("Adamax", {}),
    ),
    Method(
        factory=optimizers.adamaxw,
        avoid="but to reproduce older runs",
        paper=f"{_ADAM}; {_ADAMW}",
        fine_tuning_rate=3e-4,
        from_scratch_rate=1e-3,
    ),
    Method(
        factory=optimizers.adamh,
        avoid="for LoRA, or without norms around the matrices",
        paper=_HYPERBALL,
        beside=_BESIDE_AN_ANGLE,
        fine_tuning_rate=1e-3,
        from_scratch_rate=0.1,
        refused=_REFUSED_BESIDE_ADAMW,
        read_before=4,
    ),
    Method(
        factory=optimizers.adamw,
        avoid="where 8 bytes of state per parameter do not fit",
        paper=_ADAMW,
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
        torch=("AdamW", {}),
    ),
    Method(
        factory=optimizers.adan,
        avoid="where state has to fit: 16 bytes per parameter",
        paper="Xie et al., [2208.06677](https://arxiv.org/abs/2208.06677)",
        fine_tuning_rate=3e-4,
        from_scratch_rate=1e-2,
        refused={"b3": 1.0},
        held_bytes=6.0,
    ),
    Method(
        factory=optimizers.ademamix,
        avoid="for short runs: its slow average spans some 10,000 steps",
        paper="Pagliardini, Ablin and Grangier, [2409.03137](https://arxiv.org/abs/2409.03137)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
        refused={"b3": 1.0, "alpha": -1.0},
    ),
    Method(
        factory=optimizers.amsgrad,
        avoid="but to reproduce older runs: it keeps 4 bytes more than AdamW",
        paper="Reddi, Kale and Kumar (ICLR 2018)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
        torch=("Adam", {"amsgrad": True}),
    ),
    Method(
        factory=optimizers.armijo_sgd,
        avoid="where SGD does not train the model, or forward passes are dear",
        paper="Vaswani et al., [1905.09997](https://arxiv.org/abs/1905.09997)",
        needs=_LOSS,
        solves={"init_step": 0.2},
    ),
    Method(
        factory=optimizers.kl_soap,
        avoid="with small batches, little memory, or to fine-tune",
        paper="Lin et al., [2509.03378](https://arxiv.org/abs/2509.03378)",
        fine_tuning_rate=3e-4,
        from_scratch_rate=3e-3,
        refused=_REFUSED_BY_SOAP | {"init_factor": 0.0},
        held_bytes=101.0,
        solves={"max_precond_dim": 3},
    ),
    Method(
        factory=optimizers.lamb,
        avoid="without very large batches, which it is made for",
        paper="You et al., [1904.00962](https://arxiv.org/abs/1904.00962)",
        fine_tuning_rate=3e-3,
        from_scratch_rate=1e-2,
        solves={"learning_rate": 0.1},
        read_before=3,
    ),
    Method(
        factory=optimizers.lars,
        avoid="for Transformers: it is made for convolutions in very large batches",
        paper="You, Gitman and Ginsburg, [1708.03888](https://arxiv.org/abs/1708.03888)",
        fine_tuning_rate=0.3,
        from_scratch_rate=3.0,
        solves={"learning_rate": 1.0, "trust_coefficient": 0.1},
        read_before=2,
        sums_over_gradient=True,
    ),
    Method(
        factory=optimizers.lion,
        avoid="at AdamW's rate: its own is about a third",
        paper="Chen et al., [2302.06675](https://arxiv.org/abs/2302.06675)",
        fine_tuning_rate=3e-5,
        from_scratch_rate=1e-3,
    ),
    Method(
        factory=optimizers.mars,
        avoid="to fine-tune, or where 12 bytes per parameter do not fit",
        paper="Yuan et al., [2411.10438](https://arxiv.org/abs/2411.10438)",
        fine_tuning_rate=3e-4,
        from_scratch_rate=3e-3,
        read_before=1,
        sums_over_gradient=True,
        held_bytes=8.0,
    ),
    Method(
        factory=optimizers.momentum_sls,
        avoid="where a good rate is known, or forward passes are dear",
        paper="Kenneweg, Kenneweg and Hammer, [2403.18519](https://arxiv.org/abs/2403.18519)",
        needs=_LOSS,
    ),
    Method(
        factory=optimizers.muon,
        avoid="to fine-tune what AdamW has pre-trained",
        paper="Jordan et al., [KellerJordan/Muon](https://github.com/KellerJordan/Muon); Liu et al., "
        "[2502.16982](https://arxiv.org/abs/2502.16982)",
        from_scratch_rate=1e-2,
        # The scale by which one learning rate suits all parameters.
        settings={"scale": numerics.matrix_scales.match_adam()},
        fine_tuning_rate=3e-4,
        refused=_REFUSED_BY_MUON | {"scale": "keller"},
        held_bytes=8.0,
        # What equals to rounding is compared in float32.
        solves={"ns_dtype": "float32", "learning_rate": 0.2},
    ),
    Method(
        factory=optimizers.muonh,
        avoid="for LoRA, or without norms around the matrices",
        paper=_HYPERBALL,
        beside=_BESIDE_AN_ANGLE,
        fine_tuning_rate=3e-3,
        from_scratch_rate=0.1,
        refused=_REFUSED_BY_MUON,
        held_bytes=8.0,
        solves={"ns_dtype": "float32"},
    ),
    Method(
        factory=optimizers.nadam,
        avoid="with weight decay: take nadamw",
        paper=_DOZAT,
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-3,
        torch=("NAdam", {}),
    ),
    Method(
        factory=optimizers.nadamw,
        avoid="in the hope of a gain over AdamW: none was measured",
        paper=f"{_DOZAT}; {_ADAMW}",
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-3,
        torch=("NAdam", {"decoupled_weight_decay": True}),
    ),
    Method(
        factory=optimizers.normuon,
        avoid="to fine-tune what AdamW has pre-trained",
        paper="Li et al., [2510.05491](https://arxiv.org/abs/2510.05491)",
        from_scratch_rate=1e-2,
        settings={"scale": numerics.matrix_scales.match_adam()},
        fine_tuning_rate=3e-4,
        refused=_REFUSED_BY_MUON | {"scale": "keller"},
        held_bytes=8.0,
        solves={"ns_dtype": "float32", "learning_rate": 0.2},
    ),
    Method(
        factory=optimizers.pla_sls,
        avoid="where a good rate is known, or forward passes are dear",
        paper=_SLS,
        needs=_LOSS,
        settings={"units": groups.search_units()},
    ),
    Method(
        factory=optimizers.prodigy,
        avoid="where a good rate is known, for a few dozen steps, or where 16 bytes do not fit",
        paper="Mishchenko and Defazio, [2306.06101](https://arxiv.org/abs/2306.06101)",
        fine_tuning_rate=1.0,  # a factor of the step length that it estimates
        from_scratch_rate=1.0,
        refused={"b3": 1.0, "d0": 0.0, "d_coef": 0.0, "growth_rate": 0.5},
        solves={"learning_rate": 1.0, "d0": 1e-3},
        read_before=3,
        sums_over_gradient=True,
        held_bytes=2.0,
    ),
    Method(
        factory=optimizers.rmsprop,
        avoid="where the first steps must be short: it corrects no bias",
        paper="Hinton, lecture 6e (2012)",
        fine_tuning_rate=3e-4,
        from_scratch_rate=3e-3,
        torch=("RMSprop", {}),
    ),
    Method(
        factory=optimizers.salsa,
        avoid="where a good rate is known, or forward passes are dear",
        paper=_SALSA,
        needs=_LOSS,
        solves={"expand": None},
    ),
    Method(
        factory=optimizers.salsa_class,
        avoid="but to reproduce released code: take salsa",
        paper=_SALSA,
        needs=_LOSS,
    ),
    Method(
        factory=optimizers.salsa_packaged,
        avoid="but to reproduce released code: take salsa",
        paper=_SALSA,
        needs=_LOSS,
    ),
    Method(
        factory=optimizers.schedule_free_adamw,
        avoid="where the length of the run is known: let a rate decay",
        paper=_SCHEDULE_FREE,
        fine_tuning_rate=3e-4,
        from_scratch_rate=1e-3,
        constant_rate=True,
        held_bytes=4.0,  # the direction, which two results share
    ),
    Method(
        factory=optimizers.schedule_free_sgd,
        avoid="where the length of the run is known: let a rate decay",
        paper=_SCHEDULE_FREE,
        fine_tuning_rate=0.03,
        from_scratch_rate=0.3,
        constant_rate=True,
    ),
    Method(
        factory=optimizers.sgd,
        avoid="for Transformers, unless its rate was tuned for the model",
        paper="Robbins and Monro (1951); Polyak (1964)",
        settings={"momentum": 0.9},
        fine_tuning_rate=3e-3,
        from_scratch_rate=0.1,
        torch=("SGD", {"momentum": 0.9}),
    ),
    Method(
        factory=optimizers.sgd_sai,
        avoid="where the scales of gradients change in training: it fixes them at the first step",
        paper="Xu et al., [2412.11768](https://arxiv.org/abs/2412.11768)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-2,
        sums_over_gradient=True,
    ),
    Method(
        factory=optimizers.sign_sgd,
        avoid="with small batches: the signs of noisy gradients are noise",
        paper=_BERNSTEIN,
        fine_tuning_rate=2e-4,
        from_scratch_rate=3e-3,
    ),
    Method(
        factory=optimizers.signum,
        avoid="to fine-tune at AdamW's rate: its own is about half",
        paper=_BERNSTEIN,
        fine_tuning_rate=5e-5,
        from_scratch_rate=3e-3,
    ),
    Method(
        factory=optimizers.soap,
        avoid="with small batches, little memory, or to fine-tune",
        paper="Vyas et al., [2409.11321](https://arxiv.org/abs/2409.11321)",
        fine_tuning_rate=3e-4,
        from_scratch_rate=3e-3,
        refused=_REFUSED_BY_SOAP,
        held_bytes=105.0,  # stacks of matrices, of factors and of bases
        # One gradient does not determine the basis of its longer side, nor then what two programs make of it.
        solves={"max_precond_dim": 3},
    ),
    Method(
        factory=optimizers.sophia_g,
        avoid="without logits of classes, or where its rate cannot be tuned",
        paper=_SOPHIA,
        needs=("logits_fn",),
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-3,
    ),
    Method(
        factory=optimizers.sophia_h,
        avoid="where products with the Hessian are dear",
        paper=_SOPHIA,
        needs=("obj_fn",),
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-4,
    ),
    Method(
        factory=optimizers.sqrt_size_sgd,
        avoid="but as a control for sgd_sai",
        paper="",
        fine_tuning_rate=1e-4,
        from_scratch_rate=3e-3,
    ),
    Method(
        factory=optimizers.stable_adamw,
        avoid="without loss spikes",
        paper="Wortsman et al., [2304.13013](https://arxiv.org/abs/2304.13013)",
        fine_tuning_rate=1e-4,
        from_scratch_rate=1e-3,
        refused={"clip_rms": 0.0},
        read_before=2,
        sums_over_gradient=True,
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ROWS}
"""Every method by its name, in alphabetical order."""
