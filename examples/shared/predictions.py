"""Predictions of a model as text: a table, or lines of JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

FORMATS = ("tsv", "csv", "jsonl")
CLASS, LABELS, NUMBER = "single_label_classification", "multi_label_classification", "regression"
LIKELY = 0.5  # probability above which a text has a label


def written(
    names: Sequence[str],
    given: Sequence[Mapping[str, str]],
    predicted: np.ndarray,
    form: str,
    problem: str = CLASS,
) -> str:
    """A row for each example: what was given, and what is predicted.

    That is the most probable class, with the probabilities of all; or the labels whose probability is above one
    half, likewise; or the number.

    Args:
        names: the classes or labels, C; of a number, its name alone.
        given: what was given, by its name, N times.
        predicted: probabilities or numbers, [N, C]; six digits of each are written.
        form: one of FORMATS. In TSV, tabs and line ends of a text become spaces.
        problem: what is predicted, as `transformers` names it.

    Example:
        >>> print(written(["bad", "good"], [{"text": "A joy."}], np.array([[0.25, 0.75]]), "csv"), end="")
        text,label,probability,p(bad),p(good)
        A joy.,good,0.75,0.25,0.75
    """
    found = _rows(names, given, predicted, problem)
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    table = io.StringIO()
    for line in _lines(found):
        if form == "csv":
            csv.writer(table, lineterminator="\n").writerow(line)
        else:
            cells = (" ".join(str(cell).splitlines()).replace("\t", " ") for cell in line)
            table.write("\t".join(cells) + "\n")
    return table.getvalue()


def _rows(
    names: Sequence[str], given: Sequence[Mapping[str, str]], predicted: np.ndarray, problem: str
) -> Iterator[dict[str, Any]]:
    for about, of_one in zip(given, predicted, strict=True):
        rounded = [float(f"{p:.6g}") for p in of_one]
        by_name = dict(zip(names, rounded, strict=True))
        if problem == NUMBER:
            yield {**about, **by_name}
        elif problem == LABELS:
            yield {**about, "labels": [n for n, p in by_name.items() if p > LIKELY], "probabilities": by_name}
        else:
            best = int(of_one.argmax())
            yield {**about, "label": names[best], "probability": rounded[best], "probabilities": by_name}


def _lines(found: Iterator[dict[str, Any]]) -> Iterator[list[Any]]:
    """The cells of a header, and of every row."""
    for i, row in enumerate(found):
        classes = row.pop("probabilities", {})
        if "labels" in row:
            row["labels"] = ",".join(row["labels"])
        if i == 0:
            yield [*row, *(f"p({name})" for name in classes)]
        yield [*row.values(), *classes.values()]
