"""The program that continues with a trained model, with arguments from a flag of the trainer."""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

from examples.shared import command, signals
from examples.shared.program_flags import Flags


@dataclasses.dataclass(frozen=True)
class Downstream:
    """A program to run after training.

    Attributes:
        module: name of the program for ``python -m``.
        flags: flags of the program, including ``--model``, ``--output`` and ``--resume``.
        given: arguments of the program as typed; they may name another output.
        model: directory of the model.
        output: directory of the trainer; the program writes to ``downstream`` in it.
        resume: whether the trainer resumes an earlier run, so that the program does too.
    """

    module: str
    flags: Flags
    given: str
    model: Path
    output: Path
    resume: bool

    @property
    def arguments(self) -> list[str]:
        """All arguments of the program; later ones take precedence."""
        own = [f"--model={self.model}", f"--output={self.output / 'downstream'}"]
        return own + ["--resume"] * self.resume + shlex.split(self.given)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Set the program's flags within a ``with`` block, before anything is trained.

        Raises:
            ValueError: the arguments are refused, either when they are parsed or in the body; or they name
                another model, or an output directory that is not empty.
        """
        with command.arguments("downstream", self.arguments, self.flags):
            if self.flags.model != str(self.model):
                raise ValueError("--model is the one that is pre-trained here; leave it out")
            there = Path(self.flags.output)
            own = there == self.output / "downstream"  # started or resumed like the trainer
            if not (own or self.flags.resume) and there.is_dir() and any(there.iterdir()):
                raise ValueError(f"--output={there} is not empty; choose another, or leave it out")
            yield

    def start(self) -> None:
        """Replace this process by the program."""
        signals.replace_process("-m", self.module, *self.arguments)
