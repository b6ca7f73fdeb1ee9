"""Image classification at toy size, from images to the picture of the mistakes, and what it refuses."""

import dataclasses
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from examples import finetune_image
from examples.data.images import ImageExamples, digits, split
from examples.models import families, weights
from examples.shared import command
from examples.tasks.image_classification import ImageClassification, choose, draw_mistakes, moved
from optimiz import compare
from tests.examples import golden
from tests.examples.layouts import losses, trained


def parts(size=8, channels=1, classes=3):
    random = np.random.default_rng(0)
    made = {}
    for name in ("train", "validation", "test"):
        labels = random.integers(0, classes, 24).astype(np.int32)
        images = random.integers(0, 60, (24, size, size, channels)) + 60 * labels[:, None, None, None]
        made[name] = ImageExamples(images.astype(np.uint8), labels, tuple("abc"[:classes]), "stripes")
    return made


def problem(name="resnet", augment=(), smoothing=0.0, **sizes):
    made = parts(**sizes)
    _, size, _, channels = made["train"].images.shape
    model = choose(name, size, channels, 3, 0.0)
    return ImageClassification(made, model, augment=augment, smoothing=smoothing)


def test_a_crop_moves_and_a_flip_mirrors():
    images = jnp.arange(1.0, 65).reshape(1, 8, 8, 1).repeat(200, 0)
    np.testing.assert_array_equal(moved(images, (), jax.random.key(0)), images)
    cropped = np.asarray(moved(images, ("crop",), jax.random.key(0)))
    whole = np.pad(np.asarray(images[0]), ((1, 1), (1, 1), (0, 0)))
    places = {whole[y : y + 8, x : x + 8].tobytes() for y in range(3) for x in range(3)}
    assert {image.tobytes() for image in cropped} == places
    mirrored = np.asarray(moved(images, ("flip",), jax.random.key(0)))
    share = np.mean([np.array_equal(image, images[0, :, ::-1]) for image in mirrored])
    assert 0.35 < share < 0.65
    assert all(np.array_equal(i, images[0]) or np.array_equal(i, images[0, :, ::-1]) for i in mirrored)


def drawn(task):
    """Random parameters."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.map(lambda p: np.float32(random.normal(0, 0.3, p.shape)), shapes)


def test_smoothing_of_labels():
    task = problem(smoothing=0.3).task(4, 0)
    params, batch = drawn(task), task.batches(0)
    params["head"] = {"kernel": jnp.zeros((64, 3)), "bias": jnp.array([0.0, 1.0, 2.0])}
    log_p = np.array([0.0, 1.0, 2.0]) - np.log(np.exp([0.0, 1.0, 2.0]).sum())
    expected = [-(0.7 * log_p[label] + 0.1 * log_p.sum()) for label in batch["label"]]
    np.testing.assert_allclose(jax.jit(task.loss)(params, batch, None), expected, rtol=1e-5)


def test_an_evaluation_takes_the_statistics_of_training_images():
    made = problem()
    params = drawn(made.task(4, 0))
    alone = dataclasses.replace(
        parts()["test"], images=parts()["test"].images[:1], labels=np.zeros(1, np.int32)
    )
    made._parts["one"] = {"image": alone.images, "label": alone.labels}
    np.testing.assert_allclose(made.predict("one", params)[0], made.predict("test", params)[0], rtol=1e-4)


def test_the_surest_mistakes_are_drawn(tmp_path):
    examples = parts()["test"]
    logits = np.eye(3)[(examples.labels + (np.arange(24) < 5)) % 3] * 5.0
    examples = dataclasses.replace(
        examples, label_names=("$x^$", "_x", "\udcff\n")
    )  # as names of folders can be
    assert draw_mistakes(examples, logits, tmp_path / "mistakes.png") == 5
    assert Image.open(tmp_path / "mistakes.png").size == (1080, 168)
    assert draw_mistakes(examples, np.eye(3)[examples.labels], tmp_path / "none.png") == 0


@pytest.fixture
def pretrained_vit(tmp_path):
    directory = tmp_path / "vit"
    shutil.copytree(golden.GOLDEN / "vit_tiny", directory)
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    return directory


def test_a_pretrained_vit_gets_a_new_head_and_its_own_norm(pretrained_vit):
    made = problem(str(pretrained_vit), channels=3)
    params = made.task(4, 0).init(jax.random.key(0))
    _, trained = weights.load(pretrained_vit, families.VIT, classes=0)
    for name in trained:
        jax.tree.map(np.testing.assert_array_equal, params[name], trained[name])
    np.testing.assert_array_equal(params["head"]["kernel"], np.zeros((16, 3)))
    np.testing.assert_allclose(made.classifier.normed(np.full((1, 8, 8, 3), 255, np.uint8)), 2.0)
    with pytest.raises(ValueError, match="takes images of 8 × 8 × 3, got 16 × 16 × 3"):
        problem(str(pretrained_vit), size=16, channels=3)


def test_the_model_of_a_run_is_the_one_that_it_has_saved(pretrained_vit):
    run = pretrained_vit.parent / "run"
    run.mkdir()
    (run / "model").symlink_to(pretrained_vit)
    assert choose(str(run), 8, 3, 3, 0.0).config == choose(str(pretrained_vit), 8, 3, 3, 0.0).config


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"image_mean": "0.5"}, r"image_mean must be a list of 3 numbers in \[0, 1\], got 0\.5"),
        ({"image_mean": [0.5]}, r"image_mean must be a list of 3 numbers in \[0, 1\], got \[0\.5\]"),
        ({"image_mean": [[0.5]] * 3}, "image_mean must be a list of 3 numbers"),
        ({"image_mean": [True] * 3}, "image_mean must be a list of 3 numbers"),
        ({"image_mean": None}, "image_mean must be a list of 3 numbers"),
        ({"image_mean": [float("nan")] * 3}, "image_mean must be a list of 3 numbers"),
        ({"image_mean": ["x" * 10_000]}, "image_mean must be a list of 3 numbers"),
        ({"image_std": [0.0] * 3}, r"image_std must be a list of 3 numbers in \[0\.00392, 1\]"),
        ({"image_std": [1e400] * 3}, "image_std must be a list of 3 numbers"),
        ({"do_rescale": False}, "do_rescale must be True, got False"),
        ({"rescale_factor": 1.0}, r"rescale_factor must be 0\.0039215\d+, got 1\.0"),
        ({"do_normalize": "no"}, "do_normalize must be of type bool, got 'no'"),
        ([], "must hold a JSON object, got list"),
    ],
)
def test_what_a_preprocessor_may_say(pretrained_vit, described, message):
    (pretrained_vit / "preprocessor_config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=rf"preprocessor_config\.json:? {message}") as error:
        choose(str(pretrained_vit), 8, 3, 3, 0.0)
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("described", "value"), [({"do_normalize": False}, 1.0), ({}, 1.0), ({"image_std": [0.25] * 3}, 2.0)]
)
def test_what_a_preprocessor_does_not_say_is_as_in_transformers(pretrained_vit, described, value):
    (pretrained_vit / "preprocessor_config.json").write_text(json.dumps(described))
    made = problem(str(pretrained_vit), channels=3)
    np.testing.assert_allclose(made.classifier.normed(np.full((1, 8, 8, 3), 255, np.uint8)), value)


def test_a_preprocessor_that_is_a_pipe(pretrained_vit):
    (pretrained_vit / "preprocessor_config.json").unlink()
    os.mkfifo(pretrained_vit / "preprocessor_config.json")
    with pytest.raises(ValueError, match=r"preprocessor_config\.json is not a regular file"):
        choose(str(pretrained_vit), 8, 3, 3, 0.0)


def test_parts_of_another_size_are_refused():
    made = parts() | {"test": parts(size=9)["test"]}
    with pytest.raises(
        ValueError, match=r"images of test must be \[8, 8, 1\], as in training, got \[9, 9, 1\]"
    ):
        ImageClassification(made, choose("resnet", 8, 1, 3, 0.0), augment=(), smoothing=0.0)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def arguments(tmp_path):
    examples = parts()["train"]
    np.savez(
        tmp_path / "set.npz",
        images=np.tile(examples.images, (3, 1, 1, 1)) + np.arange(72)[:, None, None, None].astype(np.uint8),
        labels=np.tile(examples.labels, 3),
    )
    return {
        "data": tmp_path / "set.npz",
        "output": tmp_path / "out",
        "steps": 3,
        "batch_size": 8,
        "model": "vit",
    }


def call(arguments):
    """The trainer, in this process."""
    argv = ["finetune_image", *(f"--{name}={value}" for name, value in arguments.items())]
    with flagsaver.flagsaver():
        command.parse(argv, finetune_image.FLAGS)
        command.guarded(finetune_image.main)


@pytest.mark.long
def test_the_run_its_report_and_its_mistakes(arguments, capsys, pretrained_vit):
    with np.load(arguments["data"]) as data:
        colour = {"images": np.repeat(data["images"][..., :1], 3, axis=-1), "labels": data["labels"]}
    np.savez(arguments["data"], **colour)
    call(arguments | {"model": pretrained_vit})  # it is small: the default ViT takes long to compile
    record = compare.Record.read(arguments["output"] / "record.json")
    (run,) = record.runs
    assert run.optimizer == "adamw" and run.test.keys() == {"loss", "accuracy", "macro_f1", "mcc"}
    assert "logistic regression" in record.baselines
    assert "mistakes of adamw](mistakes_adamw.png)" in (arguments["output"] / "report.md").read_text()
    assert (arguments["output"] / "mistakes_adamw.png").is_file()
    shown = capsys.readouterr().out
    assert "report: " in shown and "classes: 3; in training: 0 " in shown
    warning = "warning: test has only "
    assert warning in shown[: shown.index("adamw")]  # before anything is trained
    assert record.task["warning 1"] == "validation has only 9 examples: each of them is 11.1% of its accuracy"


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet", "vit"])
def test_a_mesh_and_two_processes_have_the_losses_of_one_device(arguments, tmp_path, model):
    del arguments["output"]
    one, *others = trained("finetune_image", arguments | {"model": model}, tmp_path, devices=4)
    for output in others:
        assert losses(output) == pytest.approx(losses(one), abs=1e-5)
        assert (output / "mistakes_adamw.png").exists()


@pytest.mark.long
@pytest.mark.parametrize(("model", "accuracy"), [("resnet", 0.95), ("vit", 0.9)])
def test_a_model_learns_the_digits_by_default(arguments, model, accuracy):
    call({"output": arguments["output"], "model": model})
    record = compare.Record.read(arguments["output"] / "record.json")
    assert record.runs[0].test["accuracy"] > accuracy


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet", "vit"])
@pytest.mark.parametrize("optimizer", ["sophia_g", "sophia_h"])
def test_curvature_is_measured(arguments, model, optimizer):
    call(arguments | {"model": model, "optimizer": optimizer, "learning_rate": 1e-3, "steps": 20})
    losses = compare.Record.read(arguments["output"] / "record.json").runs[0].training_loss()[1]
    assert len(losses) == 20 and np.mean(losses[-5:]) < losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, "nowhere: no such file or folder"),
        ({"model": "alexnet"}, "model must be 'resnet', 'vit' or a directory, got 'alexnet'"),
        ({"image_size": 4}, "images must be 4 × 4, got 8 × 8"),
        ({"augment": "rotate"}, "flag --augment=['rotate']: must be crop, flip, both, or none"),
        ({"smoothing": 1.0}, "flag --smoothing=1.0: must be in [0, 1)"),
        ({"optimizer": "adawm"}, "optimizer 'adawm' is unknown: did you mean adamw"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, capsys, changes, message):
    refused(arguments | changes, capsys, message)


def test_images_that_a_pretrained_model_does_not_take(arguments, capsys, pretrained_vit):
    message = f"{pretrained_vit} takes images of 8 × 8 × 3, got 8 × 8 × 1"
    refused(arguments | {"model": pretrained_vit}, capsys, message)


def test_a_configuration_of_other_weights(arguments, capsys, pretrained_vit):
    path = pretrained_vit / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 8}))
    wrong = "vit.embeddings.cls_token float [1, 1, 16], expected float [1, 1, 8]"
    refused(arguments | {"model": pretrained_vit}, capsys, wrong)


def test_an_unreadable_image(arguments, capsys, tmp_path):
    for i, kind in enumerate(("cat", "dog")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        Image.fromarray(parts()["train"].images[i, ..., 0]).save(tmp_path / "photos" / kind / "0.png")
    broken = tmp_path / "photos/dog/1.png"
    broken.write_bytes(b"not an image")
    message = f"photos: 1 of 3 images cannot be read: {broken} ("
    refused(arguments | {"data": tmp_path / "photos"}, capsys, message)


def refused(arguments, capsys, message):
    """One line says what is wrong, and nothing is written."""
    with pytest.raises(SystemExit) as exit:
        call(arguments)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and exit.value.code == command.EXIT_USAGE
    assert not arguments["output"].exists()


@pytest.mark.long
def test_the_baseline_weighs_pixels():
    from examples.data import baseline

    shares = {"train": 0.5, "validation": 0.15, "test": 0.35}
    metrics = baseline.pixel_baseline(**split(digits(), shares))["logistic regression"]
    assert metrics["test"]["accuracy"] > 0.92
    large = {
        name: dataclasses.replace(part, images=np.zeros((24, 64, 64, 1), np.uint8))
        for name, part in parts().items()
    }
    with pytest.raises(baseline.NoBaselineError, match="have 4,096 numbers each, more than 4,000"):
        baseline.pixel_baseline(**large)
