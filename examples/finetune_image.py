"""Train or fine-tune an image classifier, with one optimizer or several, report, and show what it mistakes.

    python -m examples.finetune_image --output=runs/digits
    python -m examples.finetune_image --data=photos/ --image_size=224 --model=path/to/vit --output=runs/photos

Without ``--data`` the images are the 1,797 digits that scikit-learn carries. ``--data`` is a folder with a
folder of images for each class, an .npz or a .parquet. A ResNet or a small ViT begins from random parameters; a
directory is a ViT in the Hugging Face layout, which gets a new head. Digits fill their 8 × 8 pixels: by default
they are neither moved nor mirrored, as other images are.

``docs/fine_tuning.md`` says more, and ``docs/devices.md`` has the flags of devices and processes.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np

from examples.data import baseline, image_summary, images
from examples.data.summary import Summary
from examples.models.remat import REMAT
from examples.shared import command, devices, optimizers, program_flags, training_flags
from examples.shared.train_each import Plan, made_or_left_out
from examples.tasks.image_classification import CROP, FLIP, ImageClassification, choose, draw_mistakes
from optimiz import training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", "resnet", '"resnet", "vit", or the directory of a pretrained ViT.')
_DATA = FLAGS.DEFINE_path("data", None, "Folders of classes, .npz, .parquet or shards; default: the digits.")
_TEST = FLAGS.DEFINE_path("test", None, "Test images, likewise; default: a part of --data.")
_IMAGE_SIZE = FLAGS.DEFINE_integer("image_size", None, "Scale images to so many pixels a side.", lower_bound=4)
_AUGMENT = FLAGS.DEFINE_list("augment", None, "crop, flip or none; default: crop and flip, of digits none.")
_SMOOTHING = FLAGS.DEFINE_float("smoothing", 0.1, "Of labels.")
_DROPOUT = FLAGS.DEFINE_float("dropout", 0.0, "Rate of dropout of a ViT.")
_REMAT = FLAGS.DEFINE_enum("remat", "none", [*REMAT], "What the backward pass computes again.")
_HEAD_RATE = FLAGS.DEFINE_float("head_rate", 1.0, "Rate of the head, in multiples of the others'.")
training_flags.define_parts(FLAGS)
training_flags.define(
    FLAGS,
    lambda name: choose_optimizer(name, 2),
    _MODEL,
    optimizer=["adamw"],
    listed=f"{optimizers.listed(from_scratch=True)} A pretrained ViT has the default rates of finetune_text.",
    metrics=("loss", *baseline.METRICS),
    examples="images",
    weight_decay=0.05,
    steps=200,
    batch_size=64,
    schedule="cosine",
    evaluate_every=50,
    seed_of="parameters, data order and augmentation",
)

_DECISIVE = (_MODEL, _SMOOTHING, _DROPOUT, _HEAD_RATE, _REMAT)
program_flags.check(
    lambda names: {*names} <= {CROP, FLIP} or names == ["none"], "must be crop, flip, both, or none", _AUGMENT
)
program_flags.check(lambda x: x < 1, "must be in [0, 1)", _DROPOUT, _SMOOTHING)
program_flags.check(lambda x: x > 0, "must be above 0, or the new head would not be trained", _HEAD_RATE)
for _flag in (_TEST, _IMAGE_SIZE):
    _goes = f"--{_flag.name} goes with --data; the digits have a test part and a size of their own"
    program_flags.check_together(lambda x: x["data"] or not any(x.values()), _goes, FLAGS, _DATA, _flag)
program_flags.check_together(
    lambda x: x["model"] != "resnet" or x["accumulate"] == 1,
    "--accumulate is of a ViT; the batch norms of a ResNet need whole batches",
    FLAGS,
    _MODEL,
    FLAGS["accumulate"],
)
for _flag in (_DROPOUT, _REMAT):
    _goes = f"--{_flag.name} is of a ViT; a ResNet has none"
    program_flags.check_together(
        lambda x, name=_flag.name: x["model"] != "resnet" or x[name] in (0.0, "none"),
        _goes,
        FLAGS,
        _MODEL,
        _flag,
    )


def choose_optimizer(name: str, classes: int) -> optimizers.Choice:
    """The optimizer of that name, with the rate that suits the model."""
    return optimizers.choose(name, from_scratch=_MODEL.value in ("resnet", "vit"), classes=classes)


def read_data() -> dict[str, images.ImageExamples]:
    """The parts "train", "validation" and "test", as the flags say."""
    if _DATA.value is None:
        return images.split(images.digits(), {"train": 0.5, "validation": 0.15, "test": 0.35})
    train = images.read(_DATA.value, size=_IMAGE_SIZE.value)
    if _TEST.value is None:
        return images.split(train, {"train": 0.8, "validation": 0.1, "test": 0.1})
    like = {"label_names": train.label_names, "channels": train.images.shape[-1]}
    test = images.read(_TEST.value, size=_IMAGE_SIZE.value, **like)
    train = images.apart(train, test)
    return images.split(train, {"train": 0.9, "validation": 0.1}) | {"test": test}


def augmentation() -> list[str]:
    """How training images are moved, as the flags say."""
    return _AUGMENT.value or (["none"] if _DATA.value is None else [CROP, FLIP])


def read_problem() -> tuple[dict[str, images.ImageExamples], Summary, ImageClassification]:
    """The data that the flags ask for, what is to be known of them, and the problem."""
    parts = read_data()
    side, _, channels = parts["train"].images.shape[1:]
    classes = len(parts["train"].label_names)
    model = choose(_MODEL.value, side, channels, classes, _DROPOUT.value, _REMAT.value)
    problem = ImageClassification(parts, model, augment=augmentation(), smoothing=_SMOOTHING.value)
    return parts, image_summary.of_images(parts), problem


def main() -> None:
    """Run every optimizer, then write the report."""
    layout = devices.layout()  # first of all: once there are arrays, JAX joins no other process
    parts, about, problem = read_problem()
    plan = Plan.of(FLAGS, len(parts["train"].images), log_every=10)
    classes = len(parts["train"].label_names)
    choices = [choose_optimizer(name, classes) for name in FLAGS.optimizer]
    multipliers = optimizers.head_multipliers(_HEAD_RATE.value)
    chosen = plan.optimizers(choices, multipliers)
    augment = augmentation()
    task = problem.task(FLAGS.batch_size, FLAGS.seed, devices.share(layout))
    summary = about | Summary(plan.parts(task, multipliers))
    if training.is_first():
        summary.show()
    decisive = plan.decisive | {flag.name: flag.value for flag in _DECISIVE} | {"augment": augment}
    identity = decisive | {"model_and_data": problem.fingerprint()}
    identity |= problem.classifier.meaning
    task, identity = plan.begun(task, identity, choices)
    rates = {name: rate for name, (_, rate) in chosen.items()}

    with training.claimed(plan.output, identity | {"learning_rates": rates}, plan.resume):
        record = None
        if training.is_first():  # before anything is trained, as it can fail
            record = plan.new_record(
                "finetune_image",
                f"Image classification by {_MODEL.value} with {', '.join(chosen)}",
                task=summary.rows(),
                settings=decisive | {"augment": ", ".join(augment)},
                baseline="baseline of pixels",
                compute=functools.partial(baseline.pixel_baseline, **parts),
                test_examples=len(parts["test"].images),
                metric="accuracy",
            )
        each = plan.train_each(
            chosen, task, problem.evaluation("test"), identity, layout, problem.save, problem.confusion
        )
        trained = list(each)
        if record is None:
            return
        pictures, left_out = {}, dict(record.left_out)
        for name, params, _ in trained:

            def draw(path: Path, params: Any = params) -> int:
                return draw_mistakes(parts["test"], np.asarray(problem.predict("test", params)), path)

            picture = f"mistakes_{name}.png"
            drawn = functools.partial(draw, plan.output / picture)
            count = made_or_left_out(f"mistakes of {name}", left_out, drawn)
            if count is not None:
                pictures[picture] = f"The surest of {count} mistakes of {name}"
        runs = [run for _, _, run in trained]
        record = dataclasses.replace(record, runs=runs, pictures=pictures, left_out=left_out)
        plan.report(record, metric="accuracy")


if __name__ == "__main__":
    command.run(main, FLAGS)
