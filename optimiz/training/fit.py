"""Train: any task, any optimizer, and a result that a kill does not change.

A run keeps in its directory

    run.json         the settings that decide its trajectory
    metrics.jsonl    what it computed: the same bytes, however often it was stopped and resumed
    timings.jsonl    what it took, never the same twice: the seconds of each compilation, stretch
                     of updates, evaluation and save
    checkpoints/     the newest ``keep``, by number of updates

and ends in one of three ways: it returns (exit code 0); it was asked to leave and raises
``Preempted`` (exit code 75: resume it); or it cannot go on and raises ``RunError`` (exit code 1). A
loss that is no longer finite is of the last kind, ``Diverged``; ``optimiz.training.divergence`` says when.
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
from optimiz.training.conditions import conditions
from optimiz.training.distributed import processes
from optimiz.training.distributed.sharding import Layout
from optimiz.training.loop import Loop
from optimiz.training.methods.methods import PLAIN, Methods
from optimiz.training.result import Progress, Result
from optimiz.training.run_plan import RunPlan
from optimiz.training.settings import Settings, description
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
    """Train, from the start or from the newest checkpoint.

    Args:
        task: what to learn.
        tx: the optimizer; it is offered ``value``, ``grad`` and ``value_fn``, and ``logits_fn`` where
            the task has logits. With ``learning_rate``, a function of it that makes the optimizer, such as
            ``optimiz.adamw``.
        settings: how long, and when to look.
        directory: of this run alone; empty or not there for a new one.
        identity: what else decides the trajectory (optimizer, learning rate, model, data), by name,
            as plain JSON; a resumed run must come with the same.
        learning_rate: from which ``tx`` makes the optimizer. Successive runs that differ in nothing but their
            rate and seed then share one compiled step, which takes the rate as an argument, so ``tx`` is also
            called with a traced rate. Whichever run compiled it, the result is the same to the bit; that of
            ``fit(task, tx(learning_rate), ...)``, where the rate is a constant, may differ by rounding. It is
            added to ``identity``.
        reference: what the work costs, where the settings name a budget; its prices, and not the machine
            at hand, decide the trajectory. Evaluations and checkpoints are not charged.
        methods: which layers and which examples are trained on.
        layout: how the run lies on a mesh of devices; None for one device. It is no part of what decides the
            trajectory: a run may be resumed on another mesh, whose sums differ in their rounding.
        resume: go on with the run in ``directory``; one that never began begins, one that is
            finished is read back. ``settings.steps`` may be more than they were, where the step does not depend
            on them: at a constant rate, say. An evaluation at the old end stays in the history.
        overwrite: delete the run in ``directory``, if there is one, and begin anew. Nothing else that lies
            there is deleted.
        progress: called at every look, with ``Progress``, at a divergence too; ``print`` will do.

    Returns:
        The trained parameters and the run's history, the same to the bit whether it was resumed or
        not.

    Raises:
        TypeError: an argument is of another type, with what is asked for, or ``identity`` holds what is not
            plain JSON.
        ValueError: both ``resume`` and ``overwrite``; the task or the optimizer cannot be trained, with the
            reason, or not by these methods; there is a budget and no reference, or the reverse; the reference
            lacks work that is to be charged; the layout does not fit the parameters or the batch, or there are
            several processes and none, or examples to select.
        RunError: the directory or a checkpoint does not let the run go on; ``RunExists``, where it holds a run
            and there is neither ``resume`` nor ``overwrite``; or ``Diverged``, where it is the loss.
        Preempted: SIGTERM, SIGINT or SIGHUP came in, and the run is saved.
    """
    _check_types(task, settings, directory, identity, methods, layout, reference, resume, overwrite, progress)
    if learning_rate is None:
        checks.transformation("tx", tx)
        at_rate, optimizer = None, cast(optax.GradientTransformation, tx)
    else:
        at_rate = AtRate.of(tx, learning_rate)
        optimizer, rate = at_rate.tx, at_rate.learning_rate
        if identity.get("learning_rate", rate) != rate:
            raise ValueError(
                f"learning_rate must be that of identity, got {rate} and {identity['learning_rate']!r}"
            )
        identity = {**identity, "learning_rate": rate}
    if (settings.budget is None) != (reference is None):
        raise ValueError(
            f"a budget needs a reference and a reference a budget, got budget={settings.budget} and "
            f"{'no' if reference is None else 'a'} reference"
        )
    if reference is not None and methods.growth is not None and task.depth is None:
        raise ValueError("a model that grows is charged by its depth: the task must say it, got depth=None")
    if methods.growth is not None and task.model_state is not None:
        raise ValueError("a model that grows must be all parameters: it is not known how a model_state grows")
    if settings.keep_best is not None and (task.evaluate is None or methods.growth is not None):
        lacking = "Task(evaluate=) is None" if task.evaluate is None else "its model grows"
        raise ValueError(f"Settings(keep_best={settings.keep_best!r}): there is no best of this run: {lacking}")
    if layout is None and jax.process_count() > 1:
        raise ValueError(f"a run of {jax.process_count()} processes needs a layout")
    if methods.selection is not None and jax.process_count() > 1:
        raise ValueError(f"examples are selected by one process, there are {jax.process_count()}")
    prices = None if reference is None else reference.prices()
    described = description(settings, identity, prices, methods)
    mesh = None if layout is None else dict(layout.mesh.shape)
    # What decides when the processes meet must be the same too.
    when, numerics = dataclasses.asdict(settings), conditions(mesh)["numerics"]
    refuse_differing(described | {"when": when, "mesh": mesh, "jax.config": numerics})
    plan = RunPlan(task, optimizer, settings, reference, methods, layout, at_rate)
    told = progress if processes.is_first() else None
    with (
        claimed(directory, described, resume, overwrite, longer=methods.growth is None) as path,
        preemption.deferred() as request,
    ):
        return Loop(plan, path, described, request, told).train()


def _check_types(
    task: Any,
    settings: Any,
    directory: Any,
    identity: Any,
    methods: Any,
    layout: Any,
    reference: Any,
    resume: Any,
    overwrite: Any,
    progress: Any,
) -> None:
    """Refuse arguments of another type by their name, with what is asked for.

    Raises:
        TypeError: there is one.
    """
    asked_for = {
        "task": (task, Task, "a training.Task"),
        "settings": (settings, Settings, "a training.Settings, such as training.Settings(steps=1_000)"),
        "directory": (directory, str | os.PathLike, "a path, such as 'runs/mine'"),
        "identity": (identity, Mapping, "a mapping of what decides the run, such as {'optimizer': 'adamw'}"),
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
    checks.kinds(asked_for)
