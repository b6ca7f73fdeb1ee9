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
_PLANNED_STATES = {"float32": "", "Int8": "low_bit:"}  # format of a state → what a plan has before the method
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
    compared = compare.by_method(fine_tuning, metric)
    found = {method.name: method for method in compared}
    base, confidence = found.pop("adamw"), compare.pair_confidence(compared)
    for method in found.values():
        yield Outcome(
            f"MiniLM-L6 on the order of words, {fine_tuning.settings['budget']:g} s of reference time",
            f"{metric} {compare.arrow(metric)}",
            _at("adamw", base.rate),
            _at(method.name, method.rate),
            compare.paired_difference(
                [sign * score for score in method.scores],
                [sign * score for score in base.scores],
                confidence=confidence,
            ),
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
                    found.lead(rows, name, tuned),
                    1,
                )


def _at(name: str, rate: float | None) -> str:
    return f"`{name}`" if rate is None else f"`{name}` at {rate:g}"


def by_task(found: Sequence[Outcome]) -> str:
    """The outcomes as a table."""
    head = ("trained", "on held-out data", "baseline", "method", "difference (interval)", "seeds say")
    rows = []
    for one in found:
        interval = markdown.difference(one.difference)
        rows.append((one.study, one.metric, one.baseline, one.method, interval, one.verdict))
    note = (
        "Intervals are those of the studies, at 95 %: over all comparisons of a study together, for the BERT "
        "of each alone."
    )
    return f"{compare.table(head, rows, words=6)}\n\n{note}"


def forms(memory: Mapping[str, Any]) -> dict[str, float]:
    """Bytes per parameter of parameters, gradients and state, by method and form."""
    measured = memory["models"][MODEL]
    held = measured["bytes"]
    return {
        name: 2 * size + held[method][kind] / measured["parameters"]
        for name, (method, kind, size) in _FORMS.items()
    }


def temporaries(plan: Mapping[str, Any]) -> dict[str, float]:
    """Bytes per parameter that an update holds besides, by method and form, where there is a plan of it.

    Args:
        plan: record of planned updates, in float32.
    """
    planned = {row["optimizer"]: row["temporary"] / row["parameters"] for row in plan["rows"]}
    names = {
        name: f"{_PLANNED_STATES[kind]}{method}"
        for name, (method, kind, size) in _FORMS.items()
        if kind in _PLANNED_STATES and size == 4
    }
    return {name: planned[row] for name, row in names.items() if row in planned}


def by_memory(memory: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """How large a model may be on a device, as a table.

    Args:
        memory: record of the size of states.
        plan: record of planned updates.
    """
    head = ["method", "bytes per parameter", "besides in an update", "1.3 billion parameters"]
    head += [f"10⁹ on {device}" for device in DEVICES]
    besides, rows = temporaries(plan), []
    for name, size in forms(memory).items():
        method, comma, rest = name.partition(",")
        total = size + besides.get(name, 0.0)
        rows.append(
            (
                f"`{method}`{comma}{rest}",
                f"{size:.2f}",
                f"{besides[name]:.2f}" if name in besides else "no plan",
                f"{1.3 * total:.1f} GB",
                *(f"{SHARE * bytes_ / total / 1e9:.1f}" for bytes_ in DEVICES.values()),
            )
        )
    note = (
        f"Parameters, gradients and state of {MODEL}, by [the record](../tests/records/memory.md), and the "
        f"temporary memory of its update, by [the plan](planning.md#gpt-2-xl-on-one-h200) of {PLANNED}. The "
        "last columns are the billions of parameters of the largest model for which all of that takes "
        f"{SHARE:.0%} of the device, or of eight that divide it; the rest is for activations, which depend on "
        "batch and length. 1 GB = 10⁹ bytes."
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
        "validation loss, GPT-2 of 9 million parameters": {
            name: of_language.by_rate(name) for name in of_language.names
        },
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
            cells.append(f"× {rate / best:.2g}: {_shown(levels[rate])}")
    return ", ".join(cells)


def by_tuning(found: Mapping[str, Mapping[str, Mapping[float, float]]]) -> str:
    """What a wrong rate costs, as a table."""
    rows = []
    for study, methods_ in found.items():
        for name, levels in methods_.items():
            best = min(levels, key=lambda rate: levels[rate])
            edge = compare.at_edge(best, sorted(levels))
            rows.append((study, f"`{name}`", f"{best:g}{', at the edge of its grid' * edge}", _lost(levels)))
    head = ("study", "method", "best rate", "lost at multiples of it")
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


def cases_of(name: str, parity: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The cases of a method in the record of parity, by their names, which may be those of its variants."""
    return {key: case for key, case in parity.items() if method_of(key) == name}


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
) -> str:
    """Every method: when not to use it, its state, its traffic, and its deviation from its source.

    Args:
        memory: record of the size of states.
        parity: what was measured of the distance from sources, by case.
        plan: record of planned updates.
        steps: record of planned steps, for methods that need the loss.
    """
    small = memory["models"][SMALL]
    of_steps = {name: f"{times} × in a step" for name, times in moved_by_steps(steps).items()}
    bytes_moved = of_steps | moved(plan)
    head = ("method", "when not to use it", "state, float32", "state, Int8", "bytes moved", "deviation")
    rows = []
    for name, method in methods.METHODS.items():
        sizes = [f"{small['bytes'][name][k] / small['parameters']:.2f}" for k in ("float32", "Int8")]
        traffic = bytes_moved.get(name, UNMEASURED)
        cases = cases_of(name, parity).values()
        deviation = f"{max(case['max_relative_deviation'] for case in cases):.0e}" if cases else "our own form"
        rows.append((_linked(method), method.avoid, *sizes, traffic, deviation))
    note = (
        f"State: bytes per parameter of {SMALL}. Moved: bytes to and from memory per parameter in an update of "
        f"{PLANNED}, by its compiler, from the branches that move least to those that move most; of a method "
        f"that needs the loss, a whole step of {PLANNED_STEP}, next to one with AdamW. Deviation from the "
        "source: the largest, relative, of [the optimizers](optimizers.md) and "
        "[the line searches](line_search.md)."
    )
    return f"{compare.table(head, rows, words=2)}\n\n{note}"


def all_rates(rates: Mapping[str, compare.Record], longer: compare.Record) -> str:
    """The default rates of every method that takes one, and what they and their neighbours lose.

    Args:
        rates: records of the study of default rates, by what is trained.
        longer: record of its longer runs of fine-tuning, of some methods.
    """
    measured, long = [DefaultRates(record) for record in rates.values()], DefaultRates(longer)
    head = ["method"]
    for title in rates:
        head += [title.replace("_", " "), "loses", "next lower", "next higher"]
    rows = []
    for name, method in methods.METHODS.items():
        if method.kind == "line search":
            continue
        cells = [_linked(method)]
        for one in measured:
            source = long if name in long.names and not one.setting.from_scratch else one
            default = source.default(name)
            assert default is not None, name
            cells += [f"{default:g}", *_around(default, source.lost(name))]
        rows.append(cells)
    note = (
        "A default rate of the trainers, what it loses, and what the next rates that were tried lose, mostly "
        "half a decade away: by how many nats the validation loss of one run is above the one at the best rate "
        "of the method, which may be another. 0.000 is the best rate itself, an empty cell was not tried. For "
        "fine-tuning those of "
        f"{', '.join(f'`{name}`' for name in long.names)} are of the longer runs."
    )
    rules = (
        f"Default rates for fine-tuning are chosen by {methods.FINE_TUNING_RATES}.",
        f"Those from scratch are chosen by {methods.FROM_SCRATCH_RATES}.",
    )
    return "\n\n".join((compare.table(head, rows), note, *rules))


def _linked(method: methods.Method) -> str:
    return f"[`{method.name}`](../optimiz/optimizers/{method.page}.py)"


def _around(default: float, levels: Mapping[float, float]) -> list[str]:
    """What is lost at a rate, at the next one below and at the next one above; "" where none was tried."""
    at = [rate for rate in levels if 0.9 < rate / default < 1.1]
    below = max((rate for rate in levels if rate / default <= 0.9), default=None)
    above = min((rate for rate in levels if rate / default >= 1.1), default=None)
    shown = (at[0] if at else None, below, above)
    return ["" if rate is None else _shown(levels[rate]) for rate in shown]


def _shown(lost: float) -> str:
    return "diverges" if math.isinf(lost) else f"{lost:.3f}"
