"""Compute irreducible losses: what a model of held-out text loses on each row of a text to pre-train on.

    python -m examples.irreducible_losses --output=runs/irreducible
    python -m examples.studies.pretraining.study --irreducible=runs/irreducible --output=runs/pretrain

A masked language model is trained on a fifth of the text that no other run sees, with AdamW. Its losses on all
training rows are kept by the rows' ids, for RHO-loss, which trains on the rows that a model finds harder than
this one does. Beside them is the tokenizer, whose training is not the same twice; text and sizes must be those
of the runs that read the losses, which come with a fingerprint of the rows. The same command with ``--resume``
goes on where it was stopped.

Departure from arXiv 2307.06440: a row's irreducible loss is of one draw of hidden tokens, as there, and
training hides others; so a score has noise of two draws in it.
"""

from pathlib import Path

from examples.data import corpus, tokenization
from examples.shared import command, optimizers, program_flags
from examples.shared.train_each import Plan
from examples.tasks.objectives import Size, masked
from examples.tasks.pretraining import Pretraining
from optimiz import training

FLAGS = program_flags.Flags()
_DATA = FLAGS.DEFINE_path("data", None, "Text file, or folder of them; default: Python's library.")
_VOCAB_SIZE = FLAGS.DEFINE_integer(
    "vocab_size", 512, "Of the WordPiece that is learned from the text.", lower_bound=1
)
_LAYERS = FLAGS.DEFINE_integer("layers", 4, "Of the model.", lower_bound=1)
_HIDDEN_SIZE = FLAGS.DEFINE_integer("hidden_size", 64, "Width of the model.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 32, "Tokens of a row.", lower_bound=8)
_STEPS = FLAGS.DEFINE_integer("steps", 1500, "Updates.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Rows per update.", lower_bound=1)
_LEARNING_RATE = FLAGS.DEFINE_float("learning_rate", 1e-3, "AdamW's peak rate.")
_SEED = FLAGS.DEFINE_integer("seed", 0, "Of parameters, data order and what is hidden.", lower_bound=0)
_RESUME = FLAGS.DEFINE_bool("resume", False, "Go on with the run in --output.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of run, losses.npz and tokenizer.json.", required=True)

SHARES = {"train": 0.7, "held_out": 0.2, "validation": 0.05, "test": 0.05}
HEADS, WEIGHT_DECAY, WARMUP = 4, 0.1, 0.1
LOSSES, TOKENIZER = "losses.npz", "tokenizer.json"
program_flags.check(lambda x: x % HEADS == 0, f"must be a multiple of {HEADS}", _HIDDEN_SIZE)


def problem(
    tokenizer: Path, data: str | None, vocab_size: int, layers: int, hidden_size: int, length: int
) -> Pretraining:
    """A masked language model of WordPiece, and a text in the parts of ``SHARES``.

    Args:
        tokenizer: file of the one to use; where there is none, one is learned from the training part.
        data: text file, or folder of them; None for the sources of Python's library.
        vocab_size: of the WordPiece.
        layers: of the model.
        hidden_size: its width.
        length: tokens of a row.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: there is too little text, or a size is outside its domain.
    """
    text = corpus.standard_library() if data is None else corpus.read(data)
    parts = corpus.split(text, SHARES)
    if training.is_first():
        corpus.summary(text, parts, SHARES).show()
    documents = parts["train"].documents
    found = tokenization.kept_or_learned(tokenizer, documents, tokenization.WORDPIECE, vocab_size, "masked")
    vocabulary = tokenization.vocabulary(found, "masked", vocab_size)
    return Pretraining(parts, vocabulary, masked(vocabulary, Size(layers, hidden_size, HEADS, length, 0.0)))


def read(directory: Path, rows: str) -> training.IrreducibleLosses:
    """Read irreducible losses of certain rows.

    Args:
        directory: of ``losses.npz``.
        rows: ``Pretraining.fingerprint()`` of those that are trained on.

    Raises:
        ValueError: the file is not there, is damaged, or is of other rows.
    """
    losses = training.IrreducibleLosses.read(directory / LOSSES)
    if losses.about.get("rows") != rows:
        raise ValueError(
            f"{directory} holds irreducible losses of other rows: examples.irreducible_losses needs text and "
            f"sizes of this run, and was given {dict(losses.about)}"
        )
    return losses


def main() -> None:
    """Train on what is held out, and keep the losses on what is not."""
    given = {flag.name: flag.value for flag in (_DATA, _VOCAB_SIZE, _LAYERS, _HIDDEN_SIZE, _LENGTH)}
    output = Path(_OUTPUT.value)
    of = problem(output / TOKENIZER, *given.values())
    decisive = {flag.name: flag.value for flag in (_STEPS, _BATCH_SIZE, _LEARNING_RATE, _SEED)}
    about = given | decisive | {"data": of.source, "rows": of.fingerprint()}
    plan = Plan(
        training.Settings(steps=_STEPS.value, seed=_SEED.value, log_every=20),
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        warmup=WARMUP,
        weight_decay=WEIGHT_DECAY,
        output=output,
        resume=_RESUME.value,
    )
    choice = optimizers.choose("adamw", from_scratch=True)
    adamw = plan.optimizer(choice, optimizers.one_rate)
    task = of.task(_BATCH_SIZE.value, _SEED.value, part="held_out")
    with training.claimed(output, about, _RESUME.value):
        training.write_whole(output / TOKENIZER, of.vocabulary.tokenizer.to_str(pretty=True))
        ((_, params, run),) = plan.train_each({"adamw": adamw}, task, of.evaluation("validation"), about)
        about |= {"validation_loss": run.test["loss"]}
        losses = training.IrreducibleLosses.measure(task.loss, params, of.once("train", _SEED.value), about)
        losses.write(output / LOSSES)
    print(f"\n{len(losses.ids)} irreducible losses, {losses.losses.mean():.3f} in the mean: {output / LOSSES}")


if __name__ == "__main__":
    command.run(main, FLAGS)
