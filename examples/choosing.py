"""What the committed records say of choosing an optimizer: by task, by memory, by tuning, and of all methods.

The tables are those of ``docs/which_optimizer.md``; the site draws its pictures from the same rows.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from examples.shared import markdown
from examples.studies.default_rates.report import Results as DefaultRates
from examples.studies.language_model import report as language_model
from examples.studies.line_search import report as line_search
from examples.studies.pretraining import report as pretraining
from optimiz import compare, methods

MODEL = "GPT-2 1.5B"  # of the memory record: whose state is compared
SMALL = "GPT-2 124M"
DEVICES = {"24 GB": 24e9, "80 GB": 80e9, "8 × 16 GB": 128e9, "141 GB": 141e9}
SHARE = 0.75  # of devices, for parameters, gradients and state; the rest is for activations
PLANNED = "gpt2-xl on h200"
PLANNED_STEP = "gpt2, 8 × 1,024 tokens, on h200"
UNMEASURED = "not measured"

_OPTIMIZERS = ("lion", "sophia_g", "sgd_sai")  # of the study of pre-training, the recipes that are optimizers
_FORMS = {  # name → (method, format of its state, bytes of a parameter)
    "adamw": ("adamw", "float32", 4),
    "adam_mini": ("adam_mini", "float32", 4),
    "lion": ("lion", "float32", 4),
    "muon": ("muon", "float32", 4),
    "adafactor": ("adafactor", "float32", 4),
    "adamw, state in Int8": ("adamw", "Int8", 4),
    "lion, state in Int8": ("lion", "Int8", 4),
    "adamw, state in Int4": ("adamw", "Int4", 4),
    "adamw, bfloat16 rounded stochastically, state in Int8": ("adamw", "Int8", 2),
    "lion, bfloat16 rounded stochastically, state in Int8": ("lion", "Int8", 2),
    "soap": ("soap", "float32", 4),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a method did next to Adam or AdamW in one study.

    Attributes:
        study: what was trained.
        metric: metric on held-out examples, with its direction.
        baseline: the method that it is compared with, and its rate.
        method: the method, and its rate.
        difference: paired difference of the metric over seeds.
        sign: 1 if more is better, or -1.
    """

    study: str
    metric: str
    baseline: str
    method: str
    difference: compare.Difference
    sign: int

    @property
    def verdict(self) -> str:
        """Whether seeds tell the two apart."""
        if not self.difference.significant:
            return "not told apart"
        return "better" if self.sign * self.difference.mean > 0 else "worse"


def outcomes(
    fine_tuning: compare.Record,
    pre_training: compare.Record,
    language: compare.Record,
    searches: Mapping[str, compare.Record],
) -> Iterator[Outcome]:
    """The outcomes of the committed studies.

    Args:
        fine_tuning: record of ``examples.compare_optimizers``.
        pre_training: record of the study of pre-training.
        language: record of the study of a language model.
        searches: records of the study of line searches, by data.
    """
    metric = "accuracy"
    sign = int(fine_tuning.sign(metric))
    found = {method.name: method for method in compare.by_method(fine_tuning, metric)}
    base = found.pop("adamw")
    for method in found.values():
        yield Outcome(
            f"MiniLM-L6 on the order of words, {fine_tuning.settings['budget']:g} s of reference time",
            f"{metric} {compare.arrow(metric)}",
            _at("adamw", base.rate),
            _at(method.name, method.rate),
            _difference(method.scores, base.scores, sign),
            sign,
        )
    results = pretraining.Results(pre_training)
    for name in _OPTIMIZERS:
        yield Outcome(
            "BERT of 4 layers and width 64 from scratch, 26 s of reference time",
            f"loss {compare.arrow('loss')}",
            _at("adamw", results.rate("adamw")),
            _at(name, results.rate(name)),
            results.difference(name, "adamw", "loss"),
            -1,
        )
    of_language = language_model.Results(language)
    for name in of_language.names:
        difference = of_language.above(name, "adamw", "steps") if name != "adamw" else None
        if difference is not None:
            yield Outcome(
                f"GPT-2 of 9 million parameters from scratch, {of_language.steps} updates",
                f"loss {compare.arrow('loss')}",
                _at("adamw", of_language.rate("adamw")),
                _at(name, of_language.rate(name)),
                difference,
                -1,
            )
    for data, record in searches.items():
        found = line_search.Results(record)
        for rows in (min(found.rows), max(found.rows)):
            for name in found.searches:
                tuned = "adam_head" if name.endswith("_head") and "adam_head" in found.tuned else "adam"
                yield Outcome(
                    f"MiniLM-L6 on {rows:,} examples of {data}, five epochs",
                    f"{found.metric} {compare.arrow(found.metric)}",
                    _at(tuned, compare.best_rate(found.grid(rows, tuned))),
                    _at(name, None),
                    _difference(found.scores(rows, name), found.scores(rows, tuned), 1),
                    1,
                )


def _at(name: str, rate: float | None) -> str:
    return f"`{name}`" if rate is None else f"`{name}` at {rate:g}"


def _difference(scores: Sequence[float], base: Sequence[float], sign: int) -> compare.Difference:
    return compare.paired_difference(
        [sign * score for score in scores], [sign * score for score in base], confidence=0.95
    )


def by_task(found: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    head = ("trained", "on held-out data", "baseline", "method", "difference, 95 % interval", "seeds say")
    rows = []
    for one in found:
        interval = markdown.difference(one.difference)
        rows.append((one.study, one.metric, one.baseline, one.method, interval, one.verdict))
    return compare.table(head, rows, words=6)


def forms(memory: Mapping[str, Any]) -> dict[str, float]:
    """Bytes per parameter of parameters, gradients and state, by method and form."""
    measured = memory["models"][MODEL]
    held = measured["bytes"]
    return {
        name: 2 * size + held[method][kind] / measured["parameters"]
        for name, (method, kind, size) in _FORMS.items()
    }


def by_memory(memory: Mapping[str, Any]) -> str:
    """How large a model may be on a device, as a table."""
    head = ["method", "bytes per parameter", "1.3 billion parameters"]
    head += [f"most on {device}" for device in DEVICES]
    rows = [
        (
            f"`{method}`{comma}{rest}",
            f"{size:.2f}",
            f"{1.3 * size:.1f} GB",
            *(f"{SHARE * bytes_ / size / 1e9:.1f} billion" for bytes_ in DEVICES.values()),
        )
        for name, size in forms(memory).items()
        for method, comma, rest in [name.partition(",")]
    ]
    note = (
        f"Parameters, gradients and state of {MODEL}, by [the record](../tests/records/memory.md). The last "
        f"columns are the largest model for which the three take {SHARE:.0%} of the device, or of eight that "
        "divide them; the rest is for activations, which depend on batch and length. 1 GB = 10⁹ bytes."
    )
    return f"{compare.table(head, rows)}\n\n{note}"


def grids(
    fine_tuning: compare.Record, pre_training: compare.Record, language: compare.Record
) -> dict[str, dict[str, dict[float, float]]]:
    """Study → method → rate → what is lost to the best rate of the method, in the study's own metric."""
    found = {}
    by_rate = {
        method.name: {rate: -level for rate, level in method.levels.items() if rate is not None}
        for method in compare.by_method(fine_tuning, "accuracy")
    }
    study, of_language = pretraining.Results(pre_training).grids, language_model.Results(language)
    by_study = {
        "validation accuracy, MiniLM-L6": by_rate,
        "validation loss, small BERT": {name: study[name] for name in ("adamw", *_OPTIMIZERS)},
        "validation loss, small GPT-2": {name: of_language.by_rate(name) for name in of_language.names},
    }
    for title, methods_ in by_study.items():
        found[title] = {
            name: {rate: value - min(levels.values()) for rate, value in levels.items()}
            for name, levels in methods_.items()
            if len(levels) > 1
        }
    return found


def _lost(levels: Mapping[float, float]) -> str:
    """What the neighbours of the best rate lose, and how far they are."""
    best = min(levels, key=lambda rate: levels[rate])
    cells = []
    for rate in sorted(levels):
        if rate != best and 0.2 < rate / best < 5:
            lost = "diverges" if math.isinf(levels[rate]) else f"{levels[rate]:.3f}"
            cells.append(f"× {rate / best:.2g}: {lost}")
    return ", ".join(cells)


def by_tuning(found: Mapping[str, Mapping[str, Mapping[float, float]]]) -> str:
    """What a wrong rate costs, as a table."""
    rows = []
    for study, methods_ in found.items():
        for name, levels in methods_.items():
            best = min(levels, key=lambda rate: levels[rate])
            edge = compare.at_edge(best, sorted(levels))
            rows.append((study, f"`{name}`", f"{best:g}{', at the edge of its grid' * edge}", _lost(levels)))
    head = ("study", "method", "best rate", "lost at other rates")
    return compare.table(head, rows, words=4)


def default_grids(rates: Iterable[compare.Record]) -> dict[str, dict[str, dict[float, float]]]:
    """As :func:`grids`, of the study of default rates, in nats.

    Args:
        rates: its records.
    """
    found = map(DefaultRates, rates)
    return {
        f"validation loss, {one.setting.what}": {name: one.lost(name) for name in one.names} for one in found
    }


def method_of(row: str) -> str:
    """The method that a row of a record is of, which may be named after a variant; "" for none.

    Args:
        row: such as ``soap_one_sided``.
    """
    return max((name for name in methods.METHODS if f"{row}_".startswith(f"{name}_")), key=len, default="")


def cases_of(name: str, parity: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cases of a method in the record of parity, which may be named after its variants."""
    return [case for key, case in parity.items() if method_of(key) == name]


def moved(plan: Mapping[str, Any]) -> dict[str, str]:
    """Bytes that an update moves per parameter, from the least to the most, by optimizer.

    Args:
        plan: record of planned updates.
    """
    ends = {
        row["optimizer"]: {row["traffic"][end] / row["parameters"] for end in ("least", "greatest")}
        for row in plan["rows"]
        if row["traffic"]
    }
    return {name: " to ".join(f"{end:.0f}" for end in sorted(found)) for name, found in ends.items()}


def moved_by_steps(plan: Mapping[str, Any]) -> dict[str, str]:
    """Bytes that a whole step moves next to one with AdamW, from the least to the most, by optimizer.

    Args:
        plan: record of planned steps, in which a search takes one trial.
    """
    traffic = {row["optimizer"]: row["traffic"] for row in plan["rows"] if row["traffic"]}
    base = traffic["adamw"]["greatest"]
    ends = {name: {found[end] / base for end in ("least", "greatest")} for name, found in traffic.items()}
    return {
        name: " to ".join(dict.fromkeys(f"{end:.2f}" for end in sorted(found))) for name, found in ends.items()
    }


def grids_of(
    name: str, found: Mapping[str, Mapping[str, Mapping[float, float]]]
) -> dict[str, dict[str, Mapping[float, float]]]:
    """The grids of a method and its variants, study by study; empty if no study has one.

    Args:
        name: name of the method.
        found: what other rates lose, as :func:`grids` returns it.
    """
    own = {
        study: {row: levels for row, levels in one.items() if method_of(row) == name}
        for study, one in found.items()
    }
    return {study: one for study, one in own.items() if one}


def all_methods(
    memory: Mapping[str, Any],
    parity: Mapping[str, Any],
    plan: Mapping[str, Any],
    steps: Mapping[str, Any],
    rates: Mapping[str, compare.Record],
) -> str:
    """Every method: state, traffic, sensitivity to its rate, deviation from its source, and when not to use it.

    Args:
        memory: record of the size of states.
        parity: what was measured of the distance from sources, by case.
        plan: record of planned updates.
        steps: record of planned steps, for methods that need the loss.
        rates: records of the study of default rates, by what is trained.
    """
    small = memory["models"][SMALL]
    of_steps = {name: f"{times} × in a step" for name, times in moved_by_steps(steps).items()}
    bytes_moved = of_steps | moved(plan)
    head = ("method", "when not to use it", "state, float32", "state, Int8", "bytes moved")
    head += (*(f"default rate, {title.replace('_', ' ')}" for title in rates), "deviation from its source")
    measured, rows = [DefaultRates(record) for record in rates.values()], []
    for name, method in methods.METHODS.items():
        sizes = [f"{small['bytes'][name][k] / small['parameters']:.2f}" for k in ("float32", "Int8")]
        traffic = bytes_moved.get(name, UNMEASURED)
        defaults = (
            f"{one.default(name):g} ({_lost(one.lost(name))})" if name in one.names else "takes no rate"
            for one in measured
        )
        cases = cases_of(name, parity)
        deviation = f"{max(case['max_relative_deviation'] for case in cases):.0e}" if cases else "our own form"
        page = f"[`{name}`](../optimiz/optimizers/{method.page}.py)"
        rows.append((page, method.avoid, *sizes, traffic, *defaults, deviation))
    note = (
        f"State: bytes per parameter of {SMALL}. Moved: bytes to and from memory per parameter in an update of "
        f"{PLANNED}, by its compiler, from the branches that move least to those that move most; of a method "
        f"that needs the loss, a whole step of {PLANNED_STEP}, next to one with AdamW. Rate: "
        "that of the trainers, and by how many nats rates next to the best one of short runs are worse, from "
        "one run at each. Deviation: the largest, relative, of [the optimizers](optimizers.md) and "
        "[the line searches](line_search.md)."
    )
    rules = (
        f"Default rates for fine-tuning are chosen by {methods.FINE_TUNING_RATES}.",
        f"Those from scratch are chosen by {methods.FROM_SCRATCH_RATES}.",
    )
    return "\n\n".join((compare.table(head, rows, words=2), note, *rules))
