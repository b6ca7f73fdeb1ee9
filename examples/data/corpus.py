"""Unlabelled text to pre-train on: a text file, a folder of them, or the sources of Python's standard library.

The sources are the default because every Python installation carries them: real text, several megabytes of it,
whose structure one sees in two lines of a sample. Nothing is downloaded and nothing is imported. Their `source`
states the version of Python and a hash of the content.
"""

import dataclasses
import hashlib
import platform
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

# Not of the library, or not prose in Python: tables, generated text, tests.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "encodings", "pydoc_data", "lib2to3", "idlelib"}
MIN_DOCUMENTS = 20  # to deal them out whole; fewer are cut


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Documents, and where they come from.

    Attributes:
        documents: texts, none of them empty.
        source: for the record of a run.
    """

    documents: tuple[str, ...]
    source: str

    @property
    def size(self) -> int:
        """Number of bytes, as UTF-8."""
        return sum(len(document.encode()) for document in self.documents)


def standard_library() -> Corpus:
    """The sources of Python's standard library, a document a module, about 9 MB.

    Raises:
        ValueError: the installation has no sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    paths = [p for p in library.rglob("*.py") if LEFT_OUT.isdisjoint(p.relative_to(library).parts)]
    documents = []
    for path in sorted(paths):
        try:
            documents.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):  # an installation's own affair
            continue
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise ValueError(f"{library}: no sources; is this an installation without them?")
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]
    source = f"standard library of Python {platform.python_version()}, sha256 {digest}"
    return Corpus(tuple(documents), source)


def read(path: str | Path) -> Corpus:
    """A UTF-8 text file as one document, or a document for each file anywhere in a folder, in order of path.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a file is not UTF-8, or all are empty; naming it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    visible = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    documents = [text for text in map(_text, sorted(visible) if path.is_dir() else [path]) if text.strip()]
    if not documents:
        raise ValueError(f"{path}: no text")
    return Corpus(tuple(documents), str(path))


def split(corpus: Corpus, shares: Mapping[str, float]) -> dict[str, Corpus]:
    """Deal documents out to named parts by a hash of their text; a few documents are cut instead, in order.

    Args:
        corpus: the documents.
        shares: part → expected share, > 0; they add up to 1.

    Raises:
        ValueError: a part would be empty.

    Example:
        >>> parts = split(Corpus(("0123456789",), "digits"), {"train": 0.8, "test": 0.2})
        >>> parts["train"].documents, parts["test"].documents
        (('01234567',), ('89',))
    """
    dealt: dict[str, list[str]] = {name: [] for name in shares}
    for document in corpus.documents:
        for name, part in _pieces(document, shares, whole=len(corpus.documents) >= MIN_DOCUMENTS):
            dealt[name].append(part)
    parts = {name: Corpus(tuple(d for d in documents if d), corpus.source) for name, documents in dealt.items()}
    for name, part in parts.items():
        if not part.documents:
            raise ValueError(f"{corpus.source}: too little text for a part {name!r} of {shares[name]:.0%}")
    return parts


def _pieces(document: str, shares: Mapping[str, float], *, whole: bool) -> Iterator[tuple[str, str]]:
    position = int(hashlib.sha256(document.encode()).hexdigest()[:12], 16) / 16**12
    start = 0.0
    for name, share in shares.items():
        end = start + share
        if not whole:
            yield name, document[round(start * len(document)) : round(end * len(document))]
        elif start <= position < end or (name == list(shares)[-1] and position >= end):
            yield name, document
        start = end


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
