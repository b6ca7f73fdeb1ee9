"""Rules: a boolean for each parameter, from its path, rank and scanned axis.

Rules read paths and shapes, never values, so that their answers are static under ``jit`` and the same for
arrays and for ``jax.ShapeDtypeStruct``.

``scanned`` declares what a tree does not show. ``nn.scan`` stacks equal layers along an axis, so that a stacked
bias has two dimensions, although its rank is 1. ``{"^layers/": 0}`` declares axis 0 of every parameter whose
path matches ``^layers/`` to be such an axis.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A parameter as a rule sees it, without its values.

    Attributes:
        path: keys from the root joined by ``/``, the same for dicts, lists, NamedTuples,
            dataclasses and ``nnx.State``: a box that only holds a ``.value`` (``nnx.Param``,
            ``nn.Partitioned``) adds no key.
        shape: shape of the whole parameter.
        scanned: axis along which layers are stacked, or None.
    """

    path: str
    shape: tuple[int, ...]
    scanned: int | None = None

    @property
    def rank(self) -> int:
        """Number of dimensions, without the scanned one."""
        return len(self.shape) - (self.scanned is not None)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    def along_scanned(self, values: np.ndarray) -> np.ndarray:
        """One value per stacked layer, as an array that broadcasts against the parameter."""
        return values.reshape([-1 if axis == self.scanned else 1 for axis in range(len(self.shape))])


@dataclasses.dataclass(frozen=True)
class Reading:
    """A parameter tree as rules see it."""

    leaves: list[Leaf]
    paths: list[str]  # of the leaves and of the holes
    structure: Any
    whole: bool

    def tree(self, answers: Sequence[Any]) -> Any:
        """Put one answer per leaf into the tree's structure."""
        return self.structure.unflatten(answers)

    def some_paths(self) -> str:
        """Name the first few paths, for a message."""
        shown = [leaf.path for leaf in self.leaves[:8]]
        more = len(self.leaves) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def _is_hole(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def read(tree: Any, scanned: Mapping[str, int] | None = None) -> Reading:
    """Read a tree of parameters as rules see it.

    Args:
        tree: parameters, or their shapes; holes are None and ``optax.MaskedNode``.
        scanned: axis along which layers are stacked, by pattern of path.

    Raises:
        TypeError: ``tree`` is a bare integer array, which is a step count, not a tree of parameters; or
            ``scanned`` is not a mapping.
        ValueError: as for :func:`scanned_axes`.
    """
    _check_is_no_count(tree)
    _check_scanned(scanned)
    # Holes are kept while paths are computed, so that a tree has the same paths whatever Optax masks.
    entries = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_hole)
    nodes = {path[:end] for path, _ in entries for end in range(1, len(path) + 1)}
    children = collections.Counter(node[:-1] for node in nodes)
    paths, leaves, masked = [], [], False
    scanned = scanned or {}
    for keys, value in entries:
        boxed = keys and keys[-1] == jax.tree_util.GetAttrKey("value") and children[keys[:-1]] == 1
        path = jax.tree_util.keystr(keys[:-1] if boxed else keys, simple=True, separator="/")
        paths.append(path)
        masked |= isinstance(value, optax.MaskedNode)
        if not _is_hole(value):
            shape = np.shape(value)
            leaves.append(Leaf(path, shape, _scanned_axis(path, shape, scanned)))
    reading = Reading(leaves, paths, jax.tree.structure(tree), bool(leaves) and not masked)
    for pattern in scanned:
        _must_match(pattern, f"the scanned pattern {pattern!r}", reading)
    return reading


def _check_is_no_count(tree: Any) -> None:
    if isinstance(tree, (jax.Array, np.ndarray)) and jnp.issubdtype(tree.dtype, jnp.integer):
        raise TypeError(
            "expected a tree of parameters, got a bare integer array; optax.inject_hyperparams "
            "takes every callable for a schedule of the step count, unless static_args names it"
        )


def _check_scanned(scanned: Any) -> None:
    if not isinstance(scanned, Mapping | None):
        raise TypeError(f'scanned must be axes by pattern of path, such as {{"^layers/": 0}}, got {scanned!r}')


def _scanned_axis(path: str, shape: tuple[int, ...], scanned: Mapping[str, int]) -> int | None:
    axes = {axis for pattern, axis in scanned.items() if re.search(pattern, path)}
    if not axes:
        return None
    if len(axes) > 1:
        raise ValueError(f"scanned gives {path} more than one axis: {sorted(axes)}")
    (axis,) = axes
    if not 0 <= axis < len(shape):
        raise ValueError(f"scanned gives {path} axis {axis}, but its shape is {shape}")
    return axis


def _must_match(pattern: str, what: str, reading: Reading) -> None:
    if reading.whole and not any(re.search(pattern, leaf.path) for leaf in reading.leaves):
        raise ValueError(f"{what} matches no parameter; there are {reading.some_paths()}")


def scanned_axes(tree: Any, scanned: Mapping[str, int] | None = None) -> list[int | None]:
    """Return the scanned axis of each leaf, in the order of ``jax.tree.leaves``.

    Args:
        tree: a tree of parameters, of arrays or of their shapes.
        scanned: axis along which layers are stacked, by pattern of path.

    Returns:
        One axis or None per leaf.

    Raises:
        ValueError: a pattern matches nothing on a whole tree, an axis is outside a shape, or two
            patterns give one parameter different axes.

    Example:
        >>> tree = {"head": jnp.ones(2), "layers": {"bias": jnp.ones((3, 2))}}
        >>> scanned_axes(tree, {"^layers/": 0})
        [None, 0]
    """
    if scanned is None:  # at every update; paths take time
        _check_is_no_count(tree)
        return [None] * len(jax.tree.leaves(tree))
    return [leaf.scanned for leaf in read(tree, scanned).leaves]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """A boolean for each parameter; called on a tree, a rule returns a tree of bools.

    So a rule is a mask wherever Optax accepts a function. Rules combine with ``&``, ``|`` and ``~``. A custom
    rule is ``Rule("large", lambda leaf: leaf.size > 4096)``.

    Attributes:
        name: name for error messages.
        test: function from one parameter to its boolean.
        patterns: regular expressions of which each must match a path on a whole tree.
        scanned: axis along which layers are stacked, by pattern of path.

    Example:
        >>> (path("^head/") & ~biases)({"head": {"bias": 1.0, "kernel": 1.0}, "stem": 1.0})
        {'head': {'bias': False, 'kernel': True}, 'stem': False}
    """

    name: str
    test: Callable[[Leaf], bool]
    patterns: tuple[str, ...] = ()
    scanned: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, params: optax.Params) -> Any:
        """Return the tree of booleans for a tree of parameters.

        Raises:
            ValueError: a pattern matches nothing on a whole tree.
        """
        reading = read(params, self.scanned)
        for pattern in self.patterns:
            _must_match(pattern, f"path({pattern!r})", reading)
        return reading.tree([bool(self.test(leaf)) for leaf in reading.leaves])

    def __and__(self, other: "Rule") -> "Rule":
        return self._with(other, "&", lambda leaf: self.test(leaf) and other.test(leaf))

    def __or__(self, other: "Rule") -> "Rule":
        return self._with(other, "|", lambda leaf: self.test(leaf) or other.test(leaf))

    def __invert__(self) -> "Rule":
        return dataclasses.replace(self, name=f"~{self.name}", test=lambda leaf: not self.test(leaf))

    def __bool__(self) -> bool:
        raise TypeError("a rule has no truth value; combine rules with &, | and ~")

    def __repr__(self) -> str:
        return self.name

    def _with(self, other: "Rule", sign: str, test: Callable[[Leaf], bool]) -> "Rule":
        checks.uncalled(f"{self.name} {sign}", other)
        if not isinstance(other, Rule):
            raise TypeError(f"{self.name} {sign} must be followed by another rule, got {other!r}")
        # A scanned axis is a property of the tree, so it holds for both sides.
        for pattern in self.scanned.keys() & other.scanned.keys():
            axes = self.scanned[pattern], other.scanned[pattern]
            if axes[0] != axes[1]:
                raise ValueError(f"scanned gives the pattern {pattern!r} more than one axis: {axes}")
        return Rule(
            f"({self.name} {sign} {other.name})",
            test,
            self.patterns + other.patterns,
            {**self.scanned, **other.scanned},
        )


def path(pattern: str) -> Rule:
    """Rule: the parameter's path matches somewhere (``re.search``).

    Args:
        pattern: a regular expression over paths such as ``layers/0/attention/query/kernel``.

    Returns:
        A rule that raises on a whole tree in which nothing matches.

    Raises:
        re.error: ``pattern`` is not a regular expression.

    Example:
        >>> path("^head")({"head": 1.0, "stem": 1.0})
        {'head': True, 'stem': False}
    """
    expression = re.compile(pattern)
    name = f"path({pattern!r})"
    return Rule(name, lambda leaf: expression.search(leaf.path) is not None, (pattern,))


def rank(*ranks: int, scanned: Mapping[str, int] | None = None) -> Rule:
    """Rule: the parameter has one of these numbers of dimensions, without the scanned one.

    Args:
        *ranks: the numbers of dimensions.
        scanned: axis along which layers are stacked, by pattern of path.

    Example:
        >>> tree = {"layers": {"bias": jnp.ones((3, 2))}, "table": jnp.ones((3, 2))}
        >>> rank(2, scanned={"^layers/": 0})(tree)
        {'layers': {'bias': False}, 'table': True}
    """
    name = f"rank({', '.join(map(str, ranks))})"
    _check_scanned(scanned)
    return Rule(name, lambda leaf: leaf.rank in ranks, scanned=dict(scanned or {}))


_BIAS = re.compile(r"(?:^|/)(?:b|(?:\w+_)?bias(?:_\w+)?)$")
_NORM = re.compile(
    r"(?:^|/)(?:scale|gamma|beta|offset)$"
    r"|(?:^|/)(?:[^/]*(?i:norm)[^/]*|(?:[^/]*_)?(?i:ln|bn|gn)\d*(?:_[^/]*)?)/(?:weight|bias)$"
)
_EMBEDDING = re.compile(r"(?i)(?<!un)embed|(?:^|/)(?:wte|wpe)(?:/|$)|(?:^|/)(?:cls|\w+_token)$")


def _is_embedding(leaf: Leaf) -> bool:
    return _EMBEDDING.search(leaf.path) is not None


everything = Rule("everything", lambda leaf: True)
"""Rule: every parameter."""

biases = Rule("biases", lambda leaf: _BIAS.search(leaf.path) is not None)
"""Rule: named ``bias``, ``b``, or like ``q_bias``, whatever the rank."""

norms = Rule("norms", lambda leaf: _NORM.search(leaf.path) is not None)
"""Rule: scales and biases of norms. Named ``scale``, ``gamma``, ``beta`` or ``offset``, or ``weight``
or ``bias`` of a module named after a norm, such as ``layer_norm``, ``RMSNorm_0`` or ``ln_1``."""

embeddings = Rule("embeddings", _is_embedding)
"""Rule: everything below a name with ``embed`` (not ``unembed``), ``wte`` or ``wpe``, and special
tokens such as ``cls_token``."""


def no_decay(embeddings: bool = False, scanned: Mapping[str, int] | None = None) -> Rule:
    """Rule for weight decay: False on the parameters that conventionally have none.

    Those are biases, scales and biases of norms, and everything else of rank 0 or 1. Names decide first,
    because dimensions mislead: the biases of Flax's attention have two, ``[heads, head_dim]``.

    Args:
        embeddings: whether embeddings have no decay either.
        scanned: axis along which layers are stacked, by pattern of path, for parameters without a telling name.

    Returns:
        A mask, True where decay applies.

    Example:
        >>> no_decay()({"kernel": jnp.ones((2, 2)), "query": {"bias": jnp.ones((2, 2))}})
        {'kernel': True, 'query': {'bias': False}}
    """
    spared = biases | norms | rank(0, 1, scanned=scanned)
    return ~(spared | Rule("embeddings", _is_embedding) if embeddings else spared)
