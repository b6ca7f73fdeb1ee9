"""Predictions of a classifier as text: a table, or lines of JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

FORMATS = ("tsv", "csv", "jsonl")


def written(
    names: Sequence[str], given: Sequence[Mapping[str, str]], probabilities: np.ndarray, form: str
) -> str:
    """A row for each example: what was given, the most probable class, and the probabilities of all.

    Args:
        names: the classes, C.
        given: what was given, by its name, N times.
        probabilities: [N, C]; six digits of each are written.
        form: one of FORMATS. In TSV, tabs and line ends of a text become spaces.

    Example:
        >>> print(written(["bad", "good"], [{"text": "A joy."}], np.array([[0.25, 0.75]]), "csv"), end="")
        text,label,probability,p(bad),p(good)
        A joy.,good,0.75,0.25,0.75
    """
    found = _rows(names, given, probabilities)
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
    names: Sequence[str], given: Sequence[Mapping[str, str]], probabilities: np.ndarray
) -> Iterator[dict[str, Any]]:
    for about, of_classes in zip(given, probabilities, strict=True):
        rounded = [float(f"{p:.6g}") for p in of_classes]
        best = int(of_classes.argmax())
        by_name = dict(zip(names, rounded, strict=True))
        yield {**about, "label": names[best], "probability": rounded[best], "probabilities": by_name}


def _lines(found: Iterator[dict[str, Any]]) -> Iterator[list[Any]]:
    """The cells of a header, and of every row."""
    for i, row in enumerate(found):
        classes = row.pop("probabilities")
        if i == 0:
            yield [*row, *(f"p({name})" for name in classes)]
        yield [*row.values(), *classes.values()]
