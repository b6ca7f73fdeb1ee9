import io
import os
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from examples.data import decoding, images, memory
from examples.data.image_summary import of_images
from tests.examples import malformed


def pixels(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images."""
    for i in range(6):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels(i)).save(path)
    (tmp_path / "cat/notes.txt").write_text("no image")
    return tmp_path


def test_digits():
    examples = images.digits()
    assert examples.images.shape == (1797, 8, 8, 1) and examples.images.dtype == np.uint8
    assert (examples.images.min(), examples.images.max()) == (0, 255)
    assert examples.label_names == tuple("0123456789")
    assert examples.labels[:3].tolist() == [0, 1, 2]


def test_a_folder(folder):
    examples = images.read(folder)
    assert examples.label_names == ("cat", "dog") and examples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_array_equal(examples.images, [pixels(i) for i in (0, 2, 4, 1, 3, 5)])


def test_images_are_scaled_on_request(folder):
    Image.fromarray(pixels(9, (10, 16, 3))).save(folder / "dog/9.png")
    assert images.read(folder, size=4).images.shape == (7, 4, 4, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.new("RGB", (9, 9)),
            r"z\.png is 9 × 9, but .*0\.png is 8 × 8: to scale .* size= \(--image_size\)",
        ),
        (Image.new("RGB", (8, 9)), r"z\.png is 8 × 9; an image must be square: to scale .* \(--image_size\)"),
    ],
)
def test_another_size_is_named(folder, image, message):
    image.save(folder / "dog/z.png")
    with pytest.raises(ValueError, match=message):
        images.read(folder)


def test_unreadable_images_are_named_and_counted(folder):
    for i in range(4):
        (folder / f"dog/broken{i}.png").write_bytes(b"not an image")
    whole = (folder / "cat/0.png").read_bytes()
    (folder / "cat/0.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError) as error:
        images.read(folder)
    message = str(error.value)
    assert message.startswith(f"{folder}: 5 of 10 images cannot be read: {folder / 'cat/0.png'} (")
    assert (
        f"{folder / 'dog/broken1.png'} (not one of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)" in message
        and message.endswith("; ...")
    )


def test_an_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=pixels(0, (3, 5, 5)), labels=np.array([10, 2, 10]))
    examples = images.read(path)
    assert examples.images.shape == (3, 5, 5, 1)
    assert examples.label_names == ("2", "10") and examples.labels.tolist() == [1, 0, 1]
    test = images.read(path, label_names=("2", "3", "10"))
    assert test.labels.tolist() == [2, 0, 2]
    with pytest.raises(ValueError, match="label '10' is not one of '2', '3'"):
        images.read(path, label_names=("2", "3"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": pixels(0)}, "no array 'images'; there are 'x'"),
        (
            {"images": np.ones((2, 5, 5)), "labels": np.arange(2)},
            r"must be uint8 .* got float64 \[2, 5, 5\]; convert them to integers from 0 to 255",
        ),
        ({"images": pixels(0, (2, 5, 6)), "labels": np.arange(2)}, r"must be uint8 .* got uint8 \[2, 5, 6\]"),
        (
            {"images": pixels(0, (2, 5, 5)), "labels": np.arange(3)},
            r"labels must be 2 integers or strings, got int64 \[3\]",
        ),
        ({"images": pixels(0, (2, 5, 5)), "labels": np.zeros(2, int)}, "all labels are '0'"),
        ({"images": pixels(0, (0, 5, 5)), "labels": np.zeros(0, int)}, "no images"),
        ({"images": np.array([{}]), "labels": np.arange(1)}, "cannot be read: Object arrays cannot be loaded"),
    ],
)
def test_what_an_npz_must_hold(tmp_path, arrays, message):
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        images.read(tmp_path / "set.npz")


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such file or folder"):
        images.read(tmp_path / "none")
    with pytest.raises(ValueError, match="no images"):
        images.read(tmp_path)
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
        images.read(tmp_path / "a.npz")
    (tmp_path / "a.csv").touch()
    with pytest.raises(
        ValueError,
        match=r"a\.csv: images must be in a folder, or in a file that ends in \.npz, \.parquet or \.arrow",
    ):
        images.read(tmp_path / "a.csv")
    np.savez(tmp_path / "b.npz", images=pixels(0, (2, 5, 5)), labels=np.arange(2))
    with pytest.raises(ValueError, match="images must be 4 × 4, got 5 × 5"):
        images.read(tmp_path / "b.npz", size=4)


@pytest.fixture
def parquet():
    """pyarrow, which the `test` extra brings and `examples` does not."""
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    return lambda path, columns: parquet.write_table(table(columns), path)


def png(seed):
    Image.fromarray(pixels(seed)).save(file := io.BytesIO(), "png")
    return file.getvalue()


@pytest.mark.parametrize("as_record", [True, False])
def test_a_parquet(tmp_path, parquet, as_record):
    path = tmp_path / "set.parquet"
    contents = [{"bytes": png(i), "path": f"{i}.png"} if as_record else png(i) for i in range(3)]
    parquet(path, {"image": contents, "label": [10, 7, 10]})
    examples = images.read(path)
    np.testing.assert_array_equal(examples.images, [pixels(i) for i in range(3)])
    assert examples.label_names == ("7", "10") and examples.labels.tolist() == [1, 0, 1]
    assert images.read(path, size=4).images.shape == (3, 4, 4, 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [1], "label": [3]}, "no column 'image'; there are 'picture', 'label'"),
        ({"image": [b"x"], "class": [3]}, "no column 'label'; there are 'image', 'class'"),
        ({"image": ["a.png", "b.png"], "label": [3, 7]}, "row 0: image must be bytes .*, got str"),
        ({"image": [{"path": "a.png"}], "label": [3]}, "row 0: image must be bytes .*, got NoneType"),
        ({"image": [png(0), None], "label": [3, 7]}, "row 1: image must be bytes .*, got NoneType"),
        ({"image": [png(0), png(1)], "label": [3, None]}, "row 1: no label"),
        ({"image": [png(0), b"x"], "label": [3, 7]}, r"1 of 2 images cannot be read: .*set\.parquet, row 1 \("),
    ],
)
def test_what_a_parquet_must_hold(tmp_path, parquet, columns, message):
    parquet(tmp_path / "set.parquet", columns)
    with pytest.raises(ValueError, match=message):
        images.read(tmp_path / "set.parquet")


def test_shards_of_a_parquet_with_named_classes(tmp_path):
    pytest.importorskip("pyarrow")
    from tests.examples.data import test_row_files

    def write(path, numbers, labels, feature=test_row_files.FEATURE):
        whole = test_row_files.table([], [], feature).schema.metadata
        columns = {"image": [{"bytes": png(i)} for i in numbers], "label": labels}
        made = test_row_files.pyarrow.table(columns).replace_schema_metadata(whole)
        test_row_files.pyarrow.parquet.write_table(made, path)

    write(tmp_path / "train-00000-of-00002.parquet", [0, 1], [1, 1])
    write(tmp_path / "train-00001-of-00002.parquet", [2], [0])
    (tmp_path / "README.md").touch()
    found = images.read(tmp_path)
    np.testing.assert_array_equal(found.images, [pixels(i) for i in range(3)])
    assert found.label_names == ("pos", "neg") and found.labels.tolist() == [1, 1, 0]
    assert found.notes == {"files or folders left out: not shards": 1, "shards": 2}
    assert images.read(tmp_path / "train-*.parquet").labels.tolist() == [1, 1, 0]
    write(tmp_path / "train-00001-of-00002.parquet", [2], [0], {"_type": "ClassLabel", "names": ["a", "b"]})
    with pytest.raises(ValueError, match=r"00001-of-00002\.parquet: the classes of 'label' are not those of"):
        images.read(tmp_path)
    write(tmp_path / "one.parquet", [0], [2])
    with pytest.raises(ValueError, match=r"one\.parquet, row 0: label is 2, and its classes are 'pos', 'neg'"):
        images.read(tmp_path / "one.parquet")


def test_a_parquet_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"set\.parquet cannot be read: "):
        images.read(tmp_path / "set.parquet")


def test_a_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "set.parquet").touch()
    with pytest.raises(ImportError, match=r'\.parquet needs pyarrow: pip install "optimiz-jax\[shards\]"'):
        images.read(tmp_path / "set.parquet")


def test_equal_images_are_in_one_part():
    examples = images.digits()
    double = images.ImageExamples(
        np.tile(examples.images, (2, 1, 1, 1)), np.tile(examples.labels, 2), examples.label_names, "twice"
    )
    parts = images.split(double, {"train": 0.7, "test": 0.3})
    assert sum(len(part.images) for part in parts.values()) == 2 * 1797
    found = [{image.tobytes() for image in part.images} for part in parts.values()]
    assert not found[0] & found[1]
    assert 0.65 < len(parts["train"].images) / (2 * 1797) < 0.75
    same = images.ImageExamples(np.zeros((9, 8, 8, 1), np.uint8), np.arange(9) % 2, ("0", "1"), "same")
    with pytest.raises(
        ValueError, match=r"too few images for a part '.*' of \d0%, as only 1 of 9 are different"
    ):
        images.split(same, {"train": 0.7, "test": 0.3})
    with pytest.raises(ValueError, match="twice: too few images for a part 'test' of 0%"):
        images.split(double, {"train": 1 - 1e-9, "test": 1e-9})


def test_images_of_the_test_are_left_out_of_training():
    train, test = (labelled(count, [0, 1] * (count // 2), seed=count) for count in (40, 20))
    test.images[3] = train.images[7]
    found = images.apart(train, test)
    assert len(found.images) == 39 and found.labels.tolist() == np.delete(train.labels, 7).tolist()
    assert found.notes == {"images left out of training, as another part has them": 1}
    assert images.apart(found, test) is found
    with pytest.raises(
        ValueError, match=r"40 of its 40 images are in --data too, .* omit --test, for a part of"
    ):
        images.apart(train, train)


# --- what systems leave behind ------------------------------------------------------------------


def test_hidden_files_and_those_of_a_system_are_left_out_and_counted(folder):
    plain = images.read(folder)
    for name in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png", ".DS_Store", "cat/._0.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    for name in ("Thumbs.db", "desktop.ini", "dog/.DS_Store", "dog/Thumbs.db", "cat/desktop.ini"):
        (folder / name).write_bytes(b"x")
    for name in ("dog/.ipynb_checkpoints", "dog/@eaDir", "rabbit"):
        (folder / name).mkdir()
    Image.fromarray(pixels(7)).save(folder / "dog/.ipynb_checkpoints/1.png")
    Image.fromarray(pixels(8)).save(folder / "loose.png")
    examples = images.read(folder)
    np.testing.assert_array_equal(examples.images, plain.images)
    assert examples.label_names == ("cat", "dog")
    assert examples.notes == {
        "files or folders left out: hidden or system files": 11,
        "files left out: not in the folder of a class": 1,
        "files left out: not pictures, by their names": 1,
        "folders left out: without a picture": 1,
    }


def test_a_folder_of_parts_is_not_one_of_classes(folder):
    for part in ("train", "val"):
        (folder / "set" / part).mkdir(parents=True)
        (folder / "cat").rename(folder / "set" / part / "cat") if part == "train" else None
    with pytest.raises(ValueError, match=r"set holds parts of a data set, train, val, .* as --data=.*/train"):
        images.read(folder / "set")


@pytest.mark.parametrize("suffix", [".heic", ".AVIF", ".svg"])
def test_a_picture_of_a_type_that_is_not_read_is_not_passed_over(folder, suffix):
    (folder / f"cat/photo{suffix}").touch()
    with pytest.raises(
        ValueError, match=rf"photo\{suffix}: pictures of type \{suffix.lower()} are not supported; con"
    ):
        images.read(folder)


def test_what_is_no_regular_file(folder, tmp_path):
    os.mkfifo(folder / "cat/pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is not a regular file"):
        images.read(folder)
    os.mkfifo(tmp_path / "set.npz")
    with pytest.raises(ValueError, match=r"set\.npz: images must be in a folder, or in a file"):
        images.read(tmp_path / "set.npz")
    (folder / "cat/pipe.png").unlink()
    (folder / "cat/gone.png").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"gone\.png \(FileNotFoundError"):
        images.read(folder)


def test_a_folder_whose_name_is_not_utf_8_has_a_name_that_can_be_written(folder):
    (folder / "dog").rename(folder / os.fsdecode(b"\xff"))
    examples = images.read(folder)
    assert examples.label_names == ("cat", "\N{REPLACEMENT CHARACTER}")
    (folder / os.fsdecode(b"\xfe")).mkdir()
    with pytest.raises(ValueError, match="two folders would both be the class"):
        images.read(folder)


def test_names_of_classes_stay_as_they_are(folder):
    for name in ("3", "\N{FULLWIDTH DIGIT THREE}", "03", "\N{SUPERSCRIPT TWO}", "10"):
        (folder / name).mkdir()
        Image.fromarray(pixels(len(name) + ord(name[0]))).save(folder / name / "0.png")
    names = ("03", "3", "10", "cat", "dog", "\N{SUPERSCRIPT TWO}", "\N{FULLWIDTH DIGIT THREE}")
    assert images.read(folder).label_names == names


# --- what a file asks for ------------------------------------------------------------------------


def marked():
    """Grey, 8 × 8, with a bright corner at the top on the left."""
    array = np.full((8, 8), 100, np.uint8)
    array[:4, :4] = 250
    return array


ORIENTATIONS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: lambda stored: np.rot90(stored, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_photograph_is_upright(folder, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.stack([marked()] * 3, -1)
    stored[4:, :4] = 30
    Image.fromarray(stored).save(folder / f"cat/9.{suffix}", exif=exif)
    examples = images.read(folder)
    expected = ORIENTATIONS[orientation](stored[..., 0])
    np.testing.assert_allclose(examples.images[3, ..., 0].astype(int), expected, atol=30)
    assert examples.notes.get("rotated upright, by their EXIF orientation", 0) == (orientation > 1)


def test_a_photograph_that_is_wider_than_high_is_turned_before_it_is_scaled(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 8)).save(folder / "cat/9.jpg", exif=exif)
    assert images.read(folder, size=8).sizes[3].tolist() == [8, 16]


def saved(image, suffix, **options):
    def save(path):
        image.save(path.with_suffix(suffix), **options)

    return save


def transparent(mode):
    """Half of it is black and transparent, half of it is black and not."""
    image = Image.new(mode, (8, 8), (0,) * (len(mode) - 1) + (255,))
    image.paste((0,) * len(mode), (0, 0, 8, 4))
    return image


def palette():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4, "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9])
    return image


SIXTEEN = (np.arange(64).reshape(8, 8) * 1024).astype(np.uint16)
FRAMES = [Image.new("L", (8, 8), grey) for grey in (200, 10)]
WHITE_ABOVE = np.where(np.arange(8)[:, None, None] < 4, 255, 0) * np.ones((8, 8, 3))
MODES = {
    "grey": (saved(Image.new("L", (8, 8), 7), ".png"), 7, None),
    "two tones": (saved(Image.new("1", (8, 8), 1), ".png"), 255, None),
    "palette": (saved(palette(), ".png"), np.asarray(palette().convert("RGB")), None),
    "opaque alpha": (saved(Image.new("RGBA", (8, 8), (1, 2, 3, 255)), ".png"), [1, 2, 3], None),
    "alpha": (saved(transparent("RGBA"), ".png"), WHITE_ABOVE, "partly transparent: laid on white"),
    "grey alpha": (saved(transparent("LA"), ".png"), WHITE_ABOVE, "partly transparent: laid on white"),
    "a transparent colour": (
        saved(Image.new("RGB", (8, 8), (5, 6, 7)), ".png", transparency=(5, 6, 7)),
        255,
        "partly transparent: laid on white",
    ),
    "16 bits": (
        saved(Image.fromarray(SIXTEEN), ".png"),
        np.round(SIXTEEN / 257)[..., None],
        "16 bits: reduced to 8",
    ),
    "16 bits, TIFF": (
        saved(Image.fromarray(SIXTEEN), ".tif"),
        np.round(SIXTEEN / 257)[..., None],
        "16 bits: reduced to 8",
    ),
    "CMYK": (
        saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), ".tif"),
        [255, 0, 0],
        "CMYK: converted to RGB without their colour profile",
    ),
    "animated GIF": (
        saved(FRAMES[0], ".gif", save_all=True, append_images=FRAMES[1:]),
        200,
        "animated: only the first picture is used",
    ),
    "animated PNG": (
        saved(FRAMES[0], ".png", save_all=True, append_images=FRAMES[1:]),
        200,
        "animated: only the first picture is used",
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_means_the_same_colours(folder, mode):
    save, expected, note = MODES[mode]
    save(folder / "cat/9")
    examples = images.read(folder)
    np.testing.assert_array_equal(examples.images[3], np.broadcast_to(expected, (8, 8, 3)))
    own = set(examples.notes) - {
        "grey images among coloured ones",
        "files left out: not pictures, by their names",
    }
    assert own == ({note} if note else set())


def test_grey_and_colour(tmp_path):
    for i, mode in enumerate(["L", "L", "L", "RGB"]):
        path = tmp_path / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new(mode, (8, 8), 10 * i if mode == "L" else (1, 2, 3)).save(path)
    both = images.read(tmp_path)
    assert both.images.shape == (4, 8, 8, 3) and both.notes == {"grey images among coloured ones": 3}
    assert both.images[1, 0, 0].tolist() == [20, 20, 20] and both.images[3, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"3\.png is in colour, but the images that it goes with are grey"):
        images.read(tmp_path, channels=1)
    (tmp_path / "dog/3.png").unlink()
    assert images.read(tmp_path).images.shape == (3, 8, 8, 1)
    assert images.read(tmp_path, channels=3).images.shape == (3, 8, 8, 3)


def test_pixels_that_are_not_read_are_said(folder):
    Image.fromarray(np.ones((8, 8), np.float32)).save(folder / "cat/9.tif")
    with pytest.raises(
        ValueError, match=r"9\.tif \(ValueError: pixels of mode F are not supported; save it as 8-bit PNG"
    ):
        images.read(folder)


def test_no_program_is_started_by_a_picture_in_disguise(folder):
    (folder / "cat/9.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    with pytest.raises(ValueError, match=r"9\.png \(not one of BMP, "):
        images.read(folder)


# --- what claims to be larger than it is ----------------------------------------------------------


@pytest.mark.parametrize("side", [13_000, 100_000])
def test_more_pixels_than_are_safe_are_not_decoded(folder, side):
    (folder / "cat/9.png").write_bytes(malformed.png(side, side))
    with pytest.raises(ValueError, match=rf"9\.png \(DecompressionBomb.*{side * side} pixels") as error:
        images.read(folder, size=8)
    assert "\n" not in str(error.value)


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "limit", lambda: 1000)


@pytest.mark.usefixtures("little_memory")
def test_more_than_fits_into_memory_is_refused_at_the_first_picture(folder):
    with pytest.raises(ValueError, match=r"6 images of .* would take 0\.0 GiB of memory; the limit is 0\.0"):
        images.read(folder)
    assert images.read(folder, size=4).images.shape == (6, 4, 4, 3)


def test_an_archive_is_read_by_what_is_needed_of_it(tmp_path, monkeypatch):
    few = {"images": pixels(0, (3, 5, 5)), "labels": np.array([1, 2, 1])}
    path = tmp_path / "set.npz"
    path.write_bytes(malformed.npz(**few, extra=malformed.claims((2**40,)), other=malformed.OBJECTS))
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    assert images.read(path).notes == {"unused arrays": 2}
    large = few | {"images": np.zeros((3, 30, 30), np.uint8)}
    np.savez_compressed(path, **large)
    with pytest.raises(ValueError, match=r"set\.npz cannot be read: images of .* would take 0\.0 GiB"):
        images.read(path)
    path.write_bytes(malformed.npz(labels=few["labels"], images=malformed.claims((2**40, 2**40)) + bytes(9)))
    with pytest.raises(
        ValueError, match=r"the header says uint8 \[1099511627776, 1099511627776\], but there are"
    ):
        images.read(path)


def test_an_array_twice_in_an_archive(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=pixels(0, (3, 5, 5)), labels=np.array([1, 2, 1]))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.npy", b"")
    with pytest.raises(ValueError, match=r"set\.npz: array 'labels' twice; there are 'images', 'labels'"):
        images.read(path)


def test_labels_of_an_archive(tmp_path):
    three = pixels(0, (3, 5, 5))
    for labels in (np.array(["b", "a", "b"]), np.array([2, 1, 2], np.uint8)):
        np.savez(tmp_path / "set.npz", images=np.asfortranarray(three), labels=labels)
        examples = images.read(tmp_path / "set.npz")
        assert examples.label_names == tuple(map(str, sorted(set(labels.tolist()))))
        assert examples.labels.tolist() == [1, 0, 1]
        np.testing.assert_array_equal(examples.images[..., 0], three)
    for labels in (
        np.array([True, False, True]),
        np.zeros((3, 1), int),
        np.array([1.0, 2.0, 1.0]),
        np.array(1),
    ):
        np.savez(tmp_path / "set.npz", images=three, labels=labels)
        with pytest.raises(ValueError, match="labels must be 3 integers or strings, got"):
            images.read(tmp_path / "set.npz")


@pytest.mark.parametrize("label", ["-1", "", "nan", "NA"])
def test_what_means_no_label_is_no_class(tmp_path, parquet, label):
    np.savez(tmp_path / "set.npz", images=pixels(0, (3, 5, 5)), labels=np.array(["0", "1", label]))
    with pytest.raises(ValueError, match=rf"set\.npz: label '{label}' of image 3 means no label; if a class,"):
        images.read(tmp_path / "set.npz")
    assert images.read(tmp_path / "set.npz", label_names=("0", "1", label)).labels.tolist() == [0, 1, 2]
    parquet(tmp_path / "set.parquet", {"image": [png(0), png(1)], "label": ["a", label]})
    with pytest.raises(ValueError, match=rf"set\.parquet: label '{label}' of image 2 means no label"):
        images.read(tmp_path / "set.parquet")


def test_a_parquet_is_bounded_before_it_is_read(tmp_path, parquet, monkeypatch):
    path = tmp_path / "set.parquet"
    parquet(path, {"image": [png(0), png(1)] * 50, "label": ["a", "b"] * 50, "other": [b"x" * 10_000] * 100})
    assert len(images.read(path).images) == 100
    parquet(path, {"image": [b"x"] * 1_000_000, "label": [1] * 1_000_000})
    with pytest.raises(ValueError, match=r"set\.parquet claims to have 1,000,000 rows, more than it has bytes"):
        images.read(path)
    parquet(path, {"image": [bytes(2000)], "label": [1]})
    monkeypatch.setattr(memory, "limit", lambda: 1000)
    with pytest.raises(ValueError, match=r"the column 'image' of .*set\.parquet would take"):
        images.read(path)


@pytest.mark.parametrize(
    "labels", [[0.0, float("nan")], [[1], [2]], [True, False], [b"a", b"b"], [{"a": 1}] * 2]
)
def test_labels_of_a_parquet_are_integers_or_strings(tmp_path, parquet, labels):
    parquet(tmp_path / "set.parquet", {"image": [png(0), png(1)], "label": labels})
    with pytest.raises(ValueError, match=r"set\.parquet: label must hold integers or strings, got "):
        images.read(tmp_path / "set.parquet")


def test_a_column_twice_in_a_parquet(tmp_path, parquet):
    from pyarrow import array, table

    columns = [array([png(0), png(1)]), array([1, 2]), array([2, 1])]
    from pyarrow.parquet import write_table

    write_table(table(columns, names=["image", "label", "label"]), tmp_path / "set.parquet")
    with pytest.raises(ValueError, match=r"column 'label' twice; there are 'image', 'label'"):
        images.read(tmp_path / "set.parquet")


def test_columns_that_a_parquet_has_besides_are_counted(tmp_path, parquet):
    parquet(tmp_path / "set.parquet", {"image": [png(0), png(1)], "label": [1, 2], "fine_label": [7, 8]})
    found = images.read(tmp_path / "set.parquet")
    assert found.notes["unused columns"] == 1 and found.label_names == ("1", "2")


# --- the summary ------------------------------------------------------------------------------------


def labelled(count, label, names=("cat", "dog"), seed=0, **more):
    labels = np.broadcast_to(label, count).astype(np.int32)
    return images.ImageExamples(pixels(seed, (count, 4, 4, 1)), labels, names, "here", **more)


def test_good_images_have_a_summary_without_warnings():
    shares = {"train": 0.5, "validation": 0.15, "test": 0.35}
    summary = of_images(images.split(images.digits(), shares))
    assert summary.warnings == []
    assert summary.facts["data"] == "scikit-learn's digits" and summary.facts["images"] == "8 × 8 × 1"
    assert summary.facts["classes"].startswith("10; in training: 0 ")
    assert "sizes in the files" not in summary.facts and summary.rows() == summary.facts


def test_what_is_bad_about_images_is_said():
    train = labelled(220, [0] * 210 + [1] * 10, sizes=np.array([[4, 4], [8, 4]] * 110), notes={"animated": 2})
    test = labelled(3, 0, seed=1, notes={"animated": 2})
    test.images[:2] = train.images[[0, 215]]
    summary = of_images({"train": train, "test": test})
    assert sorted(summary.warnings) == [
        "1 image with two classes or more",
        "50% of the images are not square, and were stretched to 4 × 4",
        "test has no example of the class 'dog'",
        "test has only 3 examples: each of them is 33.3% of its accuracy",
        "test shares 2 images with train: its metrics are optimistic",
        "the classes are uneven, in training 210 of 'cat' and 10 of 'dog': look at macro_f1 or mcc besides the "
        "accuracy",
    ]
    assert summary.facts["sizes in the files"] == "smallest 4 × 4, median 8 × 4, largest 8 × 4"
    assert summary.facts["animated"] == "2" and summary.facts["duplicates"] == "2 images"
    assert summary.rows()["warning 1"] == summary.warnings[0]


def test_a_photograph_with_a_preview_beside_it_is_not_animated(folder):
    photograph, preview = Image.new("RGB", (8, 8), (200, 0, 0)), Image.new("RGB", (8, 8))
    photograph.save(folder / "cat/9.jpg", format="MPO", save_all=True, append_images=[preview])
    examples = images.read(folder)
    assert examples.images[3, 0, 0, 0] > 190
    assert "animated: only the first picture is used" not in examples.notes


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "RGBA", "I;16", "P"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_tiff_that_lies_on_its_side_is_upright(folder, mode, compression):
    """Whether Pillow's loader would map it into memory or not."""
    stored = np.repeat(np.arange(0, 240, 30, dtype=np.uint8)[None], 5, 0)  # brighter to the right
    image = Image.fromarray(stored.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(stored)
    image = image if mode in ("L", "I;16") else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "cat/9.tif", exif=exif, compression=compression)
    upright, notes = decoding._upright(folder / "cat/9.tif")
    shown = np.asarray(upright.convert("L"), int)
    assert shown.shape == (8, 5) and "rotated upright, by their EXIF orientation" in notes
    np.testing.assert_allclose(shown, np.repeat(stored[0, :, None], 5, 1), atol=2)
