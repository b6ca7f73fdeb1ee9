import io
import sys

import numpy as np
import pytest
from PIL import Image

from examples.data import images


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
        (Image.new("RGB", (9, 9)), r"z\.png is 9 × 9 RGB, and .*0\.png is 8 × 8 RGB: all must be alike"),
        (Image.new("L", (8, 8)), r"z\.png is 8 × 8 L, and .*0\.png is 8 × 8 RGB: all must be alike"),
        (Image.new("RGBA", (8, 8)), r"z\.png is 8 × 8 RGBA; an image must be square, and of mode L or RGB"),
        (Image.new("RGB", (8, 9)), r"z\.png is 8 × 9 RGB; an image must be square"),
    ],
)
def test_another_size_or_mode_is_named(folder, image, message):
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
    assert f"{folder / 'dog/broken1.png'} (UnidentifiedImageError" in message and message.endswith("; ...")


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
        ({"images": np.ones((2, 5, 5)), "labels": np.arange(2)}, r"must be uint8 .* got float64 \[2, 5, 5\]"),
        ({"images": pixels(0, (2, 5, 6)), "labels": np.arange(2)}, r"must be uint8 .* got uint8 \[2, 5, 6\]"),
        (
            {"images": pixels(0, (2, 5, 5)), "labels": np.arange(3)},
            r"labels must be 2 integers, got int64 \[3\]",
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
        ValueError, match=r"a\.csv: must be a folder, or a file that ends in \.npz or \.parquet"
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
        ({"picture": [1], "label": [3]}, "no column 'image'; the columns are 'picture', 'label'"),
        ({"image": [b"x"], "class": [3]}, "no column 'label'; the columns are 'image', 'class'"),
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


def test_a_parquet_that_is_none(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"set\.parquet cannot be read: "):
        images.read(tmp_path / "set.parquet")


def test_a_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "set.parquet").touch()
    with pytest.raises(ImportError, match=r"set\.parquet: to read Parquet, run: pip install pyarrow"):
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
    with pytest.raises(ValueError, match="twice: too few images for a part 'test' of 0%"):
        images.split(double, {"train": 1 - 1e-9, "test": 1e-9})
