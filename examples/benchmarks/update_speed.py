"""One update of an optimizer and of its peers: memory and time."""

import inspect
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import optimiz
from examples.models import shapes
from optimiz import methods

RATE, CLIP, DECAY = 1e-4, 1.0, {"weight_decay": 0.1}
FUSED = ("Adam", "AdamW", "SGD", "Adagrad")  # PyTorch's classes with a fused step
CLIPPED = optax.chain(optimiz.clip_by_global_norm(CLIP), optimiz.adamw(RATE, **DECAY))
CLIPPED_OF_OPTAX = optax.chain(optax.clip_by_global_norm(CLIP), optax.adamw(RATE, **DECAY))


def _ours_and_peers(method: methods.Method) -> tuple[Any, Any, Any]:
    """A method, Optax's function of the same name, and PyTorch's class and arguments if its step is fused.

    Weight decay is on where Optax's function has it, or where it is the method's default.
    """
    twin, decay = method.optax_twin, inspect.signature(method.factory).parameters["weight_decay"].default
    decays = bool(decay) if twin is None else "weight_decay" in inspect.signature(twin).parameters
    given = DECAY if decays else {}
    fused = method.torch if method.torch and method.torch[0] in FUSED else None
    return (
        method.at(RATE, **method.settings, **given),
        twin and twin(RATE, **method.settings, **given),
        fused and (fused[0], {**fused[1], **given}),
    )


# Every method that needs no loss, and some of them with common wrappers.
METHODS: dict[str, tuple[Any, Any, Any]] = {
    name: _ours_and_peers(method) for name, method in methods.METHODS.items() if method.kind == "rate"
} | {
    "clip + adamw": (CLIPPED, CLIPPED_OF_OPTAX, None),
    "guarded clip + adamw": (optimiz.guard(CLIPPED, 3), optax.apply_if_finite(CLIPPED_OF_OPTAX, 3), None),
    "adamw in Int8": (optimiz.low_bit(optimiz.adamw(RATE, **DECAY), optimiz.Int8()), None, None),
}
# Arrays of the parameters' size that must be read before a step can be computed, because it needs their norms
# or means: clip reads the gradient, and a guard reads everything that the step is computed from.
READ_BEFORE = {name: method.read_before for name, method in methods.METHODS.items()} | {
    "clip + adamw": 1,
    "guarded clip + adamw": 5,
}
MODELS = {"tiny": shapes.Gpt2(1, 64, 1, vocabulary=512)}
MODELS |= {name: model for name, model in shapes.MODELS.items() if isinstance(model, shapes.Gpt2)}


def structs(model: str, dtype: str) -> Any:
    """A model's parameters, unstacked by layer, as a tree of ``jax.ShapeDtypeStruct``."""
    return shapes.as_structs(shapes.unstacked(MODELS[model].shapes()), dtype)


def compiled(tx: optax.GradientTransformation, params: Any) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """The donated step of an optimizer, with its memory and size."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(params, jax.eval_shape(tx.init, params), params)
    program = lowered.compile()
    memory = program.memory_analysis()
    text = program.as_text()
    size = sum(p.size for p in jax.tree.leaves(params))
    return program, {
        "temporary_bytes_per_parameter": memory.temp_size_in_bytes / size,
        "hlo_ops": sum(" = " in line for line in text[text.index("\nENTRY ") :].splitlines()),
    }


def stepper(
    program: jax.stages.Compiled, tx: optax.GradientTransformation, params: Any, grads: Any
) -> Callable[[], None]:
    """A function that takes one step of a compiled optimizer and waits for it."""
    carry = [jax.tree.map(lambda p: jnp.full(p.shape, 0.02, p.dtype), params)]
    carry.append(jax.jit(tx.init)(carry[0]))

    def step():
        carry[:] = jax.block_until_ready(program(*carry, grads))

    return step


def torch_stepper(name: str, options: Any, params: Any) -> Callable[[], None] | None:
    """A function that takes one step of PyTorch's fused optimizer; None if torch is not installed."""
    try:
        import torch
    except ImportError:
        return None
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    tensors = []
    for p in jax.tree.leaves(params):
        tensor = torch.full(
            p.shape, 0.02, dtype=getattr(torch, str(p.dtype)), device=device, requires_grad=True
        )
        tensor.grad = torch.full_like(tensor, 1e-3)
        tensors.append(tensor)
    optimizer = getattr(torch.optim, name)(tensors, lr=RATE, fused=True, **options)

    def step():
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def measured(name: str, params: Any, rounds: int) -> dict[str, Any]:
    """The row of a method: the measurements of ours and of its peers."""
    ours, theirs, torch_s = METHODS[name]
    sizes = jax.tree.leaves(params)
    grads = jax.tree.map(lambda p: jnp.full(p.shape, 1e-3, p.dtype), params)
    steps, row = {}, {"method": name, "rounds": rounds, "programs": {}}
    for who, tx in (("optimiz", ours), ("optax", theirs)):
        if tx is not None:
            program, row["programs"][who] = compiled(tx, params)
            steps[who] = stepper(program, tx, params, grads)
    if name == "sgd_sai":  # what language models are trained with
        program, _ = compiled(CLIPPED_OF_OPTAX, params)
        steps["optax clip + adamw"] = stepper(program, CLIPPED_OF_OPTAX, params, grads)
    if torch_s and (step := torch_stepper(*torch_s, params)):
        steps["torch fused"] = step
    half = jnp.ones(sum(p.size for p in sizes) // 2, sizes[0].dtype)
    scale, box = jax.jit(lambda x: x * 0.999, donate_argnums=0), [half]

    def copy():
        box[:] = [jax.block_until_ready(scale(*box))]

    steps["copy"] = copy
    seconds = {who: [] for who in steps}
    for round_ in range(rounds + 2):  # the first two are not counted, as pages and threads are new
        for who, step in steps.items():
            begin = time.perf_counter()
            step()
            if round_ >= 2:
                seconds[who].append(time.perf_counter() - begin)
    # Each array is read, and parameters and state are written.
    state = jax.tree.leaves(jax.eval_shape(ours.init, params))
    of_params, of_state = (sum(x.size * x.dtype.itemsize for x in xs) for xs in (sizes, state))
    row["bytes"] = 2 * (of_params + of_state) + of_params * (1 + READ_BEFORE.get(name, 0))
    row["copy_bytes"] = 2 * half.size * half.dtype.itemsize
    return row | {"seconds": seconds}
