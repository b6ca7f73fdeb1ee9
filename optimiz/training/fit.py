"""Train any task with any optimizer; interrupting and resuming a run does not change its result.

A run's directory holds

    run.json         the settings that decide its trajectory
    metrics.jsonl    what it computed: the same bytes, however often it was interrupted and resumed
    timings.jsonl    how long each compilation, stretch of updates, evaluation and save took
    profile/         a trace of the updates that ``Settings(profile=)`` names
    checkpoints/     the newest ``keep`` checkpoints, by number of updates

A run ends in one of three ways: it returns (exit code 0); it is preempted and raises ``Preempted`` (exit code
75: resume it); or it cannot continue and raises ``RunError`` (exit code 1), such as ``Diverged`` if the loss is
no longer finite; see ``optimiz.training.divergence``.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import optax

from optimiz import checks
from optimiz.training import preemption
from optimiz.training.at_rate import AtRate, Factory
from optimiz.training.budget.price_table import Reference
from optimiz.training.data.bucketed import Bucketed
from optimiz.training.distributed import processes
from optimiz.training.distributed.sharding import Layout
from optimiz.training.loop import Loop
from optimiz.training.methods.methods import PLAIN, Methods
from optimiz.training.result import Progress, Result
from optimiz.training.run_plan import RunPlan
from optimiz.training.settings import Settings, description
from optimiz.training.storage.conditions import conditions
from optimiz.training.storage.run_directory import claimed
from optimiz.training.storage.same_settings import refuse_differing
from optimiz.training.task import Task


def fit(
    task: Task,
    tx: optax.GradientTransformation | Factory,
    settings: Settings,
    directory: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    learning_rate: float | None = None,
    reference: Reference | None = None,
    methods: Methods = PLAIN,
    layout: Layout | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Train from the beginning, or from the newest checkpoint.

    Args:
        task: the learning problem.
        tx: the optimizer. Every update offers it ``value``, ``grad`` and ``value_fn``, and ``logits_fn`` if the
            task has logits. With ``learning_rate``, a function from the rate to the optimizer, such as
            ``optimiz.adamw``.
        settings: how long to train, and how often to log, evaluate and save.
        directory: the run's own directory; empty or absent for a new run.
        identity: whatever else decides the trajectory (optimizer, learning rate, model, data), by name, as
            plain JSON. A resumed run must be given the same.
        learning_rate: the learning rate from which ``tx`` makes the optimizer; it is added to ``identity``.
            Successive runs that differ only in their rate and seed then share one compiled step, which takes
            the rate as an argument, so ``tx`` is also called with a traced rate. The result is the same to the
            bit whichever run compiled the step; that of ``fit(task, tx(learning_rate), ...)``, where the rate
            is a constant, may differ by rounding.
        reference: the prices of the work, if the settings have a budget. They decide the trajectory, whatever
            the speed of the machine. Evaluations and checkpoints are not charged.
        methods: which layers and which examples are trained.
        layout: where the run's arrays lie on a mesh of devices; None for one device. It may change on resume:
            on another mesh, sums round differently.
        resume: continue the run in ``directory``. A run that never started is started; a finished one is read
            back. ``settings.steps`` may be larger than before if the step does not depend on it, as at a
            constant learning rate. The evaluation at the old end stays in the history, and counts for
            ``keep_best`` and ``patience``.
        overwrite: delete the run in ``directory``, if there is one, and start over. No other file is deleted.
        progress: a function, such as ``print``, that is called with a ``Progress`` whenever metrics are logged,
            also if the run diverges.

    Returns:
        The trained parameters and the run's history, identical to the bit whether the run was resumed or not.

    Raises:
        TypeError: an argument has the wrong type, or ``identity`` holds something other than plain JSON.
        ValueError: both ``resume`` and ``overwrite`` are given; the task cannot be trained by this optimizer or
            these methods; only one of budget and reference is given; the reference lacks a price; the layout
            does not fit the parameters or the batch; or several processes have no layout, or select examples.
        RunError: the run cannot continue because of its directory or a checkpoint. It is ``RunExists`` if the
            directory holds a run and neither ``resume`` nor ``overwrite`` is given, ``OtherSettings`` if that
            run has others, and ``Diverged`` if the loss is no longer finite.
        Preempted: SIGTERM, SIGINT or SIGHUP was received, and the run has been saved.
    """
    checks.kinds(
        {
            "task": (task, Task, "a training.Task"),
            "settings": (settings, Settings, "a training.Settings, such as training.Settings(steps=1_000)"),
            "directory": (directory, str | os.PathLike, "a path, such as 'runs/mine'"),
            "identity": (
                identity,
                Mapping,
                "a mapping of what decides the run, such as {'optimizer': 'adamw'}",
            ),
            "methods": (methods, Methods, "a training.Methods"),
            "layout": (layout, Layout | None, "a training.Layout or None"),
            "reference": (reference, Reference | None, "a training.Reference or None"),
            "resume": (resume, bool, "True or False"),
            "overwrite": (overwrite, bool, "True or False"),
            "progress": (
                progress,
                (Callable, type(None)),
                "a function of training.Progress, such as print, or None",
            ),
        }
    )
    if learning_rate is None:
        checks.transformation("tx", tx)
        at_rate, optimizer = None, cast(optax.GradientTransformation, tx)
    else:
        at_rate = AtRate.of(tx, learning_rate)
        optimizer, rate = at_rate.tx, at_rate.learning_rate
        if identity.get("learning_rate", rate) != rate:
            raise ValueError(
                "learning_rate must equal identity['learning_rate'], got "
                f"{rate} and {identity['learning_rate']!r}"
            )
        identity = {**identity, "learning_rate": rate}
    if (settings.budget is None) != (reference is None):
        raise ValueError(
            f"a budget needs a reference, and a reference needs a budget, got budget={settings.budget} and "
            f"{'no' if reference is None else 'a'} reference"
        )
    if reference is not None and methods.growth is not None and task.depth is None:
        raise ValueError("a model that grows is charged by its depth: Task(depth=) must be given, got None")
    if isinstance(task.batches, Bucketed) and (reference is not None or methods.selection is not None):
        with_what = "Methods(selection=)" if reference is None else "a budget, which charges all batches alike"
        raise ValueError(f"Task(batches=) cannot be Bucketed, of several shapes, with {with_what}")
    for name in ("model_state", "frozen"):
        if methods.growth is not None and getattr(task, name) is not None:
            raise ValueError(f"only parameters can grow: Methods(growth=) cannot go with Task({name}=)")
    if settings.keep_best is not None and (task.evaluate is None or methods.growth is not None):
        reason = "Task(evaluate=) is None" if task.evaluate is None else "the model grows"
        raise ValueError(f"Settings(keep_best={settings.keep_best!r}) cannot keep a best checkpoint: {reason}")
    if settings.micro_batches > 1 and task.model_state is not None:
        parts = f"Settings(micro_batches={settings.micro_batches})"
        raise ValueError(f"{parts} cannot go with Task(model_state=), which is that of a whole batch")
    if settings.noise_every and (task.model_state is not None or methods != PLAIN):
        other = "Methods that drop, grow or select" if methods != PLAIN else "Task(model_state=)"
        raise ValueError(f"Settings(noise_every={settings.noise_every}) cannot go with {other}")
    if layout is None and jax.process_count() > 1:
        raise ValueError(f"a run of {jax.process_count()} processes needs a layout, got layout=None")
    if methods.selection is not None and jax.process_count() > 1:
        raise ValueError(f"Methods(selection=) needs a run of one process, got {jax.process_count()}")
    prices = None if reference is None else reference.prices()
    described = description(settings, identity, prices, methods)
    mesh = None if layout is None else dict(layout.mesh.shape)
    # The processes must also agree on when they wait for one another.
    when, numerics = dataclasses.asdict(settings), conditions(mesh)["numerics"]
    refuse_differing(described | {"when": when, "mesh": mesh, "jax.config": numerics})
    plan = RunPlan(task, optimizer, settings, reference, methods, layout, at_rate)
    progress = progress if processes.is_first() else None
    with (
        claimed(directory, described, resume, overwrite, longer=methods.growth is None) as path,
        preemption.deferred() as request,
    ):
        return Loop(plan, path, described, request, progress).train()
