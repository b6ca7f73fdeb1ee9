"""The flags that describe how files of text are read, for every program that reads them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from absl import flags

from examples.data import tables, targets, text, text_files, text_folders
from examples.shared import program_flags

_TAB = "\\t"  # as it is typed
_ARGUMENT = "--{}="
_OF_TEXTS = ("encoding", "label_names")
_ONLY = {"label_names": (targets.CLASS, targets.LABELS), "separator": (targets.LABELS,)}


@dataclasses.dataclass(frozen=True)
class ColumnFlags:
    """The flags of a program for reading texts, and what they specify once they are parsed.

    Args:
        own: the program's flags, to which these are added.
    """

    _NAMES: ClassVar = ("text", "pair", "columns", "delimiter", "encoding")

    own: program_flags.Flags

    def __post_init__(self) -> None:
        self.own.DEFINE_string("text", None, "Column of the text; default: the usual names.")
        self.own.DEFINE_string("pair", None, "Column of the second text of a pair.")
        self.own.DEFINE_list("columns", None, "Names of the columns of a file without a header.")
        self.own.DEFINE_string("delimiter", None, "Delimiter of a .csv, such as ';'; default: a comma.")
        self.own.DEFINE_string("encoding", None, "Encoding of the files, such as latin-1; default: UTF-8.")

    def refuse_without(self, file: str) -> None:
        """Refuse flags that describe a file if there is no file.

        Args:
            file: the flag that would name a file, and its value.

        Raises:
            ValueError: one of the flags is given.
        """
        for name in self._NAMES:
            if self.own[name].value is not None:
                raise ValueError(f"--{name} describes a file, but there is none; see {file}")

    def read_lines(self, content: bytes, name: str) -> tuple[str, ...]:
        """Read a text a line as the flags specify, see `text_files.lines`."""
        return text_files.lines(content, name, tables.Format(encoding=self.own.encoding, argument=_ARGUMENT))

    def read_texts(
        self, path: str, *, pairs: bool, trained: Sequence[str] = ()
    ) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
        """Read texts without labels as the flags specify, see `text_files.read_texts`."""
        own = self.own
        how = tables.Format(own.columns, self._delimiter, own.encoding, _ARGUMENT)
        given = {"text": own.text, "pair": own.pair, "trained": trained}
        return text_files.read_texts(path, pairs=pairs, how=how, **given)

    def read_folder_texts(self, path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Read the texts of a folder as the flags specify; see `text_folders.read_texts`."""
        self.refuse_for_texts(f"{path} is a folder of texts")
        return text_folders.read_texts(path, encoding=self.own.encoding, argument=_ARGUMENT)

    def refuse_for_texts(self, what: str) -> None:
        """Refuse flags that describe columns.

        Args:
            what: what there is instead of them, in words.

        Raises:
            ValueError: one of the flags is given.
        """
        for name in self._NAMES:
            if name not in _OF_TEXTS and self.own[name].value is not None:
                raise ValueError(f"--{name} describes a file with columns, and {what}")

    @property
    def _delimiter(self) -> str | None:
        return "\t" if self.own.delimiter == _TAB else self.own.delimiter


class DataFlags(ColumnFlags):
    """The flags of a program for reading labelled text, and what they specify once they are parsed."""

    _NAMES: ClassVar = (*ColumnFlags._NAMES, "label", "label_names")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.own.DEFINE_string("label", None, "Column of the label; default: the usual names.")
        names = "The classes, in order, such as -1,+1; default: those of the training file."
        flag: flags.FlagHolder = self.own.DEFINE_list("label_names", None, names)
        flags.register_validator(
            flag, lambda value: value is None or len(value) > 1, "must be two names or more"
        )

    def read(self, path: str, label_names: Sequence[str] | None = None) -> text.TextExamples:
        """Read files or a folder as the flags specify, see `text_files.read` and `text_folders.read`."""
        own = self.own
        label_names = own.label_names if label_names is None else label_names
        if text_folders.is_one(Path(path)):
            self.refuse_for_texts(f"{path} is a folder of texts")
            given = {"encoding": own.encoding, "argument": _ARGUMENT}
            return text_folders.read(Path(path), label_names=label_names, **given)
        return text_files.read(
            path,
            text=own.text,
            pair=own.pair,
            label=own.label,
            columns=own.columns,
            label_names=label_names,
            delimiter=self._delimiter,
            encoding=own.encoding,
            argument=_ARGUMENT,
            **self._targets,
        )

    @property
    def _targets(self) -> dict[str, str]:
        return {}


class TargetFlags(DataFlags):
    """The same for a program that predicts classes, several labels of a text, or numbers."""

    _NAMES: ClassVar = (*DataFlags._NAMES, "separator")

    def __post_init__(self) -> None:
        super().__post_init__()
        text = "What a label is: one class, several labels of a text, or a number."
        self.own.DEFINE_enum("problem_type", targets.CLASS, targets.PROBLEMS, text)
        self.own.DEFINE_string("separator", None, "What separates several labels; default: a comma.")
        for name, only in _ONLY.items():
            program_flags.check_together(
                lambda x, name=name, only=only: x[name] is None or x["problem_type"] in only,
                f"--{name} needs --problem_type={' or '.join(only)}",
                self.own,
                self.own[name],
                self.own["problem_type"],
            )

    def refuse_without(self, file: str) -> None:
        """The same, and for labels other than classes."""
        super().refuse_without(file)
        if self.own.problem_type != targets.CLASS:
            raise ValueError(
                f"--problem_type={self.own.problem_type} describes a file, but there is none; see {file}"
            )

    def refuse_for_texts(self, what: str) -> None:
        """The same, and for labels other than classes."""
        super().refuse_for_texts(what)
        if self.own.problem_type != targets.CLASS:
            raise ValueError(f"--problem_type={self.own.problem_type}: {what}, whose folders are classes")

    @property
    def _targets(self) -> dict[str, str]:
        return {"problem": self.own.problem_type, "separator": self.own.separator or ","}
