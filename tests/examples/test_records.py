"""Every committed document matches its record: ``python -m examples.records`` renders it again."""

import re

import pytest
from absl.testing import flagsaver

from examples import records
from examples.shared import command
from examples.shared.documents import Documents, Report
from tests.conftest import ROOT

DOCUMENTS = records.documents()


def call(*arguments):
    """The program, in this process: its exit code."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as exit:
        command.parse(["records", *arguments], records.FLAGS)
        records.main()
    return exit.value.code


@pytest.mark.parametrize("path", [*DOCUMENTS.reports, *DOCUMENTS.pages()])
def test_a_document_is_as_its_record_has_it(path):
    stale = f"{path} is stale: python -m examples.records renders it again"
    assert (ROOT / path).read_text(encoding="utf-8") == DOCUMENTS.expected(path), stale


def test_every_section_has_a_place():
    text = "".join((ROOT / path).read_text(encoding="utf-8") for path in DOCUMENTS.pages())
    assert set(re.findall(r"<!-- record: (\S+) -->", text)) == set(DOCUMENTS.sections)
    assert text.count("<!-- record: ") == text.count("<!-- /record -->")


def test_every_picture_of_a_report_exists():
    assert DOCUMENTS.missing_pictures() == []


def test_every_committed_record_has_a_report():
    found = [path for folder in ("examples", "tests/records") for path in (ROOT / folder).rglob("*.md")]
    assert {path.relative_to(ROOT).as_posix() for path in found} == set(DOCUMENTS.reports)


def test_a_stale_page_and_a_missing_picture_are_listed(tmp_path, monkeypatch, capsys):
    page = "<!-- record: speed -->\n\nslow\n\n<!-- /record --> and <!-- record: resnet -->bad<!-- /record -->"
    (tmp_path / "README.md").write_text(page)
    reports = {
        "a/report.md": Report(lambda: "![x](curves.png)", None),
        "b/report.md": Report(lambda: "fine", None),
    }
    for path, text in {"a/report.md": "![x](curves.png)", "b/report.md": "old"}.items():
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    sections = {"speed": lambda: "fast\n", "resnet": lambda: "good"}
    documents = Documents(tmp_path, reports, sections)
    monkeypatch.setattr(records, "documents", lambda: documents)
    assert call("--check") == 1
    assert capsys.readouterr().out.splitlines() == [
        "stale: b/report.md", "stale: README.md", "stale: a/curves.png",
    ]  # fmt: skip
    assert "\n\nfast\n\n" in documents.expected("README.md") and ">good<" in documents.expected("README.md")
    (tmp_path / "README.md").write_text(page.replace("speed", "sped"))
    with pytest.raises(ValueError, match=r"README\.md has an unknown section 'sped'; known are speed, resnet"):
        documents.expected("README.md")
