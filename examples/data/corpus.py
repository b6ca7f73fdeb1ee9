"""Unlabelled text to pre-train on: text files, shards, or the sources of Python's standard library.

The sources are the default because every Python installation has them: several megabytes of real text, whose
structure is visible in two lines of a sample. Nothing is downloaded or imported. Their `source` states the
version of Python and a hash of the content.
"""

import dataclasses
import hashlib
import math
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from examples.data import dealing, folders, memory, row_files, shards, shown
from examples.data.summary import Summary

# Not part of the library, or not ordinary Python: tables, generated text, tests.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "encodings", "pydoc_data", "lib2to3", "idlelib"}
MIN_DOCUMENTS = 20  # for whole documents in each part; if there are fewer, each is cut
SAMPLE = 10**8  # bytes of text in shards from which a tokenizer is learned
LARGE = 0.6  # of the smallest part: a document above that is cut

# Pictures, sounds, films, fonts, documents, archives, and what programs write.
_NO_TEXT = re.compile(
    r"""\.(bmp|gif|heic|ico|jpe?g|png|tiff?|webp|m4a|mp3|ogg|wav|avi|mov|mp4|otf|ttf|woff2?|docx?|epub|odt|pdf|pptx?
    |xlsx?|7z|bz2|gz|rar|tar|xz|zip|zst|bin|exe|np[yz]|pickle|pkl|pt|pyc|safetensors|so)""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Documents, and where they come from.

    Attributes:
        documents: texts, none of them empty; a tuple, or read again from shards at every iteration.
        source: where they come from, for the record of a run.
        left_out: what was left out → number of files, or of documents.
    """

    documents: Iterable[str]
    source: str
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def in_memory(self) -> bool:
        """Whether the documents are in memory, and not in shards."""
        return isinstance(self.documents, tuple)

    @property
    def size(self) -> int:
        """Number of bytes, as UTF-8."""
        return sum(len(document.encode()) for document in self.documents)

    @property
    def sample(self) -> Iterable[str]:
        """The documents, or the first of those in shards, from which a tokenizer can be learned."""
        return self.documents if self.in_memory else _first(self.documents, SAMPLE)


def standard_library() -> Corpus:
    """The sources of Python's standard library, one document per module, about 9 MB.

    Raises:
        ValueError: the installation has no sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    paths = [p for p in library.rglob("*.py") if LEFT_OUT.isdisjoint(p.relative_to(library).parts)]
    documents = []
    for path in sorted(paths):
        try:
            documents.append(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):  # sources that cannot be read are skipped
            continue
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise ValueError(f"{library}: no sources; is this an installation without them?")
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()[:16]
    source = f"standard library of Python {platform.python_version()}, sha256 {digest}"
    return Corpus(tuple(documents), source)


def read(path: str | Path, column: str | None = None) -> Corpus:
    """Read a UTF-8 text file as one document, or every file below a folder, in the order of their paths.

    Shards, files of many documents, are not read here but when their documents are iterated over. Hidden files,
    system files, empty files and pictures or archives in a folder are left out and counted, and so is what lies
    next to shards.

    Args:
        path: path of the file or folder, or a pattern of files, see `row_files.listed`.
        column: field of the text in shards; None for "text".

    Raises:
        FileNotFoundError: there is no such file or folder.
        ImportError: a package that reads the shards is not installed.
        ValueError: a file is not UTF-8 text, all files are empty, shards are refused, see `row_files.listed`,
            or there is a column but no shards; the message names the file or folder.
    """
    path = Path(path)
    name = shown.path(path)
    if not row_files.exist(path):
        raise FileNotFoundError(f"{name}: no such file or folder")
    if path.exists() and not path.is_dir() and not path.is_file():  # a pipe would block, a device has no end
        raise ValueError(f"{name}: must be a regular file or a folder, got a pipe or a device")
    found, left_out = folders.files(path) if path.is_dir() else row_files.listed(path)
    listed = len(found)
    found = [file for file in found if not (path.is_dir() and is_no_text(file))]
    regular = [file for file in found if file.is_file()]
    if any(file.suffix in shards.SUFFIXES for file in regular):
        return _in_shards(path, "text" if column is None else column)
    if column is not None:
        raise ValueError(f"{name}: has no field {shown.value(column)}, as it holds text and no shards")
    memory.check(sum(file.stat().st_size for file in regular), name)
    texts = [_text(file) for file in regular]
    documents = tuple(text for text in texts if text.strip())
    if not documents:
        raise ValueError(f"{name}: no text")
    others = {
        "not text, by their names": listed - len(found),
        "not a regular file": len(found) - len(regular),
        "empty": len(texts) - len(documents),
    }
    return Corpus(documents, name, {**left_out, **{what: count for what, count in others.items() if count}})


def is_no_text(file: Path) -> bool:
    """Whether a file is a picture, a sound, an archive or another that is no text, by its name."""
    return _NO_TEXT.fullmatch(file.suffix) is not None


def _in_shards(path: Path, column: str) -> Corpus:
    name = shown.path(path)
    found, left_out = row_files.listed(path, shards.SUFFIXES)
    stats = [file.stat() for file in found]
    told = [(shown.path(file), stat.st_size, stat.st_mtime_ns) for file, stat in zip(found, stats, strict=True)]
    digest = hashlib.sha256(repr((column, told)).encode()).hexdigest()[:16]
    size = sum(stat.st_size for stat in stats)
    source = f"{name}, {len(found)} shards of {size / 1e6:,.2f} MB, field {shown.name(column)}, digest {digest}"
    return Corpus(shards.Documents(found, column), source, left_out)


def split(corpus: Corpus, shares: Mapping[str, float]) -> dict[str, Corpus]:
    """Distribute documents over named parts by a hash of their text; if there are few, each is cut instead.

    A document that is large compared with the smallest part is cut too, as otherwise the sizes of the parts
    would be arbitrary. A cut document goes to the parts in order. Documents in shards are never cut. If none is
    cut, a part that would be empty gets those of the nearest hashes.

    Args:
        corpus: the documents.
        shares: part → expected share, > 0; the shares add up to 1.

    Raises:
        ValueError: a part would be empty.

    Example:
        >>> parts = split(Corpus(("0123456789",), "digits"), {"train": 0.8, "test": 0.2})
        >>> parts["train"].documents, parts["test"].documents
        (('01234567',), ('89',))
    """
    if isinstance(corpus.documents, shards.Documents):
        return dict(_shares_of_shards(corpus.documents, corpus.source, shares))
    dealt: dict[str, list[str]] = {name: [] for name in shares}
    few = len(corpus.documents) < MIN_DOCUMENTS
    large = LARGE * min(shares.values()) * corpus.size
    cut = [few or len(document.encode()) > large for document in corpus.documents]
    owners = dealing.owners([_place(document) for document in corpus.documents], shares, fill=not any(cut))
    for document, is_cut, owner in zip(corpus.documents, cut, owners, strict=True):
        for name, part in _pieces(document, shares) if is_cut else [(list(shares)[owner], document)]:
            dealt[name].append(part)
    parts = {name: Corpus(tuple(d for d in documents if d), corpus.source) for name, documents in dealt.items()}
    for name, part in parts.items():
        if not part.documents:
            raise ValueError(f"{corpus.source}: too little text for a part {name!r} of {shares[name]:.0%}")
    return parts


def summary(corpus: Corpus, parts: Mapping[str, Corpus], shares: Mapping[str, float]) -> Summary:
    """Summarize what to know about a text before training a model on it.

    Args:
        corpus: the text.
        parts: the parts that it was split into.
        shares: part → requested share.

    Example:
        >>> shares = {"train": 0.9, "test": 0.1}
        >>> digits = Corpus(("0123456789",), "digits", {"empty": 2})
        >>> summary(digits, split(digits, shares), shares).facts["left out"]
        '2 empty'
    """
    if not corpus.in_memory:
        return Summary({"data": corpus.source, **_left_out(corpus)}, [])
    total = sum(part.size for part in parts.values())
    sizes = ", ".join(f"{part.size / total:.1%} {name}" for name, part in parts.items())
    facts = {
        "data": corpus.source,
        "megabytes": f"{corpus.size / 1e6:.2f}",
        "documents": f"{len(corpus.documents)}",
    }
    facts["shares of the text"] = sizes
    copies = len(corpus.documents) - len(set(corpus.documents))
    if copies:
        facts["duplicates"] = f"{copies} documents"
    facts |= _left_out(corpus)
    warnings = [
        f"{name} has {part.size / total:.1%} of the text, but {shares[name]:.0%} was requested"
        for name, part in parts.items()
        if not 0.5 < part.size / total / shares[name] < 2
    ]
    return Summary(facts, warnings)


def _shares_of_shards(
    documents: shards.Documents, source: str, shares: Mapping[str, float]
) -> Iterator[tuple[str, Corpus]]:
    start = 0.0
    for name, share in shares.items():
        end = math.inf if name == list(shares)[-1] else start + share
        yield name, Corpus(shards.Share(documents, _place, start, end), f"{source}, part from {start:g}")
        start = end


def _left_out(corpus: Corpus) -> dict[str, str]:
    told = ", ".join(f"{count} {what}" for what, count in corpus.left_out.items())
    return {"left out": told} if told else {}


def _first(documents: Iterable[str], size: int) -> Iterator[str]:
    """The first documents, of so many bytes together."""
    for document in documents:
        if size <= 0:
            return
        size -= len(document.encode())
        yield document


def _place(document: str) -> float:
    return dealing.position(document.encode())


def _pieces(document: str, shares: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    start = 0.0
    for name, share in shares.items():
        end = start + share
        yield name, document[round(start * len(document)) : round(end * len(document))]
        start = end


def _text(path: Path) -> str:
    name = shown.path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 at byte {error.start}; save it as UTF-8, or remove it") from None
    if "\0" in text:
        raise ValueError(f"{name}: a NUL at character {text.index(chr(0))}; is this a text file?")
    return text
