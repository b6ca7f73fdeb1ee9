"""The flags of how texts are drawn and weighted, and what they specify once they are parsed."""

from typing import Any

from absl import flags

from examples.data import sampling, targets
from examples.shared import program_flags, training_flags
from examples.tasks.text_targets import TARGETS

_SHUFFLED = "shuffled"
_NAMES = ("buckets", "class_weights", "sampler", "stride")


class BatchFlags:
    """The flags of a program's batches of texts.

    Args:
        own: the program's flags, to which these are added. It has those of `TargetFlags`, and of
            `training_flags`, already.
    """

    def __init__(self, own: program_flags.Flags):
        self._own = own
        text = "Lengths into which texts are sorted, so that less is padding; each compiles a step."
        buckets = own.DEFINE_integer("buckets", 1, text, lower_bound=1)
        text = "Weights of classes in the loss: balanced, or NAME=WEIGHT for some; default: 1 each."
        weights = own.DEFINE_list("class_weights", None, text)
        text = "How training texts are drawn; balanced: every class equally often."
        sampler = own.DEFINE_enum("sampler", _SHUFFLED, [_SHUFFLED, sampling.BALANCED], text)
        text = "Divide long texts into windows of --length that share this many tokens; default: cut them."
        stride = own.DEFINE_integer("stride", None, text, lower_bound=0)
        kind: flags.FlagHolder = own["problem_type"]
        program_flags.check_each(lambda x: x == sampling.BALANCED or sampling.named_weight(x), weights)
        program_flags.check(
            lambda x: sampling.BALANCED not in x or len(x) == 1, "must be balanced alone, or weights", weights
        )
        program_flags.check_together(
            lambda x: (
                x["sampler"] == _SHUFFLED
                or (x["buckets"] == 1 and not x["class_weights"] and x["stride"] is None)
            ),
            "--sampler=balanced goes without --buckets, --class_weights and --stride",
            own,
            sampler,
            buckets,
            weights,
            stride,
        )
        program_flags.check_together(
            lambda x: (
                x["problem_type"] == targets.CLASS or not (x["class_weights"] or x["sampler"] != _SHUFFLED)
            ),
            f"--class_weights and --sampler=balanced need --problem_type={targets.CLASS}",
            own,
            kind,
            weights,
            sampler,
        )
        program_flags.check_together(
            lambda x: training_flags.kept(x["keep"], ("loss", *TARGETS[x["problem_type"]].metrics)) is not None,
            "--keep must name a metric",
            own,
            own["keep"],
            kind,
        )

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of `TextClassification`."""
        own = self._own
        balanced = own.sampler == sampling.BALANCED
        found = {"bucket_count": own.buckets, "class_weights": own.class_weights or (), "balanced": balanced}
        return found | {"stride": own.stride}

    @property
    def decisive(self) -> dict[str, Any]:
        """The flags that are given, by name."""
        return {name: self._own[name].value for name in _NAMES if not self._own[name].using_default_value}

    def epoch(self, count: int) -> int:
        """The number of rows in the batches of an epoch; in buckets, the last may not be full.

        Args:
            count: number of training rows.
        """
        size = self._own.batch_size
        return count if self._own.buckets == 1 else -(-count // size) * size
