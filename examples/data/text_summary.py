"""Summarize what to know about labelled texts before training a model on them."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from examples.data import buckets, shown, targets
from examples.data.labels import alike
from examples.data.summary import Summary, counted, of_classes, of_equals
from examples.data.text import TextExamples, same_texts

TRUNCATED = 0.05  # of the texts; more than that is worth a warning
UNKNOWN = 0.05  # of the tokens
_SUGGESTED = 4  # buckets
_LISTED = 20  # labels
_IN_QUOTES = re.compile(r'\s*".*"\s*\Z', re.DOTALL)
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+")


def of_texts(parts: Mapping[str, TextExamples]) -> Summary:
    """Sources, classes, empty texts, copies, and warnings.

    Args:
        parts: "train" and others.
    """
    facts, warnings = _sources(parts) | _notes(parts), []
    keys = {name: same_texts(part) for name, part in parts.items()}
    empty = {name: sum(not any(key) for key in of_part) for name, of_part in keys.items()}
    if sum(empty.values()):
        by_part = ", ".join(f"{count} {name}" for name, count in empty.items())
        facts["empty texts"] = f"{sum(empty.values())}: {by_part}"
        some = counted(sum(empty.values()), "empty texts")
        warnings.append(f"{some}, from which nothing can be learned")
    names = parts["train"].label_names
    names = names if parts["train"].problem != targets.NUMBER else ()
    for group in alike(names)[:3]:
        warnings.append(
            f"the classes {' and '.join(map(shown.value, group[:3]))} are spelled alike; are they the same?"
        )
    warnings += _quoted(parts)
    fractions = [name for name in names if _FRACTION.fullmatch(name)]
    if 2 * len(fractions) >= len(names) > 0:
        warnings.append(
            f"labels such as {shown.value(fractions[0])} are treated as names, not as numbers to be predicted; "
            f"see --problem_type"
        )
    is_class = parts["train"].problem == targets.CLASS
    with_text = {name: [i for i, key in enumerate(of_part) if any(key)] for name, of_part in keys.items()}
    equals = of_equals(
        {name: [keys[name][i] for i in rows] for name, rows in with_text.items()},
        {
            name: parts[name].labels[rows] if is_class else np.zeros(len(rows))
            for name, rows in with_text.items()
        },
        "texts",
    )
    return Summary(facts, warnings) | _of_targets(parts) | equals


def of_lengths(
    lengths: np.ndarray, cut: Mapping[str, int], totals: Mapping[str, int], length: int, most: int
) -> Summary:
    """The lengths of texts, and how many are truncated.

    Args:
        lengths: number of tokens of some training texts, [N].
        cut: part → number of texts that are truncated.
        totals: part → number of texts.
        length: number of tokens to which they are truncated.
        most: the largest number of tokens that the model reads.

    Example:
        >>> summary = of_lengths(np.array([8, 9, 40]), {"train": 1}, {"train": 3}, length=16, most=512)
        >>> summary.facts["tokens of a text"]
        'median 9, 95% within 37, 99% within 40, longest 40'
        >>> summary.warnings
        ['33.3% of the texts are longer than 16 tokens and are truncated: see --length and --stride']
    """
    quantiles = {"95%": 0.95, "99%": 0.99}
    within = ", ".join(f"{name} within {np.ceil(np.quantile(lengths, q)):.0f}" for name, q in quantiles.items())
    tokens = f"median {np.median(lengths):.0f}, {within}, longest {lengths.max()}"
    count, total = sum(cut.values()), sum(totals.values())
    truncated = f"{count} of {total} texts ({count / total:.1%}), to {length} tokens"
    facts = {"tokens of a text": tokens, "truncated": truncated}
    warnings = []
    if count > TRUNCATED * total:
        share = f"{count / total:.1%} of the texts are longer than {length} tokens"
        why = "see --length and --stride" if length < most else "the model reads no more, see --stride"
        warnings.append(f"{share} and are truncated: {why}")
    return Summary(facts, warnings)


def of_windows(counts: np.ndarray, stride: int) -> Summary:
    """The number of windows of the training texts.

    Args:
        counts: number of windows of each text, [N].
        stride: number of tokens that neighbouring windows share.

    Example:
        >>> of_windows(np.array([1, 1, 4]), 32).facts["windows"]
        '6 of 3 training texts, at most 4 of one; neighbours share 32 tokens'
    """
    told = f"{counts.sum()} of {len(counts)} training texts, at most {counts.max()} of one"
    return Summary({"windows": f"{told}; neighbours share {stride} tokens"})


def of_padding(lengths: np.ndarray, bounds: Sequence[int], length: int) -> Summary:
    """The share of padding in batches of training texts, in buckets and without.

    Args:
        lengths: number of tokens of the training texts, [N].
        bounds: lengths of the buckets.
        length: number of tokens of a text without buckets.

    Example:
        >>> of_padding(np.array([8, 8, 16, 64]), [8, 64], 64).facts["padding"]
        '33.3% of the tokens in buckets of 8 and 64, 62.5% in batches of one length'
        >>> of_padding(np.array([8, 8, 16, 64]), [64], 64).facts["padding"]
        '62.5% of the tokens; --buckets=3 would leave 0.0%'
    """
    one = f"{buckets.padding(lengths, [length]):.1%}"
    if len(bounds) > 1:
        listed = f"{', '.join(map(str, bounds[:-1]))} and {bounds[-1]}"
        told = f"{buckets.padding(lengths, list(bounds)):.1%} of the tokens in buckets of {listed}"
        return Summary({"padding": f"{told}, {one} in batches of one length"})
    better = buckets.bounds(lengths, _SUGGESTED, length)
    hint = f"; --buckets={len(better)} would leave {buckets.padding(lengths, better):.1%}"
    return Summary({"padding": f"{one} of the tokens{hint if len(better) > 1 else ''}"})


def of_unknown(share: float, what: str = "tokens") -> Summary:
    """The share of tokens that the tokenizer does not know.

    Args:
        share: share of unknown tokens, in [0, 1].
        what: what they are, for the warning.

    Example:
        >>> of_unknown(0.25).warnings
        ['25.0% of the tokens are unknown to the tokenizer, and all the same to the model']
    """
    told = f"{share:.1%} of the {what} are unknown to the tokenizer"
    warnings = [f"{told}, and all the same to the model"] if share > UNKNOWN else []
    return Summary({"unknown tokens": f"{share:.1%}"} if share else {}, warnings)


def _quoted(parts: Mapping[str, TextExamples]) -> list[str]:
    """Warnings of columns whose every field is in quotes, which a .tsv does not read as such."""
    fields = {
        "text": [text for part in parts.values() for text in part.texts],
        "pair": [pair for part in parts.values() for pair in part.pairs or ()],
        "label": parts["train"].label_names,
    }
    quoted = [name for name, of_column in fields.items() if of_column and all(map(_IN_QUOTES.match, of_column))]
    if not quoted:
        return []
    told = f"every {' and '.join(quoted)} is in quotes, such as {shown.value(fields[quoted[-1]][0])}"
    return [f"{told}, which are read as part of it: for a quoted .tsv, name it .csv, with --delimiter='\\t'"]


def _of_targets(parts: Mapping[str, TextExamples]) -> Summary:
    train = parts["train"]
    if train.problem == targets.CLASS:
        return of_classes({name: part.labels for name, part in parts.items()}, train.label_names)
    facts = {"examples": ", ".join(f"{len(part.texts)} {name}" for name, part in parts.items())}
    if train.problem == targets.NUMBER:
        low, high, mean, deviation = (f(train.labels) for f in (np.min, np.max, np.mean, np.std))
        told = f"in training from {low:g} to {high:g}, mean {mean:.4g}, deviation {deviation:.4g}"
        return Summary(facts | {f"numbers in {shown.name(train.label_names[0])}": told})
    counts, names = train.labels.sum(0).astype(int), train.label_names
    order = np.argsort(-counts, kind="stable")[:_LISTED]
    listed = ", ".join(f"{shown.name(names[i])} {counts[i]}" for i in order)
    more = ", …" if len(names) > _LISTED else ""
    without = int((train.labels.sum(1) == 0).sum())
    facts["labels"] = (
        f"{len(names)}; in training: {listed}{more}; {train.labels.sum(1).mean():.3g} a text, "
        + (f"{counted(without, 'texts')} without any")
    )
    never = [shown.value(names[i]) for i in np.flatnonzero(counts == 0)]
    warnings = [f"train has no example of {', '.join(never[:3])}{', …' * (len(never) > 3)}"] if never else []
    return Summary(facts, warnings)


def _notes(parts: Mapping[str, TextExamples]) -> dict[str, str]:
    """What was left out of each source."""
    noted = {_file(name, part): part.notes for name, part in parts.items() if part.notes}
    of = {file: f" of {file}" if len(noted) > 1 else "" for file in noted}
    return {f"{note}{of[file]}": str(count) for file in noted for note, count in noted[file].items()}


def _file(name: str, part: TextExamples) -> str:
    """Where a part comes from, whole or in part."""
    return part.source.partition(f", {name} part (")[0]


def _sources(parts: Mapping[str, TextExamples]) -> dict[str, str]:
    files = {name: _file(name, part) for name, part in parts.items()}
    others = {f"{name} data": parts[name].source for name, file in files.items() if file != files["train"]}
    return {"data": parts["train"].source, **others}
