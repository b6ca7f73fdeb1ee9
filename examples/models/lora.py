"""Low-rank adapters (LoRA): beside a linear map that stays as it is, two small factors are trained.

    y = x W + b + s (x A) B     s = α / r     A [inputs, r]     B [r, outputs]

The entries of A are drawn uniformly from ±1/√inputs, and B starts as zero: the model starts as it was. Only A
and B have gradients and optimizer state. They are float32, and are rounded to the dtype of x where they are
used, so that the frozen parameters may be kept in fewer bits. `Adapted.merged` adds s A B to W, for a model as
fast as it was; `Adapted.save` writes the factors alone, as `peft` reads them.

Source: Hu et al., "LoRA" (arXiv:2106.09685); the initial values, names and files are those of `peft`.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from examples.models.adapters import Keys
from examples.models.blocks import Linear
from examples.models.layout import Layout, by_path, path_of, tensors_of
from optimiz import groups, training

ALL = "all-linear"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

HEAD = "head"  # a linear map that may be the table of word embeddings, and is left as it is


@dataclasses.dataclass(frozen=True)
class Lora:
    """Which linear maps get adapters, and of what size.

    Attributes:
        rank: r ≥ 1.
        alpha: α > 0.
        targets: names of linear maps, as `peft` takes them: the end of a name in the model's files, such as
            `q_proj`, `attn.c_attn` or `mlp.c_proj`, or of a path here, such as `attention/query`; `all-linear`
            for all but the head. Or a rule on the parameters, which selects linear maps by their kernels.

    Raises:
        ValueError: a number is outside its domain, or there is no target.
    """

    rank: int
    alpha: float
    targets: Sequence[str] | groups.Rule = (ALL,)

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive and finite, got {self.alpha}")
        if not isinstance(self.targets, groups.Rule) and not self.targets:
            raise ValueError("targets must name a linear map, got none")

    @property
    def scale(self) -> float:
        """The factor of the product, s."""
        return self.alpha / self.rank


class Adapter(nnx.Module):
    """s (x A) B."""

    def __init__(self, inputs: int, outputs: int, lora: Lora, *, rngs: nnx.Rngs):
        self.scale, bound = lora.scale, inputs**-0.5
        drawn = jax.random.uniform(rngs.params(), (inputs, lora.rank), jnp.float32, -bound, bound)
        self.lora_a, self.lora_b = nnx.LoRAParam(drawn), nnx.LoRAParam(jnp.zeros((lora.rank, outputs)))

    def __call__(self, x_ND: jax.Array) -> jax.Array:
        """Map `[N, inputs]` to `[N, outputs]`."""
        a, b = (factor[...].astype(x_ND.dtype) for factor in (self.lora_a, self.lora_b))
        return (x_ND @ a) @ b * jnp.asarray(self.scale, x_ND.dtype)


class Adapted:
    """A model with adapters, as pure functions of its own parameters and of those of the adapters.

    Args:
        family: layout of the model's files.
        config: its configuration.
        lora: its adapters.

    Attributes:
        paths: paths of the linear maps with an adapter.

    Raises:
        ValueError: a target is no linear map of the model; the message lists those there are.
    """

    def __init__(self, family: Layout, config: Any, lora: Lora):
        self.family, self.lora = family, lora
        plain = nnx.eval_shape(lambda: family.model(config, rngs=Keys(0)))
        self._shapes = nnx.to_pure_dict(nnx.state(plain, nnx.Param))
        self._tensors = tensors_of(family, self._shapes)
        self.paths = tuple(_chosen(lora.targets, self._linears(plain), self._shapes))

        def model(key: jax.Array | int) -> nnx.Module:
            made, keys = family.model(config, rngs=Keys(0)), Keys(key)
            for path, module in _linear_maps(made):
                if path in self.paths:
                    module.adapter = Adapter(*module.kernel.shape, lora, rngs=keys)
            return made

        self._model = model
        abstract = nnx.eval_shape(lambda: model(0))
        self._graph, adapters, _ = nnx.split(abstract, nnx.LoRAParam, nnx.Param)
        self._adapters = nnx.to_pure_dict(adapters)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """The adapters at the start: paths to `lora_a` and `lora_b`, as in the model."""
        # Compiled, so that the model around them is never allocated.
        return jax.jit(lambda key: nnx.to_pure_dict(nnx.state(self._model(key), nnx.LoRAParam)))(key)

    def apply(self, base: Any, adapters: Any, *args: Any, **kwargs: Any) -> jax.Array:
        """Call the model.

        Args:
            base: its own parameters, as `from_nnx(family.model(config, ...))` names them.
            adapters: those of the adapters, as `init` returns them.
            *args: the arguments of the model.
            **kwargs: likewise.

        Raises:
            ValueError: one of the trees has other keys than the model.
        """
        for name, tree, like in (("base", base, self._shapes), ("adapters", adapters, self._adapters)):
            if jax.tree.structure(tree) != jax.tree.structure(like):
                raise ValueError(f"{name} must have the parameters of the model, got {list(by_path(tree))[:3]}")
        return nnx.merge(self._graph, adapters, base, copy=True)(*args, **kwargs)

    def merged(self, base: Any, adapters: Any) -> Any:
        """The parameters of the model without adapters that computes the same: W + s A B, in float32."""
        factors = by_path(adapters)

        def merge(keys: tuple[Any, ...], kernel: Any) -> Any:
            path = path_of(keys).removesuffix("/kernel")
            if path not in self.paths:
                return kernel
            a, b = (np.asarray(factors[f"{path}/adapter/{name}"], np.float32) for name in ("lora_a", "lora_b"))
            return np.asarray(kernel, np.float32) + np.float32(self.lora.scale) * (a @ b)

        return jax.tree_util.tree_map_with_path(merge, base)

    def save(self, directory: Path, adapters: Any, base_model: str) -> None:
        """Write the adapters as `peft` reads them.

        Several linear maps that the files keep as one tensor, such as GPT-2's queries, keys and values, get one
        adapter there: the factors A side by side, and the factors B on the diagonal of a larger one.

        Args:
            directory: created if it is missing.
            adapters: as `init` returns them.
            base_model: name or directory of the model, for the description.
        """
        factors = {path: np.asarray(leaf, np.float32) for path, leaf in by_path(adapters).items()}
        tensors, counts = {}, {}
        for name, tensor in self._tensors.items():
            owners = [path.removesuffix("/kernel") for path in tensor.paths]
            adapted = [path for path in owners if path in self.paths]
            if not adapted:
                continue
            module = name.removesuffix(".weight")
            a = [factors[f"{path}/adapter/lora_a"].T for path in adapted]
            blocks = [
                factors[f"{path}/adapter/lora_b"].T if path in self.paths else self._outputs(path)
                for path in owners
            ]
            tensors[f"base_model.model.{module}.lora_A.weight"] = np.concatenate(a)
            tensors[f"base_model.model.{module}.lora_B.weight"] = _on_the_diagonal(blocks)
            counts[module] = len(adapted)
        modules = self._short(counts)
        ranks = {name: count * self.lora.rank for name, count in modules.items() if count > 1}
        description = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.lora.rank,
            "lora_alpha": self.lora.alpha,
            "target_modules": sorted(modules),
            "rank_pattern": ranks,
            # The same scale for the larger adapters.
            "alpha_pattern": {name: self.lora.scale * rank for name, rank in ranks.items()},
            "fan_in_fan_out": all(re.search(self.family.as_kernels, f"{module}.weight") for module in counts),
            "bias": "none",
            "lora_dropout": 0.0,
            "use_rslora": False,
            "inference_mode": True,
        }
        directory.mkdir(parents=True, exist_ok=True)
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        training.write_whole(directory / WEIGHTS, safetensors.numpy.save(whole, metadata={"format": "pt"}))
        training.write_whole(directory / CONFIG, json.dumps(description, indent=2) + "\n")

    def _linears(self, plain: nnx.Module) -> dict[str, str]:
        """Path → name in the files, of every linear map but the head."""
        names = {
            path.removesuffix("/kernel"): name.removesuffix(".weight")
            for name, tensor in self._tensors.items()
            for path in tensor.paths
        }
        return {path: names[path] for path, _ in _linear_maps(plain) if path != HEAD}

    def _outputs(self, path: str) -> np.ndarray:
        """The block of a linear map without an adapter in a larger factor B: its outputs, and no column."""
        return np.zeros((by_path(self._shapes)[f"{path}/kernel"].shape[1], 0), np.float32)

    def _short(self, counts: dict[str, int]) -> dict[str, int]:
        """The names by which `peft` finds the modules: without the layer, if all layers are adapted alike."""
        alike: dict[str, set[int]] = {}
        for name in self._tensors:
            module = name.removesuffix(".weight")
            alike.setdefault(_within_layer(module), set()).add(counts.get(module, 0))
        return {
            module if len(alike[_within_layer(module)]) > 1 else _within_layer(module): count
            for module, count in counts.items()
        }


def _linear_maps(model: nnx.Module) -> Iterator[tuple[str, Linear]]:
    """The linear maps of a model, by their paths."""
    for keys, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            yield "/".join(map(str, keys)), module


def _chosen(targets: Sequence[str] | groups.Rule, linears: dict[str, str], shapes: Any) -> list[str]:
    """The paths that are targeted.

    Args:
        targets: see `Lora`.
        linears: path → name in the files, of every linear map that can be.
        shapes: the parameters.
    """
    if isinstance(targets, groups.Rule):
        selected = by_path(targets(shapes))
        paths = [path for path in linears if selected[f"{path}/kernel"]]
        if not paths or selected.get(f"{HEAD}/kernel"):
            what = "the head, which gets no adapter" if paths else "no linear map"
            raise ValueError(f"targets must be linear maps of the layers; {targets!r} selects {what}")
        return paths
    paths = []
    for target in targets:
        end = re.compile(rf"(^|[./]){re.escape(target)}$")
        found = [
            path for path, name in linears.items() if target == ALL or end.search(path) or end.search(name)
        ]
        if not found:
            there = sorted({_within_layer(name) for pair in linears.items() for name in pair})
            raise ValueError(f"{target!r} is no linear map of the model; there are {ALL}, {', '.join(there)}")
        paths += found
    return [path for path in linears if path in paths]


def _within_layer(name: str) -> str:
    """A name in the files, or a path, without what leads to its layer."""
    return re.sub(r"^.*[./]\d+[./]", "", name)


def _on_the_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """A matrix with blocks on its diagonal, and zero elsewhere."""
    whole = np.zeros(np.sum([block.shape for block in blocks], axis=0), np.float32)
    row = column = 0
    for block in blocks:
        whole[row : row + block.shape[0], column : column + block.shape[1]] = block
        row, column = row + block.shape[0], column + block.shape[1]
    return whole


def rates(ratio: float) -> Any:
    """Multipliers of the learning rate for LoRA+: `ratio` for the factors B, and 1 for the factors A.

    Source: Hayou et al., "LoRA+" (arXiv:2402.12354).
    """
    return lambda params: jax.tree.map(lambda is_b: ratio if is_b else 1.0, groups.path("/lora_b$")(params))
