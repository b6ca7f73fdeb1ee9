"""The file that a program writes its answers to."""

from pathlib import Path


def check(output: Path) -> None:
    """Refuse a value of ``--output`` before there is anything to write.

    Raises:
        ValueError: the file exists, or its directory does not.
    """
    if output.exists():
        raise ValueError(f"--output={output} exists; choose another, or remove it")
    if not output.parent.is_dir():
        raise ValueError(f"--output={output}: there is no directory {output.parent}")
