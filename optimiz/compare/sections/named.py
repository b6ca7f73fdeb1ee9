"""The name of a run's arm in a report."""

from optimiz.compare.markdown import escaped
from optimiz.compare.run import Run


def arm_of(run: Run) -> str:
    """The optimizer, its rate and its values on other axes, as Markdown."""
    rate = [] if run.learning_rate is None else [f"{run.learning_rate:g}"]
    others = [escaped(f"{axis}={run.axes[axis]:g}") for axis in sorted(run.axes)]
    return " ".join([escaped(run.optimizer), *rate, *others])
