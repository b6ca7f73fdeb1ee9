"""Read what a run has learned back from its directory, with or without its code."""

import ast
import json
import os
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from optimiz.training.errors import RunError, as_run_error, one_line
from optimiz.training.storage import checkpoint, manifest
from optimiz.training.storage.run_directory import CHECKPOINTS


def load_params(
    directory: str | os.PathLike[str], step: int | Literal["best", "kept"] | None = None, *, like: Any = None
) -> Any:
    """Read the parameters that a run has saved: those to evaluate, if its optimizer keeps an average.

    Args:
        directory: the run's directory, as passed to ``fit``; the run may still be in progress.
        step: number of updates after which a checkpoint was kept (number of batches, if examples are selected);
            "best" for the checkpoint kept by ``Settings(keep_best=)``, "kept" for it or, in a run that keeps
            no best, the newest; None for the newest.
        like: a tree of arrays or of ``jax.ShapeDtypeStruct``, such as ``jax.eval_shape(task.init, key)``. The
            result has its tree, its dtypes and its shardings. None for nested dicts, as in Flax Linen, in the
            dtypes that were saved; a list then becomes a dict keyed by index, any other object a dict keyed by
            attribute.

    Returns:
        The parameters, on the first device if ``like`` has no shardings.

    Raises:
        TypeError: ``step`` has another type, or a leaf of ``like`` is not a floating-point array.
        RunError: the directory holds no such checkpoint, or it is damaged, or does not fit ``like``.

    Example:
        ``params = training.load_params("runs/mine", "best")``
    """
    return _load(directory, step, (".averaged", ".params"), like)


def load_model_state(
    directory: str | os.PathLike[str], step: int | Literal["best", "kept"] | None = None, *, like: Any = None
) -> Any:
    """Read the model state that a run has saved with its parameters; see :func:`load_params`."""
    return _load(directory, step, (".model_state",), like)


def _load(directory: str | os.PathLike[str], step: Any, parts: tuple[str, ...], like: Any) -> Any:
    """The first of some parts that a checkpoint has."""
    if not (
        step is None or step in ("best", "kept") or (isinstance(step, Integral) and not isinstance(step, bool))
    ):
        raise TypeError(f'step must be a number of updates, "best", "kept" or None, got {step!r}')
    folder = Path(directory).expanduser().absolute() / CHECKPOINTS
    with as_run_error(folder):
        path, content = _found(folder, step)
    saved = content["arrays"]
    part = next((part for part in parts if any(_is_within(name, part) for name in saved)), None)
    if part is None:
        raise RunError(f"{path} holds no {parts[-1].removeprefix('.')}")
    there = {name: text for name, text in saved.items() if _is_within(name, part)}
    if like is None:
        wanted = {name: _shape_of(text) for name, text in there.items()}
    else:
        wanted = {part + name: leaf for name, leaf in checkpoint.by_path(like).items()}
        for name, leaf in wanted.items():
            dtype = getattr(leaf, "dtype", None)
            _refuse_other_kind(name, type(leaf).__name__ if dtype is None else dtype, there.get(name))
        for name in [*wanted, *there]:
            shapes = (
                there.get(name, "absent").partition("[")[2],
                str(list(getattr(wanted.get(name), "shape", ()))),
            )
            if name not in wanted or name not in there or shapes[0] != shapes[1][1:]:
                here = f"{list(wanted[name].shape)}" if name in wanted else "absent"
                raise RunError(f"{path} does not fit: {name} is {there.get(name, 'absent')} there, {here} here")
    try:
        arrays = checkpoint.read_arrays(
            path / checkpoint.ARRAYS, wanted, content["arrays"].keys() - there.keys()
        )
    except Exception as error:  # of Orbax and TensorStore, or of the disk
        raise RunError(f"{path} cannot be read: {one_line(error)}") from error
    if like is not None:
        return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))
    tree: Any = {}
    for name, array in arrays.items():
        *outer, last = "", *_keys(name.removeprefix(part))
        node = tree
        for key in outer:
            node = node.setdefault(key, {})
        node[last] = array
    return tree[""]


def _refuse_other_kind(name: str, kind: Any, saved: str | None) -> None:
    """Refuse a leaf that is not an array, or whose kind of numbers would round what was saved."""
    if isinstance(kind, str):
        raise TypeError(f"like must hold arrays or jax.ShapeDtypeStruct, {name} is {kind}")
    was = None if saved is None else _shape_of(saved).dtype
    if was is not None and jnp.issubdtype(was, jnp.inexact) and not jnp.issubdtype(kind, jnp.inexact):
        raise TypeError(f"like must be floating point where {was} was saved, {name} is {kind}")


def _found(folder: Path, step: Any) -> tuple[Path, dict[str, Any]]:
    """The checkpoint of a step, and its manifest."""
    saved = {int(path.name): path for path in checkpoint.saved(folder)}
    if not saved:
        raise RunError(f"{folder} holds no checkpoint")
    if step in ("best", "kept"):
        _, newest = _read(saved[max(saved)])
        best = newest["record"].get("best", {})
        if step == "best" and not best:
            raise RunError(
                f"{folder} holds no best checkpoint: Settings(keep_best=, lower_is_better=) keeps it"
            )
        step = best.get("checkpoint")
    number = max(saved) if step is None else step
    if number not in saved:
        raise RunError(f"{folder} holds no checkpoint of step {number}, only of {', '.join(map(str, saved))}")
    return _read(saved[number])


def _read(path: Path) -> tuple[Path, dict[str, Any]]:
    try:
        content = manifest.read(path)
    except manifest.Damaged as damage:
        raise RunError(f"{path} is damaged: {damage}") from None
    if content["format"] != checkpoint.FORMAT:
        raise RunError(f"{path} has format {content['format']}, this version reads {checkpoint.FORMAT}")
    return path, content


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith((f"{part}[", f"{part}."))


def _shape_of(text: str) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array, as written in a manifest: "float32[4, 8]"."""
    dtype, _, shape = text.partition("[")
    return jax.ShapeDtypeStruct(tuple(json.loads(f"[{shape}")), jnp.dtype(dtype))


def _keys(name: str) -> list[Any]:
    """The keys of a path as JAX writes it: those of "['a'][0].b" are "a", 0 and "b".

    Raises:
        RunError: a key has another type, which only the run's code knows.
    """
    keys = []
    try:
        node = ast.parse(f"_{name}", mode="eval").body
        while not isinstance(node, ast.Name):
            if isinstance(node, ast.Attribute):
                keys.append(node.attr)
            else:
                assert isinstance(node, ast.Subscript)
                keys.append(ast.literal_eval(node.slice))
            node = node.value
    except (SyntaxError, ValueError, AssertionError):
        raise RunError(
            f"{name} is not a path of names and numbers: pass a tree to read it into as like="
        ) from None
    return keys[::-1]
