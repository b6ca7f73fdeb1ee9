"""Turn a Flax model, NNX or Linen, into what a functional training loop needs: `params` and `apply`.

`params` is a nested dict of arrays, and `apply(params, *args, **kwargs)` calls the model with these parameters.
Labels, masks, checkpoints and every optimizer then see the same kind of tree whichever library the model uses,
and `jax.jit` sees a pure function.

Both adapters require a model whose only state is its parameters: any other state (running means, hidden random
keys) would silently keep its initial value. Pass dropout its key as an argument.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen, nnx

Params = dict[Any, Any]


class Keys:
    """The random keys for initial parameters: the same sequence as that of `nnx.Rngs(key)`.

    They are counted in Python. In a traced function, each of Flax's own counts searches everything traced
    before it, which takes minutes for a hundred layers.
    """

    def __init__(self, key: jax.Array | int):
        self._key, self._count = jax.random.key(key) if isinstance(key, int) else key, 0

    def params(self) -> jax.Array:
        """The next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count - 1)


def from_nnx(model: nnx.Module) -> tuple[Params, Callable[..., Any]]:
    """Take an NNX model apart.

    Args:
        model: a callable module, which is not changed.

    Returns:
        `params`, keyed by attribute and, in an `nnx.List`, by integer index; and `apply`, which
        raises a ValueError for a tree with other keys.

    Raises:
        ValueError: the model has state besides its parameters.
    """
    params, bound = split_nnx(model)
    return params, lambda params, *args, **kwargs: bound(params)(*args, **kwargs)


def split_nnx(model: nnx.Module) -> tuple[Params, Callable[[Params], Any]]:
    """The same for a module of which more than its call is needed.

    Returns:
        `params`, and a function from such a tree to the module with these parameters.

    Raises:
        ValueError: the model has state besides its parameters.
    """
    graph, state, rest = nnx.split(model, nnx.Param, ...)
    _check_no_state(nnx.to_pure_dict(rest))
    params = nnx.to_pure_dict(state)
    keys = _keys(params)

    def bound(params: Params) -> Any:
        # `merge` fills the model leaf by leaf in order: it would not notice that a key has changed.
        _check_keys(params, keys)
        return nnx.merge(graph, params, copy=True)

    return params, bound


def into_nnx(model: nnx.Module, params: Params) -> None:
    """Write trained `params` back into the model that `from_nnx` took apart.

    Raises:
        ValueError: `params` has other keys than the model.
    """
    state = nnx.state(model, nnx.Param)
    # `replace_by_pure_dict` would leave a parameter without a key as it is.
    _check_keys(params, _keys(nnx.to_pure_dict(state)))
    nnx.replace_by_pure_dict(state, params)
    nnx.update(model, state)


def from_linen(module: linen.Module, variables: Mapping[str, Any]) -> tuple[Params, Callable[..., Any]]:
    """Take a Linen module and the variables of its `init` apart.

    Args:
        module: the module; its `apply` receives all other arguments, such as `rngs`.
        variables: what `module.init` returned.

    Returns:
        `params`, keyed by the names of the submodules, and `apply`.

    Raises:
        ValueError: there is state besides the parameters.
    """
    _check_no_state({name: tree for name, tree in variables.items() if name != "params"})

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        return module.apply({"params": params}, *args, **kwargs)

    return variables["params"], apply


def _keys(tree: Any) -> set[str]:
    return {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _check_keys(params: Params, expected: set[str]) -> None:
    differing = sorted(_keys(params) ^ expected)
    if differing:
        raise ValueError(
            f"params must have the keys of the model; {len(differing)} are in only one of them: "
            f"{', '.join(differing[:3])}"
        )


def _check_no_state(state: Mapping[str, Any]) -> None:
    found = sorted(_keys(state))
    if found:
        raise ValueError(f"the model must have no state besides its parameters, got {', '.join(found[:3])}")
