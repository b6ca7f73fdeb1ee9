"""Which parameters: rules over a parameter's path, rank and scanned axis.

A rule answers yes or no for one parameter, and is called on a tree of them. From rules follow masks
(what decays), labels (``optax.partition``), multipliers (a learning rate that falls with depth) and
frozen groups. Everything is read from paths and shapes, never from values, so that answers are
static under ``jit`` and the same for arrays and for ``jax.ShapeDtypeStruct``.

Coverage is total: a pattern that matches nothing, a label without a parameter and a parameter
without a label are errors. The first two are not checked on a *partial* tree, one with
``optax.MaskedNode`` holes or without leaves, because so Optax calls a function for one group of
parameters.

``scanned`` says what a tree does not. ``nn.scan`` stacks equal layers along an axis, so that a
stacked bias has two dimensions, and its rank is still 1; ``{"^layers/": 0}`` declares axis 0 of
every parameter whose path matches ``^layers/`` to be such an axis.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks

LAYER_INDEX = r"(?i)(?:^|/)(?:\w*(?:layer|block)s?|h)[/_]?(\d+)(?:/|$)"
"""Where models keep a layer's index: ``layers/3/``, ``encoderblock_3/``, ``h/3/``, ``Block_3/``."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a rule may look at: one parameter, without its values.

    Attributes:
        path: keys from the root joined by ``/``, the same for dicts, lists, NamedTuples,
            dataclasses and ``nnx.State``: a box that only holds a ``.value`` (``nnx.Param``,
            ``nn.Partitioned``) adds no key.
        shape: the whole shape.
        scanned: the axis along which layers are stacked, or None.
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


@dataclasses.dataclass(frozen=True)
class _Reading:
    """A parameter tree as rules see it."""

    leaves: list[Leaf]
    paths: list[str]  # of the leaves and of the holes
    structure: Any
    whole: bool

    def tree(self, answers: Sequence[Any]) -> Any:
        return self.structure.unflatten(answers)

    def some_paths(self) -> str:
        shown = [leaf.path for leaf in self.leaves[:8]]
        more = len(self.leaves) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")


def _is_hole(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def _read(tree: Any, scanned: Mapping[str, int] | None = None) -> _Reading:
    if isinstance(tree, (jax.Array, np.ndarray)) and jnp.issubdtype(tree.dtype, jnp.integer):
        raise TypeError(
            "expected a tree of parameters, got a bare integer array; optax.inject_hyperparams "
            "takes every callable for a schedule of the step count, unless static_args names it"
        )
    # Holes are kept while paths are computed: a tree has the same paths whatever Optax has masked.
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
    reading = _Reading(leaves, paths, jax.tree.structure(tree), bool(leaves) and not masked)
    for pattern in scanned:
        _must_match(pattern, f"the scanned pattern {pattern!r}", reading)
    return reading


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


def _must_match(pattern: str, what: str, reading: _Reading) -> None:
    if reading.whole and not any(re.search(pattern, leaf.path) for leaf in reading.leaves):
        raise ValueError(f"{what} matches no parameter; there are {reading.some_paths()}")


def scanned_axes(tree: Any, scanned: Mapping[str, int] | None = None) -> list[int | None]:
    """Return the scanned axis of each leaf, in the order of ``jax.tree.leaves``.

    Args:
        tree: a tree of parameters, of arrays or of their shapes.
        scanned: axis of stacking by pattern of path.

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
    return [leaf.scanned for leaf in _read(tree, scanned).leaves]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rule:
    """A yes or no for each parameter; called on a tree, it returns a tree of bools.

    So a rule is a mask wherever Optax takes a function for one. Rules combine with ``&``, ``|`` and
    ``~``. A rule of one's own is ``Rule("large", lambda leaf: leaf.size > 4096)``.

    Attributes:
        name: how error messages call it.
        test: the answer for one parameter.
        patterns: regular expressions of which each must match a path on a whole tree.
        scanned: axis of stacking by pattern of path.

    Example:
        >>> (path("^head/") & ~biases)({"head": {"bias": 1.0, "kernel": 1.0}, "stem": 1.0})
        {'head': {'bias': False, 'kernel': True}, 'stem': False}
    """

    name: str
    test: Callable[[Leaf], bool]
    patterns: tuple[str, ...] = ()
    scanned: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __call__(self, params: optax.Params) -> Any:
        """Answer for every parameter of a tree.

        Raises:
            ValueError: a pattern matches nothing on a whole tree.
        """
        reading = _read(params, self.scanned)
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
        # A scanned axis is a fact about the tree, so each side learns what the other was told.
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
        scanned: axis of stacking by pattern of path.

    Example:
        >>> tree = {"layers": {"bias": jnp.ones((3, 2))}, "table": jnp.ones((3, 2))}
        >>> rank(2, scanned={"^layers/": 0})(tree)
        {'layers': {'bias': False}, 'table': True}
    """
    name = f"rank({', '.join(map(str, ranks))})"
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

    Those are biases, scales and biases of norms, and whatever else has rank 0 or 1. A name is enough,
    because dimensions mislead: the biases of Flax's attention have two, ``[heads, head_dim]``.

    Args:
        embeddings: whether embeddings are spared too.
        scanned: axis of stacking by pattern of path, for parameters without a telling name.

    Returns:
        A mask, True where decay applies.

    Example:
        >>> no_decay()({"kernel": jnp.ones((2, 2)), "query": {"bias": jnp.ones((2, 2))}})
        {'kernel': True, 'query': {'bias': False}}
    """
    spared = biases | norms | rank(0, 1, scanned=scanned)
    return ~(spared | Rule("embeddings", _is_embedding) if embeddings else spared)


def label(
    rules: Mapping[Hashable, Callable[[optax.Params], Any]], default: Hashable | None = None
) -> Callable[[optax.Params], Any]:
    """Name each parameter after the first rule that covers it, for ``optax.partition``.

    Args:
        rules: rule by label; the first that answers True wins.
        default: label of what no rule covers; None to refuse such parameters.

    Returns:
        A function from a tree of parameters to the tree of labels. It raises ValueError for a
        parameter without a label and, on a whole tree, for a label without a parameter.

    Raises:
        TypeError: a rule is not callable.

    Example:
        >>> label({"head": path("^head"), "rest": everything})({"head": 1.0, "stem": 1.0})
        {'head': 'head', 'stem': 'rest'}
    """
    for name, rule in rules.items():
        if not callable(rule):
            raise TypeError(f"the rule of label {name!r} must be callable, got {rule!r}")

    def labels(params: optax.Params) -> Any:
        reading = _read(params)
        covered = {name: jax.tree.leaves(rule(params)) for name, rule in rules.items()}
        answers = [
            next((name for name in rules if covered[name][i]), default) for i in range(len(reading.leaves))
        ]
        bare = [x.path for x, answer in zip(reading.leaves, answers, strict=True) if answer is None]
        if bare:
            raise ValueError(f"no rule covers {', '.join(bare)}; the labels are {list(rules)}")
        for name in rules if reading.whole else ():
            if name not in answers:
                why = (
                    f"earlier rules cover all that {rules[name]!r} matches"
                    if any(covered[name])
                    else f"{rules[name]!r} matches none of {reading.some_paths()}"
                )
                raise ValueError(f"label {name!r} names no parameter: {why}")
        return reading.tree(answers)

    return labels


def layerwise_decay(
    rate: float,
    layers: str = LAYER_INDEX,
    embeddings: Rule = embeddings,
    scanned: Mapping[str, int] | None = None,
) -> Callable[[optax.Params], Any]:
    """Multipliers that shrink the learning rate with the distance from the output.

    With N layers: 1 for the head and whatever else is in no layer, rate^(N - i) for layer i,
    rate^(N + 1) for the embeddings. What is in a layer belongs to it, whatever its name.

    Args:
        rate: in (0, 1]; 0.65 to 0.9 is usual.
        layers: a regular expression over paths with one group, the layer's index from 0.
        embeddings: rule for what lies below the first layer.
        scanned: axis of stacked layers by pattern of path; their multipliers are a vector along
            that axis.

    Returns:
        A function from a tree of parameters to the tree of multipliers, see
        :func:`optimiz.scale_by_groups`. It raises ValueError if there is no layer.

    Raises:
        TypeError: ``rate`` is not a number.
        ValueError: ``rate`` is outside (0, 1], or ``layers`` has not exactly one group.

    Example:
        >>> layerwise_decay(0.5)({"embed": 1.0, "layers": [1.0, 1.0], "head": 1.0})
        {'embed': 0.125, 'head': 1.0, 'layers': [0.25, 0.5]}

    Source:
        arXiv 2106.08254 (BEiT) and its code. The idea is from arXiv 2003.10555 (ELECTRA), whose
        code has one more power of ``rate`` on everything below the head.
    """
    checks.number("rate", rate, gt=0, le=1)
    expression = re.compile(layers)
    if expression.groups != 1:
        raise ValueError(f"layers must have one group, the layer's index, got {layers!r}")

    def layer_of(path: str) -> int | None:
        found = expression.search(path)
        return None if found is None else int(found[1])

    def multipliers(params: optax.Params) -> Any:
        reading = _read(params, scanned)
        # Optax's holes count, so that one group of parameters has the depth of the whole model.
        layer_counts = [i + 1 for i in map(layer_of, reading.paths) if i is not None]
        layer_counts += [x.shape[x.scanned] for x in reading.leaves if x.scanned is not None]
        if reading.leaves and not layer_counts:
            raise ValueError(
                f"no layer found: no path matches {layers!r} and no parameter is scanned; there are "
                f"{reading.some_paths()}. Where Optax masks all layers, pass the multipliers of the "
                "whole tree, layerwise_decay(...)(params)"
            )
        top = max(layer_counts, default=0)

        def multiplier(leaf: Leaf, is_lowest: bool) -> float | np.ndarray:
            layer = layer_of(leaf.path)
            if leaf.scanned is not None:
                along = [-1 if axis == leaf.scanned else 1 for axis in range(len(leaf.shape))]
                length = leaf.shape[leaf.scanned]
                return np.array([rate ** (top - i) for i in range(length)]).reshape(along)
            if layer is not None:
                return rate ** (top - layer)
            return rate ** (top + 1) if is_lowest else 1.0

        lowest = jax.tree.leaves(embeddings(params))
        return reading.tree([multiplier(*x) for x in zip(reading.leaves, lowest, strict=True)])

    return multipliers


def freeze(
    tx: optax.GradientTransformation, rule: Callable[[optax.Params], Any]
) -> optax.GradientTransformationExtraArgs:
    """Train with ``tx`` all parameters but those that the rule names.

    A frozen parameter gets a zero update, has no state, and is not seen by ``tx``: it counts in no
    global norm. A line search may be inside ``tx``: ``value_fn`` is still called with all
    parameters, of which only the others move, and ``grad`` is still the gradient of all.

    Args:
        tx: any transformation.
        rule: what is frozen.

    Returns:
        A transformation. Its ``init`` raises ValueError if nothing, or everything, is frozen.

    Example:
        >>> tx = freeze(optax.sgd(0.5), path("^stem"))
        >>> grads = {"head": jnp.array(2.0), "stem": jnp.array(2.0)}
        >>> jax.tree.map(float, tx.update(grads, tx.init(grads))[0])
        {'head': -1.0, 'stem': 0.0}
    """
    groups = optax.partition(
        {"frozen": optax.set_to_zero(), "trained": tx},
        label({"frozen": rule, "trained": everything}),
        mask_compatible_extra_args=True,
    )

    def update_fn(updates, state, params=None, **extra_args):
        value_fn = extra_args.get("value_fn")
        if value_fn is not None:

            def with_frozen(trained):
                return jax.tree.map(
                    lambda t, p: p if isinstance(t, optax.MaskedNode) else t,
                    trained,
                    params,
                    is_leaf=lambda node: isinstance(node, optax.MaskedNode),
                )

            # Optax's line searches read the signature to choose which extra arguments to pass on.
            @functools.wraps(value_fn)
            def of_trained(trained, *args, **kwargs):
                return value_fn(with_frozen(trained), *args, **kwargs)

            extra_args["value_fn"] = of_trained
        return groups.update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(groups.init, update_fn)


def describe(params: optax.Params, answers: Any) -> str:
    """Return a table of what is covered, to be read before a run.

    Consecutive layers that are answered alike are one block, and a block with one answer throughout
    is one row.

    Args:
        params: a tree of parameters, of arrays or of their shapes.
        answers: a rule, another function from ``params``, or a tree (or prefix) of bools, labels or
            multipliers.

    Returns:
        A row per parameter or block, then the totals per answer.

    Raises:
        ValueError: the tree of answers does not fit ``params``.

    Example:
        >>> layer = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
        >>> print(describe({"layers": [layer, layer], "scale": jnp.ones(2)}, no_decay()))
        path                  shape   parameters  answer
        layers/{0..1}/bias    (2,)             4  False
        layers/{0..1}/kernel  (2, 2)           8  True
        scale                 (2,)             2  False
        <BLANKLINE>
        answer  leaves  parameters  share
        False        3           6    43%
        True         2           8    57%
        all          5          14   100%
    """
    if callable(answers):
        answers = answers(params)
    answers = jax.tree.leaves(jax.tree.broadcast(answers, params))
    covered = list(zip(_read(params).leaves, map(_answer_text, answers), strict=True))

    sizes = collections.defaultdict(list)
    for leaf, text in covered:
        sizes[text].append(leaf.size)
    sizes["all"] = [leaf.size for leaf, _ in covered]
    total = max(sum(sizes["all"]), 1)
    totals = [
        (text, f"{len(group):,}", f"{sum(group):,}", f"{sum(group) / total:.0%}")
        for text, group in sizes.items()
    ]
    return (
        _table([("path", "shape", "parameters", "answer"), *_folded(covered)], "<<><")
        + "\n\n"
        + _table([("answer", "leaves", "parameters", "share"), *totals], "<>>>")
    )


def _answer_text(answer: Any) -> str:
    if not isinstance(answer, (float, np.ndarray, jax.Array)):
        return str(answer)
    values = np.unique(answer)  # sorted
    return f"{values[0]:.4g}" + (f"..{values[-1]:.4g}" if len(values) > 1 else "")


def _folded(covered: Sequence[tuple[Leaf, str]]) -> list[tuple[str, str, str, str]]:
    """Rows of the table: a stack of layers stands where its first parameter does."""
    stacks = collections.defaultdict(lambda: collections.defaultdict(list))
    for leaf, text in covered:
        found = re.search(LAYER_INDEX, leaf.path)
        head, index, tail = (
            (leaf.path, 0, "")
            if found is None
            else (leaf.path[: found.start(1)], int(found[1]), leaf.path[found.end(1) :])
        )
        stacks[head, found is not None][index].append((tail, leaf.shape, leaf.size, text))

    rows = []
    for (head, is_stack), layers in stacks.items():
        runs = []  # of consecutive equal layers: first index, last index, parameters of one layer
        for index, layer in sorted(layers.items()):
            if runs and runs[-1][1:] == (index - 1, layer):
                runs[-1] = (runs[-1][0], index, layer)
            else:
                runs.append((index, index, layer))
        for first, last, layer in runs:
            number = last - first + 1
            span = "" if not is_stack else f"{first}" if number == 1 else f"{{{first}..{last}}}"
            if len(layer) > 1 and len({text for *_, text in layer}) == 1:
                size = sum(size for _, _, size, _ in layer)
                layer = [("/*", f"{len(layer) * number} leaves", size, layer[0][-1])]
            rows += [
                (head + span + tail, str(shape), f"{size * number:,}", text)
                for tail, shape, size, text in layer
            ]
    return rows


def _table(rows: Sequence[tuple[str, ...]], alignment: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    )
