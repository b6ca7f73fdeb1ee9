"""JSON is read exactly, or refused with the place of the error."""

import os

import pytest

from examples.shared.strict_json import parse_object, read_object


def test_an_object_is_read_as_it_stands(tmp_path):
    (tmp_path / "x.json").write_text('{"a": [1, {"b": "é"}], "c": {"a": null}}', encoding="utf-8")
    assert read_object(tmp_path / "x.json") == {"a": [1, {"b": "é"}], "c": {"a": None}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "^x:3 has 'c' twice$"),
        ("[1]", "^x:3 must hold a JSON object, got list$"),
        ('{"a": ', "^x:3 is not JSON: Expecting value: line 1 column 7"),
        ("[" * 200_000, "^x:3 is not JSON: nested too deeply$"),
        ('{"a": 1}'.encode("utf-16"), "^x:3 is not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_anything_else_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        parse_object(text, "x:3")


def test_a_file_is_bounded_before_it_is_read(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)  # of a hole: it takes no room
    with pytest.raises(ValueError, match=r"x\.json has 3,221,225,472 bytes; at most 16,777,216 are read"):
        read_object(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"x\.json is not a regular file"):
        read_object(path)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "none.json")
