"""What the sources of this suite claim, what was measured here, and the verdict, as a table.

A verdict follows from the committed records by the rules written here. It is about these settings alone, which
are small; each row says which.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from examples.shared.markdown import difference
from examples.shared.verdicts import HOLDS, IN_PART, NOT_HERE, OPEN
from examples.studies.fine_tuning.report import Results as FineTuning
from examples.studies.heterogeneity.results import Results as Heterogeneity
from examples.studies.language_model import report as language_model
from examples.studies.line_search import report as line_search
from examples.studies.pretraining.recipes import BASELINE, HALF_WAY
from examples.studies.pretraining.report import Results as Pretraining
from examples.studies.width.arms import MUP, STANDARD
from examples.studies.width.report import Results as Widths
from optimiz import compare

_HETEROGENEITY = "[2502.00213](https://arxiv.org/abs/2502.00213)"
_SGD_SAI = "[2412.11768](https://arxiv.org/abs/2412.11768)"
_SEARCHES = "[2403.18506](https://arxiv.org/abs/2403.18506), [2407.20650](https://arxiv.org/abs/2407.20650)"
_BUDGETS = "[2307.06440](https://arxiv.org/abs/2307.06440)"
_DIGITS = "[models of 8 × 8 digits, from scratch](../examples/studies/heterogeneity/results/report.md)"
_FINE_TUNING = "[MiniLM-L6 on 1,000 examples of topics](../examples/studies/fine_tuning/results/report.md)"
_SMALL_GPT2 = "[a GPT-2 of 9 million parameters](../examples/studies/language_model/results/report.md)"
_SMALL_BERT = "[a small BERT from scratch](../examples/studies/pretraining/results/report.md)"
_WIDTHS = "[decoders of widths {} to {}, two layers](../examples/studies/width/results/report.md)"
_SEARCHED = "[MiniLM-L6 on {0}, five epochs](../examples/studies/line_search/results/{0}/report.md)"
_WORD_ORDER = "[MiniLM-L6 on the order of words](../examples/results/compare/report.md)"

# GiB of state in arXiv 2412.11768, table 1.
_PUBLISHED = {"sgd_sai": 5.93, "adamw": 11.86, "adam_mini": 6.52, "prodigy": 23.72}
_NEAR = 0.05  # relative deviation of a size, which padding of the vocabulary explains
_ALIKE = 0.03  # nats that make no difference between two rates


class Claim(NamedTuple):
    """A claim, and what was measured.

    Attributes:
        source: the paper.
        says: what it says.
        measured: what was measured here, with its uncertainty.
        setting: where, as a link to the record's page.
        verdict: one of the verdicts above.
    """

    source: str
    says: str
    measured: str
    setting: str
    verdict: str


def of_heterogeneity(record: compare.Record) -> Iterator[Claim]:
    """Whether Adam leads over SGD where gradient norms differ between blocks.

    Args:
        record: record of the study of heterogeneity.
    """
    scratch = Heterogeneity(record)
    leads = {model: scratch.lead(model, "sgd") for model in scratch.models}
    post, pre = leads["post_ln"], leads["pre_ln"]
    yield Claim(
        _HETEROGENEITY,
        "Adam's lead over SGD is larger with Post-LN than with Pre-LN",
        f"in decades of final training loss {difference(post, '.2f')} and {difference(pre, '.2f')}",
        _DIGITS,
        HOLDS if post.low > pre.high else NOT_HERE if post.high < pre.low else OPEN,
    )
    signs = {name: scratch.lead("post_ln", name) for name in ("sign_sgd", "signum")}
    yield Claim(
        _HETEROGENEITY,
        "sign methods share Adam's lead over SGD",
        "with Post-LN, lead of Adam in decades of final training loss: "
        + f"over SGD {difference(post, '.2f')}, "
        + ", ".join(f"over {name} {difference(lead, '.2f')}" for name, lead in signs.items()),
        _DIGITS,
        _both(*(lead.high < post.low for lead in signs.values())),
    )
    ginis = {model: statistics.fmean(scratch.at_start(model)) for model in scratch.models}
    alike = sorted(ginis, key=lambda m: ginis[m]) == sorted(leads, key=lambda m: leads[m].mean)
    yield Claim(
        _HETEROGENEITY,
        "gradient heterogeneity before training tells which models need Adam",
        "Gini coefficients of the first gradient's norms, and leads: "
        + ", ".join(f"{model} {ginis[model]:.2f} and {leads[model].mean:+.2f}" for model in ginis),
        _DIGITS,
        HOLDS if alike else NOT_HERE,
    )


def of_fine_tuning(record: compare.Record) -> Iterator[Claim]:
    """Whether Adam leads when a pretrained encoder is fine-tuned, and whether sign methods share its lead.

    Args:
        record: record of the study of fine-tuning.
    """
    results = FineTuning(record)
    start = "pretrained"
    adams = {name: results.lead(start, name) for name in ("sgd", "momentum")}
    heads = {name: results.lead(start, name) for name in results.compared(start).get("adam_head", [])}
    signs = {name: results.lead(start, "sgd", of=name) for name in ("sign_sgd", "signum")}
    yield Claim(
        _HETEROGENEITY,
        "Adam is ahead of SGD, with momentum and without, when a pretrained Post-LN encoder is fine-tuned",
        f"lead in test accuracy over {_listed(adams)}",
        _FINE_TUNING,
        _of_leads(list(adams.values())),
    )
    yield Claim(
        _HETEROGENEITY,
        "Adam is ahead of SGD with momentum there, where both have a faster head",
        f"lead in test accuracy over {_listed(heads)}",
        _FINE_TUNING,
        _of_leads(list(heads.values())),
    )
    yield Claim(
        _HETEROGENEITY,
        "sign methods are ahead of SGD there too",
        f"lead over sgd in test accuracy: {_listed(signs)}",
        _FINE_TUNING,
        _of_leads(list(signs.values())),
    )


def of_memory(memory: Mapping[str, Any]) -> Iterator[Claim]:
    """Whether SGD-SaI's state has the size that its paper states.

    Args:
        memory: record of the size of states.
    """
    bytes_ = memory["models"]["GPT-2 1.5B"]["bytes"]
    found = {name: bytes_[name]["float32"] / 2**30 for name in _PUBLISHED}
    near = [abs(found[name] / size - 1) < _NEAR for name, size in _PUBLISHED.items()]
    halved = found["sgd_sai"] / found["adamw"]
    yield Claim(
        _SGD_SAI,
        "for GPT-2 1.5B, SGD-SaI's state takes 5.93 GB, AdamW's 11.86, Adam-mini's 6.52, Prodigy's 23.72",
        ", ".join(f"{name} {size:.2f} GiB" for name, size in found.items()),
        "[shapes of the model](../tests/records/memory.md)",
        HOLDS if all(near) else IN_PART if abs(halved - 0.5) < 0.01 else NOT_HERE,
    )


def of_sgd_sai(comparison: compare.Record, pre_training: compare.Record) -> Iterator[Claim]:
    """Whether SGD-SaI is as good as AdamW.

    Args:
        comparison: record of ``examples.compare_optimizers``.
        pre_training: record of the study of pre-training.
    """
    compared = compare.by_method(comparison, "accuracy")
    found = {method.name: method.scores for method in compared}
    confidence = compare.pair_confidence(compared)
    tuned = compare.paired_difference(found["sgd_sai"], found["adamw"], confidence=confidence)
    yield Claim(
        _SGD_SAI,
        "SGD-SaI is on par with AdamW: fine-tuning",
        f"test accuracy relative to AdamW's {difference(tuned)}",
        _WORD_ORDER,
        _of_leads([tuned]),
    )
    results = Pretraining(pre_training)
    loss = results.difference("sgd_sai", "adamw", "loss")
    edge = compare.at_edge(results.rate("sgd_sai"), results.grids["sgd_sai"])
    (on_par,) = (each for each in language_model.ORDERS if (each.better, each.than) == ("sgd_sai", "adamw"))
    yield Claim(
        _SGD_SAI,
        "SGD-SaI is on par with AdamW: pre-training",
        f"test loss relative to AdamW's {difference(loss)}" + ", its best rate at an edge of the grid" * edge,
        _SMALL_BERT,
        language_model.verdict(on_par, loss),
    )


def of_language_model(record: compare.Record) -> Iterator[Claim]:
    """Whether published orders of optimizers hold where a language model is pre-trained.

    Args:
        record: record of the study of a language model.
    """
    results = language_model.Results(record)
    for order in language_model.ORDERS:
        found = results.above(order.better, order.than, "steps")
        yield Claim(
            order.source,
            f"{order.says}: pre-training",
            f"test loss of {order.better} relative to {order.than} after {results.steps} updates "
            + ("a run diverged" if found is None else difference(found)),
            _SMALL_GPT2,
            language_model.verdict(order, found),
        )


def of_width(record: compare.Record) -> Iterator[Claim]:
    """Whether the best rate of a narrow model is that of a wide one.

    Args:
        record: record of the study on width.
    """
    results = Widths(record)
    widest, wider = results.widths[-1], results.widths[1:]
    setting = _WIDTHS.format(results.base, widest)
    for how, says in (
        (MUP, "with μP the best rate of a narrow model is that of a wide one"),
        (STANDARD, "without μP it is not"),
    ):
        lost = {name: [results.carried(name, how, width) for width in wider] for name in results.names}
        kept = [max(found) < _ALIKE for found in lost.values()]
        expected = kept if how == MUP else [not one for one in kept]
        yield Claim(
            "[2203.03466](https://arxiv.org/abs/2203.03466)",
            says,
            f"nats that the best rate of width {results.base} loses at width {widest}: "
            + ", ".join(f"{name} {found[-1]:.3f}" for name, found in lost.items())
            + f"; at most, at any: {max(max(found) for found in lost.values()):.3f}",
            setting,
            HOLDS if all(expected) else IN_PART if any(expected) else NOT_HERE,
        )


def of_searches(searches: Mapping[str, compare.Record]) -> Iterator[Claim]:
    """Whether a line search replaces a tuned rate.

    Args:
        searches: records of the study of line searches, by data.
    """
    for data, record in searches.items():
        results = line_search.Results(record)
        for search, tuned in (("salsa", "adam"), ("salsa_head", "adam_head")):
            if search not in results.searches or tuned not in results.tuned:
                continue
            leads = {f"{rows:,}": results.lead(rows, search, tuned) for rows in results.rows}
            edges = [f"{rows:,}" for rows in results.rows if results.at_edge(rows, tuned)]
            yield Claim(
                _SEARCHES,
                "a line search without a rate is at least as good as Adam at the best rate of a grid"
                + ", where both have a faster head" * (tuned == "adam_head"),
                f"lead of SaLSa in {results.metric}, by rows: {_listed(leads)}"
                + f"; Adam's best rate is at an edge of its grid with {', '.join(edges)}" * bool(edges),
                _SEARCHED.format(data),
                OPEN if edges else _of_leads(list(leads.values())),
            )


def of_budgets(pre_training: compare.Record) -> Iterator[Claim]:
    """Whether a method beats the fully decayed baseline under one budget.

    Args:
        pre_training: record of the study of pre-training.
    """
    results = Pretraining(pre_training)
    relative = [results.difference(name, BASELINE, "loss") for name in results.recipes]
    better, worse = sum(one.high < 0 for one in relative), sum(one.low > 0 for one in relative)
    yield Claim(
        _BUDGETS,
        "under one budget, no optimizer or time-saving method beats AdamW whose rate decays fully",
        f"test loss of {len(relative)} recipes: {worse} significantly higher, {better} significantly lower, "
        "the others not told apart",
        _SMALL_BERT,
        NOT_HERE if better else HOLDS if worse == len(relative) else IN_PART if worse else OPEN,
    )
    unfair = results.difference(HALF_WAY, BASELINE, "loss")
    yield Claim(
        _BUDGETS,
        "a baseline whose rate has not decayed makes other methods look better",
        f"test loss of the undecayed baseline relative to the decayed one {difference(unfair)}",
        _SMALL_BERT,
        HOLDS if unfair.low > 0 else NOT_HERE if unfair.high < 0 else OPEN,
    )


def table(claims: Iterator[Claim]) -> str:
    """The claims as a table."""
    header = ("source", "claim", "measured here (interval)", "setting", "verdict")
    return compare.table(header, [tuple(claim) for claim in claims], words=5)


def _listed(leads: Mapping[str, compare.Difference]) -> str:
    return ", ".join(f"{name} {difference(lead)}" for name, lead in leads.items())


def _both(first: bool, second: bool) -> str:
    return HOLDS if first and second else IN_PART if first or second else NOT_HERE


def _of_leads(leads: Sequence[compare.Difference]) -> str:
    """The verdict on a claim that each of these is above zero."""
    above = [lead.low > 0 for lead in leads]
    below = [lead.high < 0 for lead in leads]
    return HOLDS if all(above) else NOT_HERE if all(below) else IN_PART if any(above) else OPEN
