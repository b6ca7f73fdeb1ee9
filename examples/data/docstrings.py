"""A classification task from any Python installation: predict the topic of a sentence.

The sentences are the first sentences of the standard library's docstrings; the labels are the topics of their
modules:

    "Return a matrix representing a month's calendar."      dates
    "Wake up the first waiter that isn't done."             concurrency

They were written for readers, not for this purpose. Nothing is downloaded or imported: the sources are parsed.
There are about 4,700 sentences, depending on the version of Python, so `source` states the version and a hash
of the content.

What keeps the task honest:

- Topics are sets of modules that a reader could tell apart. Modules that belong to two topics are left out:
  `os`, `nntplib`, `idlelib`, `pydoc`.
- A sentence has at least five words and is prose: no signature, no interpreter session.
- Sentences that differ only in code, numbers or punctuation count once, and sentences that occur under two
  topics are dropped. So no test sentence is a training sentence with another name filled in.
- No topic has more than an eighth of the sentences; a hash decides which ones it keeps.
- Training gets 40 %, validation 15 %, test 45 %: few labels per topic, as at the start of a project, and a test
  set that is large enough to tell methods apart (a standard error of about one point).
"""

import ast
import collections
import hashlib
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from examples.data.text import TextExamples, split

# Topic → top-level modules. Some exist only in some versions of Python.
TOPICS = {
    "archives": "_compression bz2 gzip lzma tarfile zipapp zipfile",
    "collections": "_collections_abc _weakrefset bisect collections graphlib heapq weakref",
    "concurrency": "_threading_local asyncio concurrent multiprocessing queue sched signal subprocess"
    " threading",
    "data formats": "configparser copyreg csv dbm json pickle pickletools plistlib shelve sqlite3 tomllib"
    " xdrlib",
    "dates": "_pydatetime _strptime calendar datetime zoneinfo",
    "debugging": "bdb cProfile pdb profile pstats timeit trace traceback tracemalloc",
    "files": "_pyio filecmp fileinput fnmatch genericpath glob linecache ntpath pathlib posixpath shutil stat"
    " tempfile",
    "graphics": "tkinter turtle turtledemo",
    "importing": "ensurepip imp importlib modulefinder pkgutil runpy site sysconfig venv zipimport",
    "language": "ast codeop compileall dis inspect opcode py_compile pyclbr symtable tabnanny token tokenize",
    "logging": "logging warnings",
    "mail": "email imaplib mailbox mailcap poplib quopri smtplib",
    "markup": "_markupbase html xml",
    "mathematics": "_pydecimal _pylong fractions numbers random statistics",
    "networking": "cgi ftplib http ipaddress selectors socket socketserver telnetlib urllib webbrowser wsgiref"
    " xmlrpc",
    "security": "crypt hashlib hmac secrets ssl",
    "terminal": "_pyrepl argparse cmd curses getopt getpass optparse pty rlcompleter tty",
    "testing": "doctest unittest",
    "text": "codecs difflib encodings gettext locale re shlex string stringprep textwrap",
    "types": "_py_abc abc dataclasses enum types typing",
}
FRACTIONS = {"train": 0.40, "validation": 0.15, "test": 0.45}

MIN_WORDS = 5
MIN_SENTENCES = 50  # per topic; a topic with fewer is left out, as training would see only a handful
MAX_SHARE = 1 / 8

_TEST_FOLDERS = {"test", "tests"}
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])\s+(?=[A-Z\"'(`:*>])")
_WORD = re.compile(r"(?<!\S)[\"'(`*]*[A-Za-z]{2,}")
_NOT_PROSE = re.compile(r">>>|->|<=+>|^\w+\(")
_CODE = re.compile(r"\S*[\d_'\"`()/]\S*")
_NOT_LETTERS = re.compile(r"[^a-z]+")


def load() -> TextExamples:
    """All sentences, in alphabetical order, with their topics.

    Returns:
        N ≈ 4,700 examples of about 20 topics; topics whose modules this installation lacks are left out.

    Raises:
        ValueError: fewer than two topics have enough sentences, such as in a library without sources.
    """
    library = Path(sysconfig.get_path("stdlib"))
    topics_of = collections.defaultdict(set)
    sentence_of: dict[str, str] = {}
    for topic, sentence in _sentences(library):
        key = _key(sentence)
        topics_of[key].add(topic)
        sentence_of[key] = min(sentence, sentence_of.get(key, sentence))
    by_topic = collections.defaultdict(list)
    for key, sentence in sentence_of.items():
        if len(topics_of[key]) == 1:
            by_topic[min(topics_of[key])].append(sentence)
    names = tuple(sorted(topic for topic in by_topic if len(by_topic[topic]) >= MIN_SENTENCES))
    if len(names) < 2:
        raise ValueError(f"{library}: no docstrings to learn from; is this an installation without sources?")
    limit = int(MAX_SHARE * sum(len(by_topic[topic]) for topic in names))
    rows = sorted(
        (sentence, names.index(topic))
        for topic in names
        for sentence in sorted(by_topic[topic], key=_digest)[:limit]
    )
    content = _digest("".join(f"{names[label]}\t{sentence}\n" for sentence, label in rows))
    return TextExamples(
        texts=tuple(sentence for sentence, _ in rows),
        pairs=None,
        labels=np.array([label for _, label in rows], np.int32),
        label_names=names,
        source=f"docstrings of Python {platform.python_version()}, sha256 {content[:16]}",
    )


def load_split() -> dict[str, TextExamples]:
    """The parts "train", "validation" and "test", split by the hash of each sentence.

    Raises:
        ValueError: as for `load`.
    """
    return split(load(), FRACTIONS)


def _sentences(library: Path) -> Iterator[tuple[str, str]]:
    """(topic, sentence) for each docstring that starts with prose."""
    for topic, modules in TOPICS.items():
        for module in modules.split():
            for path in [library / f"{module}.py", *(library / module).rglob("*.py")]:
                if _TEST_FOLDERS.isdisjoint(path.relative_to(library).parts):
                    for docstring in _docstrings(path):
                        sentence = _first_sentence(docstring)
                        if len(_WORD.findall(sentence)) >= MIN_WORDS and not _NOT_PROSE.search(sentence):
                            yield topic, sentence


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):  # absent, unreadable, or not Python
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node, clean=False) or ""


def _first_sentence(docstring: str) -> str:
    paragraph = _PARAGRAPH_END.split(docstring.strip(), maxsplit=1)[0]
    return _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)[0]


def _key(sentence: str) -> str:
    """A sentence with names from code, numbers and punctuation blanked out."""
    return _NOT_LETTERS.sub(" ", _CODE.sub("#", sentence).lower()).strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
