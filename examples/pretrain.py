"""Pre-train a language model on text, with one optimizer or several, report, and show what it writes.

    python -m examples.pretrain --output=runs/causal
    python -m examples.pretrain --objective=masked --downstream= --output=runs/masked
    python -m examples.pretrain --objective=span --data=books/ --optimizer=adamw,lion --output=runs/mine

Without ``--data`` the text is the source of Python's standard library. Each model is saved in the Hugging Face
layout in ``<output>/<optimizer>/model``. A masked one is an encoder that ``finetune_text --model`` takes;
``--downstream`` does that at once with the first optimizer's, and passes its value on as arguments. They are
read before anything is trained.

``docs/pretraining.md`` says more, and ``docs/devices.md`` has the flags of devices and processes.
"""

import dataclasses
import functools
import shlex
from pathlib import Path

import jax

from examples import finetune_text
from examples.data import corpus, tokenization
from examples.data.summary import Summary
from examples.data.text_summary import of_unknown
from examples.data.tokenizer_file import digest
from examples.models.remat import REMAT
from examples.shared import command, devices, optimizers, program_flags, training_flags
from examples.shared.downstream import Downstream
from examples.shared.run_folders import MODEL
from examples.shared.train_each import Plan, made_or_left_out
from examples.tasks.objectives import OBJECTIVES, Size
from examples.tasks.pretraining import EVALUATION_ROWS, METRICS, Pretraining
from optimiz import compare, training

FLAGS = program_flags.Flags()
_OBJECTIVE = FLAGS.DEFINE_enum("objective", "causal", list(OBJECTIVES), "What is told: next, hidden or cut.")
_DATA = FLAGS.DEFINE_path("data", None, "Text file, shards, or folder of them; default: Python's library.")
_TEXT = FLAGS.DEFINE_string("text", None, 'Field of the text in shards; default: "text".')
_TOKENIZER = FLAGS.DEFINE_string(
    "tokenizer",
    None,
    '"bpe" or "wordpiece", learned from the text, or a tokenizer.json; default by objective.',
)
_VOCAB_SIZE = FLAGS.DEFINE_integer(
    "vocab_size", None, "Default: 4096, or that of the tokenizer.json.", lower_bound=1
)
_LAYERS = FLAGS.DEFINE_integer("layers", 4, "Of the model; of encoder and decoder each.", lower_bound=1)
_HIDDEN_SIZE = FLAGS.DEFINE_integer("hidden_size", 128, "Width of the model.", lower_bound=1)
_HEADS = FLAGS.DEFINE_integer("heads", 4, "Attention heads.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 128, "Tokens of a row.", lower_bound=8)
_DROPOUT = FLAGS.DEFINE_float("dropout", 0.0, "Rate of dropout, everywhere.")
_REMAT = FLAGS.DEFINE_enum("remat", "none", [*REMAT], "What the backward pass computes again.")
_choose = functools.partial(optimizers.choose, from_scratch=True)
training_flags.define(
    FLAGS,
    functools.partial(_choose, classes=2),
    optimizer=["adamw"],
    listed=optimizers.listed(from_scratch=True),
    metrics=METRICS,
    examples="rows",
    weight_decay=0.1,
    steps=300,
    batch_size=16,
    schedule="cosine",
    evaluate_every=50,
    seed_of="parameters, data order and what is hidden",
)
_DOWNSTREAM = FLAGS.DEFINE_string(
    "downstream", None, "Fine-tune with these arguments of finetune_text.", may_be_empty=True
)

_DECISIVE = (_OBJECTIVE, _LAYERS, _HIDDEN_SIZE, _HEADS, _LENGTH, _DROPOUT, _REMAT)
_SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
program_flags.check(lambda x: x < 1, "must be in [0, 1)", _DROPOUT)
program_flags.check_each(shlex.split, _DOWNSTREAM)
program_flags.check_together(
    lambda x: x["text"] is None or x["data"] is not None, "--text needs --data", FLAGS, _TEXT, _DATA
)
divides = "--heads must divide --hidden_size"
program_flags.check_together(lambda x: x["hidden_size"] % x["heads"] == 0, divides, FLAGS, _HIDDEN_SIZE, _HEADS)
program_flags.check_together(
    lambda x: x["downstream"] is None or x["objective"] == "masked",
    "--downstream needs --objective=masked, whose model is an encoder",
    FLAGS,
    _DOWNSTREAM,
    _OBJECTIVE,
)


def fine_tuning(given: str) -> Downstream:
    """What fine-tunes the first optimizer's model; its arguments are known to be right.

    Raises:
        ValueError: they are not, or there are several processes.
    """
    if jax.process_count() > 1:
        raise ValueError(f"--downstream needs one process, there are {jax.process_count()}")
    output = Path(FLAGS.output)
    model = output / _choose(FLAGS.optimizer[0], classes=2).name / MODEL
    found = Downstream("examples.finetune_text", finetune_text.FLAGS, given, model, output, FLAGS.resume)
    with found.read():
        finetune_text.check(_LENGTH.value)
    return found


def read_problem() -> tuple[Pretraining, Summary, tokenization.Vocabulary]:
    """The problem that the flags ask for, what is to be known of its text, and its tokenizer."""
    text = corpus.standard_library() if _DATA.value is None else corpus.read(_DATA.value, _TEXT.value)
    parts = corpus.split(text, _SHARES)
    own, documents = _kept() if FLAGS.resume else None, parts["train"].sample
    vocabulary = tokenization.choose(_TOKENIZER.value, _OBJECTIVE.value, _VOCAB_SIZE.value, documents, own)
    sizes = (_LAYERS, _HIDDEN_SIZE, _HEADS, _LENGTH, _DROPOUT, _REMAT)
    size = Size(*(flag.value for flag in sizes))
    objective = OBJECTIVES[_OBJECTIVE.value](vocabulary, size)
    problem = Pretraining(parts, vocabulary, objective, _kept().with_name(".tokens"))
    return problem, corpus.summary(text, parts, _SHARES) | of_unknown(problem.unknown), vocabulary


def _kept() -> Path:
    """The tokenizer in the output."""
    return Path(FLAGS.output) / "tokenizer.json"


def main() -> None:
    """Run every optimizer, then write the models and the report."""
    layout = devices.layout()  # first of all: once there are arrays, JAX joins no other process
    downstream = None if _DOWNSTREAM.value is None else fine_tuning(_DOWNSTREAM.value)
    problem, summary, vocabulary = read_problem()
    if training.is_first():
        summary.show()
    plan = Plan.of(FLAGS, len(problem.rows["train"]), log_every=10)
    choices = [_choose(name, classes=vocabulary.size) for name in FLAGS.optimizer]
    chosen = plan.optimizers(choices, optimizers.one_rate)
    decisive = plan.decisive | {flag.name: flag.value for flag in _DECISIVE}
    identity = decisive | {"data": problem.fingerprint(), "vocabulary": digest(vocabulary.tokenizer)}
    identity |= {flag.name: flag.value for flag in (_TOKENIZER, _VOCAB_SIZE)}
    task = problem.task(FLAGS.batch_size, FLAGS.seed, share=devices.share(layout))
    task, identity = plan.begun(task, identity, choices)
    rates = {name: rate for name, (_, rate) in chosen.items()}

    with training.claimed(plan.output, identity | {"learning_rates": rates}, plan.resume):
        record = None
        if training.is_first():  # before anything is trained, as it can fail
            training.write_whole(_kept(), vocabulary.tokenizer.to_str(pretty=True))
            record = plan.new_record(
                "pretrain",
                f"Pre-training ({_OBJECTIVE.value}) with {', '.join(chosen)}",
                task={
                    **summary.rows(),
                    "vocabulary": vocabulary.size,
                    "rows": ", ".join(f"{len(rows)} {name}" for name, rows in problem.rows.items()),
                },
                settings=decisive,
                baseline="baseline of frequencies",
                compute=lambda: {"frequencies of tokens": problem.frequencies()},
                test_examples=min(len(problem.rows["test"]), EVALUATION_ROWS),
                metric="bits_per_byte",
            )
        runs, samples, left_out = [], {}, {} if record is None else dict(record.left_out)
        each = plan.train_each(chosen, task, problem.evaluation("test"), identity, layout, problem.save)
        for name, params, run in each:
            runs.append(run)
            if record is not None and _OBJECTIVE.value == "causal":
                write = functools.partial(problem.sample, params)
                samples[f"{name} writes"] = made_or_left_out(f"sample of {name}", left_out, write) or []
        if record is None:
            return
        for name, lines in samples.items():
            print(f"\n{name}\n\n" + "\n".join(f"  {compare.shown(line)}" for line in lines), end="\n\n")
        record = dataclasses.replace(record, runs=runs, samples=samples, left_out=left_out)
        plan.report(record, metric="bits_per_byte")
    if downstream:
        downstream.start()


if __name__ == "__main__":
    command.run(main, FLAGS)
