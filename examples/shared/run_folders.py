"""The directory of a run, and what is in it."""

from pathlib import Path

MODEL = "model"  # the parameters that were tested, in the Hugging Face layout


def refuse_several(flag: str, directory: Path, file: str) -> None:
    """Refuse the directory of several runs where that of one is meant.

    Args:
        flag: name of the flag that has it.
        directory: the directory.
        file: path of a file that every run has, in its own directory.

    Raises:
        ValueError: it holds runs; the message names them.
    """
    depth = len(directory.parts)
    if runs := sorted(path.parts[depth] for path in directory.glob(f"*/{file}")):
        raise ValueError(
            f"--{flag}={directory} holds the runs {', '.join(runs)}; choose one, such as "
            f"--{flag}={directory / runs[0]}"
        )
