"""What a program shows while it runs: Markdown, a progress bar, and warnings about the run."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
import rich.markdown
import rich.progress

from optimiz import compare, diagnostics, training

_HEADLINES = ("accuracy", "bits_per_byte")  # the first of these in an evaluation is shown during a run


def _console() -> rich.console.Console:
    """Standard output; it is a terminal if it is one, and not if something asks for colors, as notebooks do."""
    return rich.console.Console(force_terminal=sys.stdout.isatty())


def show(markdown: str) -> None:
    """Print Markdown: rendered on a terminal, and as it is elsewhere."""
    console = _console()
    shown = rich.markdown.Markdown(markdown) if console.is_terminal else markdown
    console.print(shown, soft_wrap=True, markup=False, highlight=False, emoji=False)


@contextlib.contextmanager
def bar(title: str, examples_per_step: int) -> Iterator[Callable[[training.Progress], None]]:
    """Show a run's progress, as a bar on a terminal and as lines elsewhere, and each warning about it once.

    Args:
        title: name of the run.
        examples_per_step: batch size, for the speed.

    Yields:
        The ``progress`` callback of ``training.fit``.
    """
    console = _console()
    shown: dict[str, str] = {}
    warn = troubles(console, title)

    def tell(progress: training.Progress) -> None:
        if not shown and progress.memory.keys() >= {"peak_bytes", "device_bytes"}:
            peak, device = (
                f"{progress.memory[name] / 2**30:.3g} GiB" for name in ("peak_bytes", "device_bytes")
            )
            console.print(f"{title}: a step needs {peak} of the {device} of a device", soft_wrap=True)
        warn(progress)

    def describe(progress: training.Progress) -> str:
        headlines = [name for name in _HEADLINES if name in progress.metrics]
        name = headlines[0] if headlines else "loss"
        shown[f"validation {name}" if headlines else name] = f"{progress.metrics[name]:.3f}"
        if progress.seconds > 0:
            shown["examples/s"] = f"{examples_per_step * progress.steps / progress.seconds:.0f}"
        return "  ".join(f"{name} {value}" for name, value in shown.items())

    if not console.is_terminal:

        def line(progress: training.Progress) -> None:
            tell(progress)
            console.print(f"{title}  {progress.steps}/{progress.total}  {describe(progress)}", soft_wrap=True)

        yield line
        return
    columns: list[Any] = ["{task.description}", rich.progress.BarColumn()]
    columns += [rich.progress.MofNCompleteColumn(), "{task.fields[metrics]}"]
    columns += [rich.progress.TimeRemainingColumn(compact=True), "left"]
    with rich.progress.Progress(*columns, console=console) as display:
        task = display.add_task(title, total=None, metrics="compiling")

        def update(progress: training.Progress) -> None:
            tell(progress)  # above the bar
            metrics = describe(progress)
            display.update(task, total=progress.total, completed=progress.steps, metrics=metrics)

        yield update


@contextlib.contextmanager
def matrix_bar() -> Iterator[Callable[[compare.MatrixProgress], None]]:
    """Show the progress of a matrix of runs, as :func:`bar` does, and each warning about a run once.

    Yields:
        The ``progress`` callback of ``compare.run_matrix``.
    """
    console, warners = _console(), {}

    def warn(progress: compare.MatrixProgress) -> None:
        run = f"{progress.arm}, seed {progress.seed}"
        if run not in warners:
            warners.clear()  # the previous run is over
            warners[run] = troubles(console, run)
        warners[run](progress.within)

    if not console.is_terminal:
        yield lambda progress: (warn(progress), console.print(str(progress), soft_wrap=True))
        return
    with rich.progress.Progress("{task.description}", rich.progress.BarColumn(), console=console) as display:
        task = display.add_task("measuring prices", total=1.0)

        def update(progress: compare.MatrixProgress) -> None:
            warn(progress)  # above the bar
            display.update(task, completed=progress.share, description=str(progress))

        yield update


def troubles(console: rich.console.Console, title: str) -> Callable[[training.Progress], None]:
    """A callback that prints each finding about a run, with a remedy, when it first appears.

    Args:
        console: console to print to; one with a bar prints above it.
        title: name of the run.
    """
    watch = diagnostics.Watch()

    def warn(progress: training.Progress) -> None:
        for finding in watch(progress.rows, progress.share):
            console.print(f"{title}: {finding}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    return warn
