"""Predict the classes of new texts or images, with their probabilities, by a run of finetune_text or _image.

    python -m examples.predict --run=runs/mine/adamw --data=new.tsv --output=predictions.tsv
    python -m examples.predict --run=runs/photos/adamw --data=photos/ --output=predictions.jsonl
    echo "How do I open a file?" | python -m examples.predict --run=runs/topics/adamw

The parameters are those that the run has tested. Texts come from a .tsv, .csv, .jsonl, .json or .parquet file,
or shards of these, in the columns that the run was trained with unless --text and --pair name others; one a
line from a .txt file or standard input; or one a .txt file from a folder and the folders in it. Pictures come
from a file, from such a folder, or from the `images` of an .npz. What comes out has a row for each, in their
order: what was given, the most probable class, its probability, and that of every class. Of a run with
--problem_type, it has the labels that are more likely than not, or the number.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from examples.data import decoding, image_tables, images, shown, text_folders
from examples.data.data_flags import ColumnFlags
from examples.models import image_classifier, pretrained, text_classifier, weights
from examples.models.tensors import CONFIG
from examples.shared import command, new_file, program_flags
from examples.shared.predictions import CLASS, FORMATS, written
from examples.shared.run_folders import MODEL, refuse_several
from optimiz import training

STANDARD = "-"

FLAGS = program_flags.Flags()
_RUN = FLAGS.DEFINE_path("run", None, "Directory of the run, such as runs/mine/adamw.", required=True)
_DATA = FLAGS.DEFINE_path("data", STANDARD, 'File or folder; "-" for lines of standard input.')
_COLUMNS = ColumnFlags(FLAGS)
_OUTPUT = FLAGS.DEFINE_path("output", STANDARD, 'File to write; "-" for standard output.')
_FORMAT = FLAGS.DEFINE_enum("format", None, FORMATS, "Default: by the name of --output; tsv if it has none.")


def model_of(run: Path) -> Path:
    """The directory of the model that a run has saved.

    Args:
        run: directory of the run, or of the model itself.

    Raises:
        ValueError: it is neither, or the run has not been finished.
    """
    for directory in (run / MODEL, run):
        if (directory / CONFIG).is_file():
            return directory
    if not run.is_dir():
        raise ValueError(f"--run={run}: no such directory")
    refuse_several("run", run, f"{MODEL}/{CONFIG}")
    if (run / "run.json").is_file():
        raise ValueError(f"--run={run} has no {MODEL}: it has not been finished; continue it with --resume")
    raise ValueError(f"--run={run}: this is no run of finetune_text or finetune_image, such as runs/mine/adamw")


def read_texts(*, pairs: bool, trained: Sequence[str]) -> list[dict[str, str]]:
    """The texts that the flags name: "text" of each, with "pair" of pairs, or "file" of a folder.

    Args:
        pairs: whether the run is of pairs.
        trained: columns of the texts that it was trained with; empty if they had none.

    Raises:
        OSError: a file cannot be read.
        ValueError: flags or data are refused.
    """
    data, standard = Path(_DATA.value), _DATA.value == STANDARD
    in_folder, in_lines = not standard and text_folders.is_one(data), standard or data.suffix.lower() == ".txt"
    if not (in_folder or in_lines):
        texts, seconds = _COLUMNS.read_texts(_DATA.value, pairs=pairs, trained=trained)
        if seconds is None:
            return [{"text": one} for one in texts]
        return [{"text": one, "pair": other} for one, other in zip(texts, seconds, strict=True)]
    if pairs:
        raise ValueError("the run is of pairs of texts: --data must be a file with columns, such as a .tsv")
    if in_folder:
        files, texts = _COLUMNS.read_folder_texts(data)
        return [{"file": file, "text": one} for file, one in zip(files, texts, strict=True)]
    name = "standard input" if standard else shown.path(data)
    _COLUMNS.refuse_for_texts(f"{name} has a text a line")
    content = sys.stdin.buffer.read() if standard else data.read_bytes()
    return [{"text": one} for one in _COLUMNS.read_lines(content, name)]


def of_texts(model: Path) -> tuple[str, Sequence[str], list[dict[str, str]], np.ndarray]:
    """The kind of problem, the classes, what was given, and the predictions [N, C] of texts."""
    classifier, params = text_classifier.load(model)
    given = read_texts(pairs=classifier.pairs, trained=classifier.columns)
    texts, seconds = ([row[name] for row in given if name in row] for name in ("text", "pair"))
    return classifier.problem, classifier.names, given, classifier.predictions(params, texts, seconds or None)


def of_images(model: Path) -> tuple[str, Sequence[str], list[dict[str, str]], np.ndarray]:
    """The same, with the probabilities [N, L] of images."""
    _COLUMNS.refuse_without("a run of finetune_text")
    if _DATA.value == STANDARD:
        raise ValueError("the run is of images: --data must be a picture, or a folder of pictures")
    classifier, params, statistics = image_classifier.load(model)
    data, channels = Path(_DATA.value), classifier.config.channels
    where = shown.path(data)
    if data.suffix == ".npz" and data.is_file():
        pixels = image_tables.read_npz_images(data, classifier.size, channels)
        names = [f"{where}, image {number}" for number in range(1, len(pixels) + 1)]
    else:
        files = images.pictures(data)
        names = list(map(shown.path, files))
        pictures = zip(names, files, strict=True)
        pixels = decoding.decode(pictures, len(names), classifier.size, channels, where).images
    given = [{"image": name} for name in names]
    return CLASS, classifier.names, given, classifier.probabilities(params, pixels, statistics)


def main() -> None:
    """Read the run and the data, and write the predictions."""
    output = Path(_OUTPUT.value)
    form = _FORMAT.value or (output.suffix[1:] if output.suffix else FORMATS[0])
    if form not in FORMATS:
        raise ValueError(
            f"--output={output}: its name must end in one of {', '.join(FORMATS)}, or give --format"
        )
    if _OUTPUT.value != STANDARD:
        new_file.check(output)
    model = model_of(Path(_RUN.value))
    kind = weights.read_description(model).get("model_type")
    if kind in list(pretrained.CLASSES):
        problem, *found = of_texts(model)
    elif kind in image_classifier.MODEL_TYPES:
        problem, *found = of_images(model)
    else:
        raise ValueError(
            f"{model} is a model of type {kind!r}; predictions need a classifier of texts or images, and "
            "examples.generate lets language models write"
        )
    predictions = written(*found, form, problem)
    if _OUTPUT.value == STANDARD:
        sys.stdout.write(predictions)
    else:
        training.write_whole(output, predictions)


if __name__ == "__main__":
    command.run(main, FLAGS)
