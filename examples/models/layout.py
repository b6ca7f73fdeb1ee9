"""The names and shapes of a model's parameters in files of the Hugging Face layout.

A tensor in the file is one parameter, or several concatenated, and the kernel of a linear map may be
transposed.
"""

import dataclasses
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from examples.models.adapters import Keys
from optimiz import torch_state

# Keys of any model that say nothing of its numbers: its origin, its labels, how it is trained and generates.
# Embeddings and stacks that are one tensor need no word here, for a file then has that tensor once.
INERT = {
    *("architectures", "_name_or_path", "transformers_version", "model_type", "dtype", "torch_dtype"),
    *("tokenizer_class", "prefix", "finetuning_task", "task_specific_params", "problem_type", "use_bfloat16"),
    *("id2label", "label2id", "num_labels", "_num_labels", "output_attentions", "output_hidden_states"),
    *("return_dict", "use_return_dict", "output_past", "torchscript", "use_cache", "cache_implementation"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "pretraining_tp"),
    *("initializer_range", "gradient_checkpointing", "chunk_size_feed_forward", "tie_encoder_decoder"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams"),
    *("num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p"),
    *("repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate"),
    *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "suppress_tokens"),
    *("exponential_decay_length_penalty", "begin_suppress_tokens", "is_llama_config", "is_decoder"),
    *("transformers.js_config", "unsloth_fixed", "unsloth_version"),
}

_NOTHING = r"(?!)"
_LARGEST = 2**31 - 1  # of a number in a configuration
_NUMBER = r"(?<=/)\d+(?=/)"
# Wrappers of a model when it was saved, except torch.compile, whose name may occur anywhere.
_WRAPPERS = r"^((module|_forward_module|auto_model|model)\.)+"
_LEAVES = {"bias": "bias", "kernel": "weight", "scale": "weight", "embedding": "weight"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The names in the files of one family of models.

    Attributes:
        model_type: the `model_type` in `config.json`.
        architecture: the class of `transformers` that reads the files that are written.
        config: the dataclass of the configuration.
        model: (configuration, rngs=...) → the module.
        fields: field of the configuration → key in `config.json`; a field whose key is absent keeps its
            default.
        read: keys that `complete` reads, besides those of `fields` and `fixed`.
        inert: keys of the family that change no number, besides INERT.
        complete: `config.json` → the same, with the keys that it implies.
        written: the inverse of `complete`, for the keys of `fields`.
        fixed: keys with their only supported values; with others, the same tensors would be another model.
        modules: name in the file → path of a module or parameter here. Several paths are parameters that the
            file stores as one tensor, concatenated along their outputs. The number of a layer is `{}` in both.
        prefix: prefix of the names in files of a model with a head; in other files it may be absent.
        ignored: regular expression for the tensors that the model lacks and that do not matter.
        copies: name of a tensor that a file may have, but this model may not, such as a head that is tied →
            name of the tensor that it has to equal.
        special: key in `config.json` of a special token's id → the token's role.
        as_kernels: regular expression for the linear maps that the file stores as `[inputs, outputs]`; all
            others are `[outputs, inputs]`, the transpose of a kernel.
    """

    model_type: str
    architecture: str
    config: type
    model: Callable[..., nnx.Module]
    fields: Mapping[str, str]
    fixed: Mapping[str, Any]
    modules: Mapping[str, str | tuple[str, ...]]
    prefix: str = ""
    read: Collection[str] = ()
    inert: Collection[str] = ()
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
    written: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ignored: str = _NOTHING
    copies: Mapping[str, str] = dataclasses.field(default_factory=dict)
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)
    as_kernels: str = _NOTHING


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in the file.

    Attributes:
        paths: paths of its parameters, which are concatenated along their last axis.
        shape: shape of the tensor in the file.
        axes: axes of the parameters, in the order of the file.
    """

    paths: list[str]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


def check_keys(layout: Layout, description: Mapping[str, Any]) -> None:
    """Refuse keys of a configuration that the family does not know; those that hold nothing pass.

    Raises:
        ValueError: there is such a key.
    """
    known = {*layout.fields.values(), *layout.fixed, *layout.read, *layout.inert} | INERT
    for key, value in description.items():
        if key not in known and value is not None and value != {} and value != []:
            raise ValueError(
                f"{key[:100]} is not known of a {layout.model_type}, and may change the model; got "
                f"{repr(value)[:100]}. If it does not, remove it from config.json"
            )


def typed(key: str, value: Any, kind: Any) -> Any:
    """The value of a key in a configuration, if it is of a type; a float may be written as an integer.

    Raises:
        ValueError: it is of another type, or not finite.
    """
    parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    kinds = [typing.get_origin(part) or part for part in parts]
    kinds += [int] if float in kinds else []
    if not isinstance(value, tuple(kinds)) or (isinstance(value, bool) and bool not in kinds):
        name = kind.__name__ if isinstance(kind, type) else str(kind)
        raise ValueError(f"{key} must be of type {name}, got {repr(value)[:100]}")
    if isinstance(value, int | float) and not abs(value) <= _LARGEST:
        raise ValueError(f"{key} must be finite and at most {_LARGEST}, got {str(value)[:100]}")
    return value


def shapes_of(layout: Layout, config: Any) -> dict[str, Any]:
    """The shapes of a model's parameters."""
    abstract = nnx.eval_shape(lambda: layout.model(config, rngs=Keys(0)))
    return nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a parameter, joined by slashes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def tensors_of(layout: Layout, shapes: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors in the file of a model with parameters of these shapes, by name."""
    # Path of a module or parameter → the name of its tensor, with {} for a number, and the place in it.
    places = {}
    for name, paths in layout.modules.items():
        for place, path in enumerate((paths,) if isinstance(paths, str) else paths):
            places[path] = (name, place)
    shared: dict[str, dict[int, str]] = {}
    leaves = by_path(shapes)
    for path in leaves:
        pattern = re.sub(_NUMBER, "{}", path)
        module, _, leaf = pattern.rpartition("/")
        name, place = places[pattern] if pattern in places else places[module]
        name = name if pattern in places else f"{name}.{_LEAVES[leaf]}"
        shared.setdefault(name.format(*re.findall(_NUMBER, path)), {})[place] = path
    tensors = {}
    for name, by_place in shared.items():
        paths = [by_place[place] for place in sorted(by_place)]
        *rest, last = leaves[paths[0]].shape
        shape = (*rest, last * len(paths))
        axes = _axes(len(shape)) if _is_turned(name, paths[0], layout) else tuple(range(len(shape)))
        tensors[name] = Tensor(paths, tuple(shape[axis] for axis in axes), axes)
    return tensors


def _is_turned(name: str, path: str, layout: Layout) -> bool:
    return path.endswith("/kernel") and not re.search(layout.as_kernels, name)


def _axes(rank: int) -> tuple[int, ...]:
    """The axes of a kernel, `[..., inputs, outputs]`, as `[outputs, inputs, ...]`."""
    return (rank - 1, rank - 2, *range(rank - 2))


def keys_of(what: str, file: Iterable[str], tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Find the key of each tensor in a file.

    Args:
        what: name of the file, for the message.
        file: keys of the file.
        tensors: the expected tensors, by name.
        layout: layout of the family.

    Returns:
        Name → key, for the expected tensors, for copies, and for unknown ones that are not ignored.

    Raises:
        ValueError: two keys name the same tensor.
    """
    names: dict[str, str] = {}
    for key in file:
        # The names of LayerNorm's parameters in the first checkpoints, converted from TensorFlow.
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name not in tensors:
            name = re.sub(_WRAPPERS, "", name.replace("_orig_mod.", ""))
        if name not in tensors and layout.prefix + name in tensors:
            name = layout.prefix + name
        if name in names:
            raise ValueError(f"{what} holds both {names[name]} and {key}")
        if name in tensors or name in layout.copies or not re.search(layout.ignored, name):
            names[name] = key
    return names


def tensors_of_pytorch(layout: Layout, config: Any, names: Iterable[str]) -> dict[str, torch_state.Tensor]:
    """Where the parameters of a model of PyTorch are here, to convert the state of its optimizer.

    Args:
        layout: layout of the family.
        config: the configuration.
        names: names of PyTorch's parameters, `[name for name, _ in model.named_parameters()]`.

    Returns:
        What `optimiz.torch_state` asks for, of the names that the family has here. Another name that the
        optimizer trains, such as that of a head, is refused there.

    Raises:
        ValueError: two names are of the same parameter.
    """
    tensors = tensors_of(layout, shapes_of(layout, config))
    keys = keys_of("the model of PyTorch", names, tensors, layout)
    return {
        key: torch_state.Tensor(*tensors[name].paths, axes=tensors[name].axes)
        for name, key in keys.items()
        if name in tensors
    }


def check_names(what: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse names that are missing, unknown or mismatched.

    Args:
        what: start of the message.
        found: name → dtype and shape.
        expected: likewise.

    Raises:
        ValueError: there are such names; the message gives their number and the first three of each kind.
    """
    problems = {
        "missing": [f"{name} {expected[name]}" for name in expected if name not in found],
        "unknown": [f"{name} {found[name]}" for name in found if name not in expected],
        "mismatched": [
            f"{name} {found[name]}, expected {expected[name]}"
            for name in expected.keys() & found.keys()
            if found[name] != expected[name]
        ],
    }
    message = "; ".join(
        f"{len(names)} {problem} ({', '.join(sorted(names)[:3])}{', ...' * (len(names) > 3)})"
        for problem, names in problems.items()
        if names
    )
    if message:
        raise ValueError(f"{what}: {message}")
