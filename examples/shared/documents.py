"""Documents that are rendered from records: pages next to their records, and sections of hand-written pages.

A section is the part of a page between the comments ``<!-- record: NAME -->`` and ``<!-- /record -->``; it can
be moved with its comments. The bytes of a picture depend on Matplotlib's version, so pictures only have to
exist.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from optimiz import training

_SECTION = re.compile(r"<!-- record: (\S+) -->(.*?)<!-- /record -->", re.DOTALL)
_PICTURE = re.compile(r"\]\((\w+\.png)\)")


@dataclasses.dataclass(frozen=True)
class Report:
    """A page next to its record.

    Attributes:
        render: function that returns the text of the page.
        write: function that writes the page and its pictures.
    """

    render: Callable[[], str]
    write: Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Documents:
    """Reports, and the pages that have sections.

    Attributes:
        root: directory of README.md and docs, whose pages may have sections.
        reports: path from the root → report.
        sections: name → function that returns the text, with links as on a page in docs.
    """

    root: Path
    reports: Mapping[str, Report]
    sections: Mapping[str, Callable[[], str]]

    def pages(self) -> list[str]:
        """Paths of all pages that have sections."""
        pages = [self.root / "README.md", *sorted((self.root / "docs").glob("**/*.md"))]
        return [page.relative_to(self.root).as_posix() for page in pages if _SECTION.search(_text(page))]

    def expected(self, path: str) -> str:
        """The text that a report, or a page with sections, should have.

        Raises:
            ValueError: the page has an unknown section.
        """
        if path in self.reports:
            return self.reports[path].render()

        def section(found: re.Match[str]) -> str:
            name, before = found[1], found[2]
            if name not in self.sections:
                known = ", ".join(self.sections)
                raise ValueError(f"{path} has an unknown section {name!r}; known are {known}")
            text = self.sections[name]()
            text = f"\n\n{text.strip()}\n\n" if before.startswith("\n") else text  # otherwise within a line
            return f"<!-- record: {name} -->{text}<!-- /record -->"

        return _SECTION.sub(section, _text(self.root / path))

    def stale(self) -> list[str]:
        """Paths of pages that differ from their records, and of missing pictures."""
        found = []
        for path in (*self.reports, *self.pages()):
            text, there = self.expected(path), self.root / path
            if not there.exists() or _text(there) != text:
                found.append(path)
        return found + self.missing_pictures()

    def missing_pictures(self) -> list[str]:
        """Paths of pictures that a report shows but that do not exist."""
        shown = [
            Path(path).parent / name for path in self.reports for name in _PICTURE.findall(self.expected(path))
        ]
        return [path.as_posix() for path in shown if not (self.root / path).exists()]

    def write(self) -> None:
        """Write every report and every page with sections, and print their paths."""
        for path, report in self.reports.items():
            report.write()
            print(path, flush=True)
        for path in self.pages():
            training.write_whole(self.root / path, self.expected(path))
            print(path, flush=True)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
