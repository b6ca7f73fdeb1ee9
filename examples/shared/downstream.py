"""The program that goes on with a model once it is trained, by arguments which a flag of the trainer gives."""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

from examples.shared import command, signals
from examples.shared.program_flags import Flags


@dataclasses.dataclass(frozen=True)
class Downstream:
    """What is to be run next.

    Attributes:
        module: the program, to be run with ``python -m``.
        flags: its flags, ``--model``, ``--output`` and ``--resume`` among them.
        given: its arguments as they are typed, which may name another output.
        model: directory of the model.
        output: directory of the trainer, in which it writes to ``downstream``.
        resume: whether the trainer goes on with an earlier run, so that this one does too.
    """

    module: str
    flags: Flags
    given: str
    model: Path
    output: Path
    resume: bool

    @property
    def arguments(self) -> list[str]:
        """All arguments; later ones win."""
        own = [f"--model={self.model}", f"--output={self.output / 'downstream'}"]
        return own + ["--resume"] * self.resume + shlex.split(self.given)

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Set the program's flags within a ``with`` block, before anything is trained.

        Raises:
            ValueError: the arguments are refused, when they are parsed or in the body; or by them another model
                would be used, or a directory that holds something.
        """
        with command.arguments("downstream", self.arguments, self.flags):
            if self.flags.model != str(self.model):
                raise ValueError("--model is the one that is pre-trained here; leave it out")
            there = Path(self.flags.output)
            own = there == self.output / "downstream"  # is begun or gone on with as the trainer is
            if not (own or self.flags.resume) and there.is_dir() and any(there.iterdir()):
                raise ValueError(f"--output={there} is not empty; choose another, or leave it out")
            yield

    def start(self) -> None:
        """Run the program in the place of this one."""
        signals.replace_process("-m", self.module, *self.arguments)
