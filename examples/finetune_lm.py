"""Fine-tune a causal language model, whole or by low-rank adapters (LoRA), with one optimizer or several.

    python -m examples.finetune_lm --output=runs/lm
    python -m examples.finetune_lm --model=path/to/gpt2 --data=chats.jsonl --lora_rank=8 --output=runs/chats
    python -m examples.finetune_lm --model=path/to/gpt2 --data=books/ --optimizer=lion --output=runs/books

The data are texts, prompts with answers, or conversations, see ``examples.data.prompts``; of the latter two
only answers are learned. Without ``--model``, a small GPT-2 is first pre-trained on the source of Python's
library, in ``<output>/.base``, which takes minutes; without ``--data`` it learns to name the topics of
sentences from Python's documentation. Each trained model is in ``<output>/<optimizer>/model``, with the
adapters merged, and the adapters alone are in ``<output>/<optimizer>/adapter``, as ``peft`` reads them.

``docs/language_models.md`` says more, and ``docs/devices.md`` has the flags of devices and processes.
"""

import dataclasses
import functools
from pathlib import Path

import jax

from examples import pretrain
from examples.data import chat_template, prompts, tables
from examples.data.corpus import Corpus
from examples.data.prompts import Prompts
from examples.data.summary import Summary
from examples.models import decoders, lora, pretrained
from examples.models.remat import REMAT
from examples.shared import command, devices, optimizers, program_flags, training_flags
from examples.shared.train_each import Plan
from examples.tasks.language_modeling import EVALUATION_ROWS, METRICS, LanguageModeling
from optimiz import training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a causal language model.")
_DATA = FLAGS.DEFINE_path(
    "data", None, "Training texts: a text file, rows of .jsonl, .csv, .parquet, or a folder."
)
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation texts; default: a part of --data.")
_TEST = FLAGS.DEFINE_path("test", None, "Test texts; default: a part of --data.")
_DELIMITER = FLAGS.DEFINE_string("delimiter", None, "Delimiter of a .csv, such as ';'; default: a comma.")
_ENCODING = FLAGS.DEFINE_string("encoding", None, "Encoding of files of rows; default: UTF-8.")
_LENGTH = FLAGS.DEFINE_integer(
    "length", None, "Tokens of a row; default: those of the longest text, 256 to 1024.", lower_bound=2
)
_PACK = FLAGS.DEFINE_bool("pack", True, "Put several texts, which do not see each other, into a row.")
_SKIP_LONG = FLAGS.DEFINE_bool("skip_long", False, "Leave out texts that are longer than a row.")
_RANK = FLAGS.DEFINE_integer("lora_rank", 8, "Rank of the adapters; 0 trains the whole model.")
_ALPHA = FLAGS.DEFINE_float("lora_alpha", None, "Adapters are scaled by alpha / rank; default: twice the rank.")
_TARGETS = FLAGS.DEFINE_list(
    "lora_targets", [lora.ALL], "Linear maps with adapters, as peft names them: q_proj, c_attn, all-linear."
)
_RATIO = FLAGS.DEFINE_float("lora_ratio", 1.0, "Rate of the factors B, in multiples of A's (LoRA+).")
_DROPOUT = FLAGS.DEFINE_float("dropout", 0.0, "Rate of the model's dropout.")
_REMAT = FLAGS.DEFINE_enum("remat", "none", [*REMAT], "What the backward pass computes again.")
training_flags.define_parts(FLAGS)
training_flags.define(
    FLAGS,
    lambda name: optimizers.choose(name, classes=2),
    optimizer=["adamw"],
    listed=f"{optimizers.listed()} Adapters have ten times that.",
    metrics=METRICS,
    examples="rows",
    weight_decay=0.01,
    steps=150,
    batch_size=8,
    schedule="linear",
    evaluate_every=25,
    seed_of="adapters, data order and dropout",
)

_OF_LORA = (_ALPHA, _TARGETS, _RATIO)
_DECISIVE = (_PACK, _SKIP_LONG, _RANK, *_OF_LORA, _DROPOUT, _REMAT)
_OWN_MODEL = ("--vocab_size=1024", "--batch_size=8", "--steps=1000", "--evaluate_every=250")  # of pretrain
program_flags.check(lambda x: x < 1, "must be in [0, 1)", _DROPOUT)
program_flags.check(lambda x: x > 0, "must be above 0", _ALPHA, _RATIO)
program_flags.check_together(
    lambda x: x["lora_rank"] or all(FLAGS[flag.name].using_default_value for flag in _OF_LORA),
    "--lora_rank=0 trains the whole model, which has no adapters",
    FLAGS,
    _RANK,
    *_OF_LORA,
)
program_flags.check_together(
    lambda x: not (x["lora_rank"] and (x["freeze"] or x["layerwise_decay"])),
    "--freeze and --layerwise_decay are of the whole model; give --lora_rank=0, which trains it",
    FLAGS,
    _RANK,
    FLAGS["freeze"],
    FLAGS["layerwise_decay"],
)


def read_data(model: Path) -> tuple[dict[str, Corpus | Prompts], Summary]:
    """The parts "train", "validation" and "test", as the flags say, and what is to be known of them."""
    if _DATA.value is not None:
        others = {"validation": _VALIDATION.value, "test": _TEST.value}
        how = tables.Format(delimiter=_DELIMITER.value, encoding=_ENCODING.value, argument="--{}=")
        return prompts.read_parts(_DATA.value, others, chat_template.read(model), how)
    for flag in (_VALIDATION, _TEST, _DELIMITER, _ENCODING):
        if flag.value is not None:
            raise ValueError(f"--{flag.name} goes with the training texts of --data")
    parts = prompts.topics()
    return {**parts}, prompts.summary(parts)


def own_model() -> Path:
    """Directory of the small GPT-2 that is pre-trained on Python's library."""
    output = Path(FLAGS.output) / ".base"
    if not (output / "adamw/model/config.json").is_file():
        if jax.process_count() > 1:
            raise ValueError(f"{jax.process_count()} processes need the --model that they are to fine-tune")
        arguments = [*_OWN_MODEL, f"--output={output}", *(["--resume"] if output.exists() else [])]
        with command.arguments("model", arguments, pretrain.FLAGS):
            pretrain.main()
    return output / "adamw/model"


def read_problem() -> tuple[LanguageModeling, Summary, str]:
    """What the flags ask for, what is to be known of its data, and the name of the model."""
    model = own_model() if _MODEL.value is None else pretrained.find(_MODEL.value)
    decoders.family(model)  # before the data, which may need a template that other models do not have
    (parts, about), rank = read_data(model), _RANK.value
    adapters = lora.Lora(rank, _ALPHA.value or 2.0 * rank, _TARGETS.value) if rank else None
    options = (_LENGTH, _DROPOUT, _REMAT, _PACK, _SKIP_LONG)
    given = {flag.name: flag.value for flag in options}
    given["skip_long"] |= _DATA.value is None
    found = LanguageModeling(parts, model, lora=adapters, **given)
    name = "a GPT-2 of Python's library" if _MODEL.value is None else pretrained.described(_MODEL.value, model)
    return found, about | found.summary, name


def main() -> None:
    """Run every optimizer, then write the models and the report."""
    layout = devices.layout()  # first of all: once there are arrays, JAX joins no other process
    (problem, about, name), rank = read_problem(), _RANK.value
    plan = Plan.of(FLAGS, len(problem.rows["train"]["weight"]), log_every=5)
    choices = [optimizers.choose(name, classes=problem.vocabulary) for name in FLAGS.optimizer]
    choices = list(map(optimizers.for_adapters, choices)) if rank else choices
    multipliers = lora.rates(_RATIO.value) if rank else optimizers.one_rate
    chosen = plan.optimizers(choices, multipliers)
    task = problem.task(FLAGS.batch_size, FLAGS.seed, devices.share(layout))
    summary = about | Summary(plan.parts(task, multipliers))
    if training.is_first():
        summary.show()
    decisive = plan.decisive | {flag.name: flag.value for flag in _DECISIVE} | {"length": problem.length}
    identity = decisive | {"model_and_data": problem.fingerprint()} | problem.meaning
    task, identity = plan.begun(task, identity, choices)
    rates = {name: rate for name, (_, rate) in chosen.items()}

    with training.claimed(plan.output, identity | {"learning_rates": rates}, plan.resume):
        record = None
        if training.is_first():  # before anything is trained, as it can fail
            record = plan.new_record(
                "finetune_lm",
                f"Fine-tuning {name} with {', '.join(chosen)}",
                task={"model": name, **summary.rows()},
                settings=decisive,
                baseline="the model as it was",
                compute=lambda: {"the model as it was": problem.untuned()},
                test_examples=min(len(problem.rows["test"]["weight"]), EVALUATION_ROWS),
                metric="bits_per_byte",
            )
        on_hub = _MODEL.value is not None and not Path(_MODEL.value).is_dir()
        save = functools.partial(problem.save, name=_MODEL.value if on_hub else str(problem.directory))
        each = plan.train_each(chosen, task, problem.evaluation("test"), identity, layout, save)
        runs = [run for _, _, run in each]
        if record is not None:
            plan.report(dataclasses.replace(record, runs=runs), metric="bits_per_byte")


if __name__ == "__main__":
    command.run(main, FLAGS)
