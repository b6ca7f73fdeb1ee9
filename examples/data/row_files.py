"""The files of rows that a path means: a file, the shards of a folder, or the files that match a pattern."""

import collections
import glob
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from examples.data import folders, shown
from examples.shared import strict_json

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".csv", ".tsv")  # of shards; a .json beside them describes them
_OTHERS = "not shards"
_OF_SEVERAL = re.compile(r"(?P<of>.+)-(?P<index>[0-9]{5})-of-(?P<count>[0-9]{5})")  # as the Hub names shards
_SPLITS, _STATE, _LISTED = "dataset_dict.json", "state.json", "_data_files"  # as `save_to_disk` writes them
_WORD = re.compile("[a-z]+")


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern, such as `data/train-*.parquet`, and no file or folder."""
    return glob.has_magic(str(path)) and not path.exists()


def exist(path: Path) -> bool:
    """Whether there is the file or folder, or a file that matches the pattern."""
    return path.exists() or (is_pattern(path) and bool(_matching(path)))


def listed(path: Path, suffixes: Collection[str] = SUFFIXES) -> tuple[list[Path], Mapping[str, int]]:
    """The files, in the order of their paths, and what was left out of a folder → number of files.

    Of a folder that `datasets.save_to_disk` has written, the files are those that its description names. Of
    others, hidden files and those whose name, or that of their folder, begins with an underscore are left out,
    as systems such as Spark mark their own.

    Args:
        path: a file, a folder, or a pattern as of `glob.glob`, in which `**` stands for folders in folders.
        suffixes: suffixes of shards in a folder, in lower case.

    Raises:
        FileNotFoundError: no file matches the pattern.
        ValueError: a folder has no shards, shards of several types or parts of a data set, or one of its shards
            is missing.
    """
    name = shown.path(path)
    if is_pattern(path):
        matching = _matching(path)
        if not matching:
            raise FileNotFoundError(f"{name}: no file matches this pattern")
        return _checked(name, matching, suffixes), {}
    if not path.is_dir():
        return [path], {}
    if (path / _SPLITS).exists():
        splits = sorted(folder.name for folder in path.iterdir() if folder.is_dir())
        first = min(splits, key=lambda split: split not in folders.TRAIN, default="train")
        raise ValueError(f"{name} holds splits, {shown.values(splits)}: name one, as in {name}/{first}")
    every, left_out = folders.files(path)
    found = _saved(path) or [file for file in every if _is_shard(file.relative_to(path), suffixes)]
    if not found:
        raise ValueError(f"{name}: a folder without {', '.join(sorted(suffixes))} files")
    _refuse_parts(path, found)
    _refuse_missing(name, found)
    others = {_OTHERS: len(every) - len(found)} if len(every) > len(found) else {}
    return _checked(name, found, suffixes), {**left_out, **others}


def _matching(path: Path) -> list[Path]:
    """The files that match a pattern, without hidden ones."""
    found = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207  # Path.glob takes hidden files
    return sorted(file for file in found if file.is_file())


def _is_shard(relative: Path, suffixes: Collection[str]) -> bool:
    own = any(part.startswith("_") for part in relative.parts)
    return relative.suffix.lower() in suffixes and not own


def _saved(path: Path) -> list[Path]:
    """The files that the description of `save_to_disk` names; none if there is no such description."""
    state = path / _STATE
    entries = strict_json.read_object(state).get(_LISTED) if state.exists() else None
    if not isinstance(entries, list):
        return []
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    for each in names:
        if not isinstance(each, str) or Path(each).name != each:  # it must not lead out of the folder
            raise ValueError(f"{shown.path(state)}: {_LISTED} must name files of the folder, got {each!r}")
        if not (path / each).is_file():
            raise ValueError(f"{shown.path(state)} names {shown.value(each)}, which is not there")
    return sorted(path / each for each in names)


def _checked(name: str, files: list[Path], suffixes: Collection[str]) -> list[Path]:
    """Refuse files of several types, if one is a shard, and what is no file."""
    types: dict[str, Path] = {}
    for file in files:
        types.setdefault(file.suffix.lower(), file)
    if len(types) > 1 and not types.keys().isdisjoint(suffixes):
        one, other = list(types.values())[:2]
        raise ValueError(
            f"{name}: {shown.path(one)} and {shown.path(other)} are of two types, and shards are of one; "
            f"name those of one in a pattern, as in {shown.path(one.with_name('*' + one.suffix))}"
        )
    for file in files:
        if not file.is_file():  # a pipe would block, a device has no end
            raise ValueError(f"{shown.path(file)}: must be a regular file")
    return files


def _part(relative: Path) -> str | None:
    """The part of a data set that a file belongs to, by its name or that of a folder."""
    several = _OF_SEVERAL.fullmatch(relative.stem)
    for text in (relative.stem, *(folder.name for folder in relative.parents)):
        word = next((word for word in _WORD.findall(text.lower()) if word in folders.PARTS), None)
        if word is not None:
            return word
    return None if several is None else several["of"]


def _refuse_parts(path: Path, files: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for file in files:
        if (part := _part(file.relative_to(path))) is not None:
            first.setdefault(part, file)
    if len(first) > 1:
        part = min(first, key=lambda part: part not in folders.TRAIN)
        several = _OF_SEVERAL.fullmatch(first[part].stem)
        like = (
            first[part] if several is None else first[part].with_name(f"{several['of']}-*{first[part].suffix}")
        )
        raise ValueError(
            f"{shown.path(path)} holds parts of a data set, {shown.values(first)}; name one, as in "
            f"{shown.path(like)}"
        )


def _refuse_missing(name: str, files: Sequence[Path]) -> None:
    """Refuse shards that say how many they are, and are not all there."""
    there: dict[tuple[Path, int], set[int]] = collections.defaultdict(set)
    for file in files:
        if (several := _OF_SEVERAL.fullmatch(file.stem)) is not None:
            there[file.with_name(several["of"]), int(several["count"])].add(int(several["index"]))
    for (of, count), indices in there.items():
        missing = next((index for index in range(count) if index not in indices), None)
        if missing is not None:
            raise ValueError(
                f"{name}: of the {count:,} shards of {shown.value(of.name)}, {missing:05} is missing"
            )
