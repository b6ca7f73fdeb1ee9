"""The tensors of a model, in `model.safetensors` or in the files that `model.safetensors.index.json` names.

Names, dtypes and shapes are known before any numbers are read. Pickled weights are refused, because reading a
pickle runs the code in it.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from examples.shared import git_lfs, strict_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

_FLOATS = {"F16", "BF16", "F32", "F64"}
_LARGEST_HEADER = 2**24  # bytes, enough for some hundred thousand tensors


class Tensors:
    """The tensors of one or several files.

    Attributes:
        path: path of the file, or of the index.
    """

    def __init__(self, path: Path, files: dict[str, Any]):
        self.path, self._files = path, files

    def keys(self) -> list[str]:
        """The names of the tensors."""
        return list(self._files)

    def described(self, key: str) -> str:
        """The dtype and shape of a tensor, with `float` for every supported floating-point dtype."""
        about = self._files[key].get_slice(key)
        dtype = about.get_dtype()
        return f"{'float' if dtype in _FLOATS else dtype} {about.get_shape()}"

    def read(self, key: str) -> np.ndarray:
        """Read a tensor as float32.

        Raises:
            ValueError: a number is not finite.
        """
        with np.errstate(over="ignore"):
            numbers = np.asarray(self._files[key].get_tensor(key)).astype(np.float32)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{self.path}: {key} has numbers that are not finite in float32")
        return numbers


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[Tensors]:
    """Open the files of a model.

    Args:
        directory: directory with `model.safetensors`, or with an index and the files that it names.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or does not match the index.
    """
    with contextlib.ExitStack() as stack:
        if (directory / WEIGHTS).is_file() or not (directory / INDEX).is_file():
            path = existing(directory, WEIGHTS)
            file = stack.enter_context(_file(path))
            files = dict.fromkeys(file.keys(), file)
        else:
            path = directory / INDEX
            files = {}
            for name, keys in _by_file(path).items():
                file = stack.enter_context(_file(existing(directory, name)))
                if absent := keys - set(file.keys()):
                    raise ValueError(f"{path} says that {min(absent)} is in {name}, which does not have it")
                if twice := files.keys() & set(file.keys()):
                    raise ValueError(f"{path}: {min(twice)} is in two files")
                files |= dict.fromkeys(file.keys(), file)
        try:
            yield Tensors(path, files)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}") from None


def existing(directory: Path, name: str) -> Path:
    """The path of a file in a directory.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: it is a pointer of Git LFS.
    """
    path = directory / name
    if path.is_file():
        git_lfs.refuse(path)
        return path
    message = f"{directory} has no {name}"
    if not any(directory.iterdir()):
        message += ", and is empty"
    pickles = sorted(file.name for file in directory.glob("*") if file.suffix in PICKLES)
    if name == WEIGHTS and pickles:
        message += (
            f"; {pickles[0]} is a pickle, which could run code, and is never read: if you trust it, load it "
            "with transformers and call save_pretrained, which writes safetensors"
        )
    raise FileNotFoundError(message)


def _by_file(path: Path) -> dict[str, set[str]]:
    """The names of the tensors in each file, according to an index."""
    places = strict_json.read_object(path).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{path}: weight_map must be an object from names of tensors to files")
    files: dict[str, set[str]] = {}
    for key, name in places.items():
        # Only files in this directory are read.
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != Path(WEIGHTS).suffix:
            raise ValueError(
                f"{path}: {key} must be in a .safetensors file next to it, got {str(name)[:100]!r}"
            )
        files.setdefault(name, set()).add(key)
    return files


def _file(path: Path) -> Any:
    """Open a file whose header names each tensor once."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _LARGEST_HEADER:
        raise ValueError(f"{path} is damaged: a header of {length:,} bytes, above {_LARGEST_HEADER:,}")
    try:
        opened = safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    with path.open("rb") as file:
        file.seek(8)
        # The library would take the last of two entries.
        strict_json.parse_object(file.read(length), f"{path}: its header")
    return opened
