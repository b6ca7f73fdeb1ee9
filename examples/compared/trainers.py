"""The tasks of the trainers, with their own flags: `--task="finetune_lm --data=chats.jsonl --lora_rank=4"`."""

import dataclasses
import functools
import shlex
from collections.abc import Callable
from pathlib import Path

from examples import finetune_image, finetune_lm, finetune_text, pretrain
from examples.compared import texts
from examples.compared.setting import Setting
from examples.data import baseline
from examples.data.tokenizer_file import digest
from examples.models import lora
from examples.shared import command, optimizers, program_flags, training_flags
from examples.shared.train_each import made_or_left_out
from examples.tasks import language_modeling, pretraining


def _text(batch_size: int) -> Setting:
    if (count := finetune_text.FLAGS.buckets) > 1:
        raise ValueError(f"--buckets={count}: a budget has one price for all steps, and buckets have several")
    parts, problem, name = finetune_text.read_problem()
    found = texts.of_problem(parts, problem, name, batch_size, finetune_text.FLAGS.head_rate)
    return dataclasses.replace(found, identity={**found.identity, **problem.meaning})


def _image(batch_size: int) -> Setting:
    parts, summary, problem = finetune_image.read_problem()
    from_scratch = finetune_image.FLAGS.model in ("resnet", "vit")
    classes = len(parts["train"].label_names)

    def baselines(left_out: dict[str, str]) -> baseline.Metrics:
        compute = functools.partial(baseline.pixel_baseline, **parts)
        return made_or_left_out("baseline of pixels", left_out, compute) or {}

    return Setting(
        title=f"image classification by {finetune_image.FLAGS.model}",
        about=summary.rows(),
        decisive={},
        identity={"model_and_data": problem.fingerprint(), **problem.classifier.meaning},
        task_of=lambda seed: problem.task(batch_size, seed),
        test=problem.evaluation("test"),
        test_examples=len(parts["test"].images),
        metrics=texts.METRICS,
        choose=functools.partial(optimizers.choose, from_scratch=from_scratch, classes=classes),
        multipliers=optimizers.head_multipliers(finetune_image.FLAGS.head_rate),
        show=summary.show,
        baselines=baselines,
    )


def _language(batch_size: int) -> Setting:
    problem, summary, name = finetune_lm.read_problem()
    adapted = finetune_lm.FLAGS.lora_rank > 0

    def choose(optimizer: str) -> optimizers.Choice:
        choice = optimizers.choose(optimizer, classes=problem.vocabulary)
        return optimizers.for_adapters(choice) if adapted else choice

    return Setting(
        title=f"fine-tuning {name}",
        about={"model": name, **summary.rows()},
        decisive={"length": problem.length},
        identity={"model_and_data": problem.fingerprint(), **problem.meaning},
        task_of=lambda seed: problem.task(batch_size, seed),
        test=problem.evaluation("test"),
        test_examples=min(len(problem.rows["test"]["weight"]), language_modeling.EVALUATION_ROWS),
        metrics=("bits_per_byte", "loss", "perplexity"),
        choose=choose,
        multipliers=lora.rates(finetune_lm.FLAGS.lora_ratio) if adapted else optimizers.one_rate,
        show=summary.show,
        baselines=lambda left_out: {"the model as it was": problem.untuned()},
        controls=lambda *given: {},  # untrained, it is the same from every seed
    )


def _pretraining(batch_size: int) -> Setting:
    if pretrain.FLAGS.downstream is not None:
        raise ValueError("--downstream is not compared; leave it out")
    problem, summary, vocabulary = pretrain.read_problem()
    return Setting(
        title=f"pre-training ({pretrain.FLAGS.objective})",
        about={**summary.rows(), "vocabulary": vocabulary.size},
        decisive={},
        identity={"data": problem.fingerprint(), "vocabulary": digest(vocabulary.tokenizer)},
        task_of=lambda seed: problem.task(batch_size, seed),
        test=problem.evaluation("test"),
        test_examples=min(len(problem.rows["test"]), pretraining.EVALUATION_ROWS),
        metrics=("bits_per_byte", "loss", "perplexity"),
        choose=functools.partial(optimizers.choose, from_scratch=True, classes=vocabulary.size),
        show=summary.show,
        baselines=lambda left_out: {"frequencies of tokens": problem.frequencies()},
    )


TRAINERS: dict[str, tuple[Callable[[int], Setting], program_flags.Flags]] = {
    "finetune_text": (_text, finetune_text.FLAGS),
    "finetune_image": (_image, finetune_image.FLAGS),
    "finetune_lm": (_language, finetune_lm.FLAGS),
    "pretrain": (_pretraining, pretrain.FLAGS),
}


def names(task: str) -> bool:
    """Whether a value of ``--task`` begins with the name of a trainer."""
    return task.split(" ", 1)[0] in TRAINERS


def setting(task: str, *, batch_size: int, output: Path) -> Setting:
    """The setting of a trainer's task.

    Args:
        task: name of the trainer, and flags of its data and model as on its command line.
        batch_size: examples per update.
        output: directory of the comparison, in which a trainer may keep what it makes.

    Raises:
        OSError: a file cannot be read.
        ValueError: the flags, the data or the model are refused.
    """
    try:
        name, *arguments = shlex.split(task)
    except ValueError as error:  # of quotes
        raise ValueError(f"--task={task}: {error}") from None
    make, flags = TRAINERS[name]
    with command.arguments("task", [f"--output={output}", *arguments], flags):
        given = [
            flag
            for flag in sorted(training_flags.NAMES)
            if flag != "output" and flag in flags and flags[flag].present
        ]
        if given:
            raise ValueError(f"--{given[0]} says how to train, which the comparison decides; leave it out")
        return make(batch_size)
