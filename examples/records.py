"""Render every committed report, table and picture again from its record.

    python -m examples.records            writes them
    python -m examples.records --check    lists what is stale, and exits with 1

A report is a page next to its record; sections of README.md and of the pages in docs/ are filled in between
their comments, see ``examples.shared.documents``.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from examples import choosing, claims
from examples.benchmarks import (
    collectives_report,
    compilation_report,
    lora_report,
    matrix_costs,
    plan_report,
    steps_report,
    trainers_report,
    update_report,
)
from examples.benchmarks.beside_torch import steps_report as beside_torch
from examples.benchmarks.beside_torch import trainer_report as beside_trainer
from examples.shared import command, pictures, program_flags
from examples.shared.documents import Documents, Report
from examples.studies.default_rates import report as default_rates_report
from examples.studies.default_rates.settings import LONGER, SETTINGS
from examples.studies.fine_tuning import report as fine_tuning
from examples.studies.heterogeneity import report as heterogeneity
from examples.studies.language_model import report as language_model
from examples.studies.line_search import report as line_search
from examples.studies.low_bit import report as low_bit
from examples.studies.pretraining import report as pretraining
from examples.studies.width import report as width
from optimiz import compare, training

FLAGS = program_flags.Flags()
_CHECK = FLAGS.DEFINE_bool("check", False, "List what is stale instead of rendering it.")

ROOT = Path(__file__).parents[1]

_COMPARISONS = {  # in examples/results: folder → the metric that ranks the methods
    **dict.fromkeys(["topics", "compare", "digits/resnet", "digits/vit"], "accuracy"),
    "causal": "bits_per_byte",
}
_STUDIES = {  # in examples/studies: folder → the module that renders its record
    "line_search/results/topics": line_search,
    **dict.fromkeys([f"low_bit/results/{data}" for data in ("wikitext2", "sst2", "topics")], low_bit),
    **{f"default_rates/results/{setting}": default_rates_report for setting in SETTINGS},
    "fine_tuning/results": fine_tuning,
    "heterogeneity/results": heterogeneity,
    "language_model/results": language_model,
    "pretraining/results": pretraining,
    "width/results": width,
}
_LOW_BIT = [
    f"plan/gpt2_{device}{dtype}" for dtype in ("", "_bfloat16") for device in ("v5e", "v5p", "v6e", "h200")
]
_BENCHMARKS = {
    **{
        "beside_torch": beside_torch,
        "beside_trainer": beside_trainer,
        "collectives": collectives_report,
        "compilation": compilation_report,
        "lora": lora_report,
        "steps": steps_report,
        "trainers": trainers_report,
        "update": update_report,
    },
    **dict.fromkeys(
        [
            "plan/llama_v5e_4x4",
            "plan/llama_v5e_4x4_rows",
            "plan/llama_step_v5e_4x4",
            "plan/gpt2_xl_h200",
            "plan/gpt2_step_h200",
        ],
        plan_report,
    ),
    **dict.fromkeys(_LOW_BIT, plan_report),
}
_PAGES = ("contract", "layouts", "memory", "scaling")  # records in tests/records that have a page


def reports() -> dict[str, Report]:
    """Every committed report, by its path from the root of the repository."""
    found = {}
    for name, metric in _COMPARISONS.items():
        folder, record = ROOT / "examples/results" / name, _comparison(name)
        found[f"examples/results/{name}/report.md"] = Report(
            functools.partial(compare.render, record, metric=metric),
            functools.partial(compare.write_report, record, folder, metric=metric),
        )
    for name, module in _STUDIES.items():
        folder, study = ROOT / "examples/studies" / name, _study(name)
        found[f"examples/studies/{name}/report.md"] = Report(
            functools.partial(module.render, study),
            functools.partial(pictures.write_study, module, study, folder),
        )
    for name, module in _BENCHMARKS.items():
        path = f"examples/benchmarks/results/{name}/report.md"
        found[path] = _page(path, functools.partial(module.report, _benchmark(name)))
    for name in _PAGES:
        path = f"tests/records/{name}.md"
        found[path] = _page(path, functools.partial(_rendered, name))
    return found


def sections() -> dict[str, Callable[[], str]]:
    """Every section by its name; links in it are those of a page in docs."""
    return {
        "topics": lambda: compare.summary(_comparison("topics"), metric="accuracy"),
        "compare": lambda: compare.summary(_comparison("compare"), metric="accuracy"),
        "resnet": lambda: compare.in_words(_comparison("digits/resnet"), metric="accuracy"),
        "vit": lambda: compare.in_words(_comparison("digits/vit"), metric="accuracy"),
        "causal": lambda: compare.in_words(_comparison("causal"), metric="bits_per_byte"),
        "causal_sample": lambda: "\n\n".join(map(compare.fenced, _comparison("causal").samples.values())),
        "line_search": lambda: line_search.across(_studies("line_search")),
        "low_bit": lambda: low_bit.across(_studies("low_bit")),
        "heterogeneity": lambda: heterogeneity.summary(_study("heterogeneity/results")),
        "language_model": lambda: language_model.summary(_study("language_model/results")),
        "pretraining": lambda: pretraining.summary(_study("pretraining/results")),
        "width": lambda: width.summary(_study("width/results")),
        "claims": lambda: claims.table(made_claims()),
        "by_task": lambda: choosing.by_task(list(outcomes())),
        "by_memory": lambda: choosing.by_memory(_measured("memory"), _benchmark("plan/gpt2_xl_h200")),
        "by_tuning": lambda: choosing.by_tuning(grids()),
        "all_methods": lambda: choosing.all_methods(
            _measured("memory"),
            parity(),
            _benchmark("plan/gpt2_xl_h200"),
            _benchmark("plan/gpt2_step_h200"),
        ),
        "all_rates": lambda: choosing.all_rates(default_rates(), longer_default_rates()),
        "beside_torch": lambda: beside_torch.summary(_benchmark("beside_torch")),
        "beside_trainer": lambda: beside_trainer.summary(_benchmark("beside_trainer")),
        "collectives": lambda: collectives_report.summary(_benchmark("collectives")),
        "compilation": lambda: compilation_report.summary(_benchmark("compilation")),
        "muon_costs": lambda: matrix_costs.table("muon"),
        "soap_costs": lambda: matrix_costs.table("soap", "soap, sides up to 2048", "kl_soap"),
        "speed": lambda: update_report.summary(_benchmark("update")),
        "trainers": lambda: trainers_report.summary(_benchmark("trainers")),
        "lora": lambda: lora_report.summary(_benchmark("lora")),
        "steps": lambda: steps_report.summary(_benchmark("steps")),
        "plan_tpu": lambda: plan_report.summary(_benchmark("plan/llama_v5e_4x4")),
        "plan_tpu_rows": lambda: plan_report.summary(_benchmark("plan/llama_v5e_4x4_rows")),
        "plan_gpu_step": lambda: plan_report.summary(_benchmark("plan/gpt2_step_h200")),
        "plan_tpu_step": lambda: plan_report.summary(_benchmark("plan/llama_step_v5e_4x4")),
        "plan_low_bit": lambda: plan_report.by_device(list(map(_benchmark, _LOW_BIT))),
        "plan_gpu": lambda: plan_report.summary(_benchmark("plan/gpt2_xl_h200")),
        "parity": lambda: _rendered("parity"),
        "search_parity": lambda: _rendered("search_parity"),
        "model_parity": lambda: _rendered("model_parity"),
        "faults": lambda: _rendered("faults"),
        "layouts": lambda: _rendered("layouts", in_words=True),
        "memory": lambda: _rendered("memory", in_words=True),
        "scaling": lambda: _rendered("scaling", in_words=True),
        "optax": lambda: _rendered("optax_contract"),
    }


def parity() -> dict[str, Any]:
    """Every measured distance of a method from its source, by case; line searches among them."""
    return _measured("parity")["cases"] | _measured("search_parity")["cases"]


def outcomes() -> Iterator[choosing.Outcome]:
    """How methods did next to Adam in the committed studies."""
    studies = map(_study, ("pretraining/results", "language_model/results"))
    return choosing.outcomes(_comparison("compare"), *studies, _studies("line_search"))


def made_claims() -> Iterator[claims.Claim]:
    """What the sources claim, and what was measured."""
    pre_training = _study("pretraining/results")
    yield from claims.of_heterogeneity(_study("heterogeneity/results"))
    yield from claims.of_fine_tuning(_study("fine_tuning/results"))
    yield from claims.of_memory(_measured("memory"))
    yield from claims.of_sgd_sai(_comparison("compare"), pre_training)
    yield from claims.of_language_model(_study("language_model/results"))
    yield from claims.of_width(_study("width/results"))
    yield from claims.of_searches(_studies("line_search"))
    yield from claims.of_budgets(pre_training)


def grids() -> dict[str, dict[str, dict[float, float]]]:
    """What other rates lose to the best one, by study and method."""
    return choosing.grids(
        *(_comparison("compare"), _study("pretraining/results"), _study("language_model/results"))
    )


def default_grids() -> dict[str, dict[str, dict[float, float]]]:
    """The same of the study of default rates."""
    return choosing.default_grids([*default_rates().values(), longer_default_rates()])


def moved() -> dict[str, str]:
    """Bytes that an update of GPT-2 XL moves per parameter on an H200, by optimizer."""
    return choosing.moved(_benchmark("plan/gpt2_xl_h200"))


def moved_by_steps() -> dict[str, str]:
    """Bytes that a step of GPT-2 moves on an H200 next to one with AdamW, by optimizers that need the loss."""
    return choosing.moved_by_steps(_benchmark("plan/gpt2_step_h200"))


def default_rates() -> dict[str, compare.Record]:
    """The records of default rates of every optimizer, by setting."""
    return {setting: record for setting, record in _studies("default_rates").items() if setting != LONGER}


def longer_default_rates() -> compare.Record:
    """The record of the default rates of some optimizers in longer runs."""
    return _study(f"default_rates/results/{LONGER}")


def documents() -> Documents:
    """All of them."""
    return Documents(ROOT, reports(), sections())


def _page(path: str, render: Callable[[], str]) -> Report:
    return Report(render, lambda: training.write_whole(ROOT / path, render()))


def _comparison(name: str) -> compare.Record:
    return _record(f"examples/results/{name}")


def _study(name: str) -> compare.Record:
    return _record(f"examples/studies/{name}")


def _studies(name: str) -> dict[str, compare.Record]:
    """The records of a study, by what it was run on."""
    return {Path(folder).name: _study(folder) for folder in _STUDIES if folder.startswith(f"{name}/")}


@functools.cache
def _record(folder: str) -> compare.Record:
    return compare.Record.read(ROOT / folder / "record.json")


@functools.cache
def _benchmark(name: str) -> dict[str, Any]:
    return _json(ROOT / "examples/benchmarks/results" / name / "record.json")


@functools.cache
def _rendered(name: str, *, in_words: bool = False) -> str:
    """A record in tests/records as a page, or as the sentences that the documentation has of it."""
    from tests import faults_record, memory_record, scaling_record
    from tests.contract import record as contract
    from tests.golden import model_parity_record, parity_record, search_parity_record
    from tests.testing import optax_record
    from tests.training import layouts_record

    module = {
        "contract": contract,
        "faults": faults_record,
        "layouts": layouts_record,
        "memory": memory_record,
        "model_parity": model_parity_record,
        "optax_contract": optax_record,
        "parity": parity_record,
        "scaling": scaling_record,
        "search_parity": search_parity_record,
    }[name]
    render = module.in_words if in_words else module.render
    return render(_measured(name))


def _measured(name: str) -> dict[str, Any]:
    return _json(ROOT / f"tests/records/{name}.json")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    """Render everything, or list what is stale."""
    if not _CHECK.value:
        documents().write()
        return
    found = documents().stale()
    print("\n".join(f"stale: {path}" for path in found) or "everything is as its record has it")
    sys.exit(command.EXIT_ERROR if found else 0)


if __name__ == "__main__":
    command.run(main, FLAGS)
