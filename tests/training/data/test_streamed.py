"""A dataset that is read in order is a function of the step, and a resumed run goes on where it was."""

import json

import grain
import numpy as np
import optax
import pytest

from optimiz import training
from optimiz.training import RunError
from tests.training import tiny
from tests.training.in_order import InOrder


def rows(step):
    return {"x": np.arange(2) + 2 * step}


def first(batch):
    return int(batch["x"][0]) // 2


def test_a_batch_depends_on_the_step_alone_and_is_read_once_in_a_row():
    dataset = InOrder(rows)
    batches = training.Streamed(dataset)
    assert [first(batches(step)) for step in (0, 0, 1, 2, 2, 3)] == [0, 0, 1, 2, 2, 3]
    assert dataset.read == [0, 1, 2, 3]
    assert first(batches(1)) == 1 and dataset.read[4:] == [1]  # its position is known
    assert first(batches(6)) == 6 and dataset.read[5:] == [3, 4, 5, 6]  # so is that before 3
    assert first(batches(0)) == 0


def test_the_positions_that_are_kept_are_few(monkeypatch):
    monkeypatch.setattr("optimiz.training.data.streamed._KEPT", 3)
    dataset = InOrder(rows)
    batches = training.Streamed(dataset)
    assert [first(batches(step)) for step in range(8)] == list(range(8))
    assert first(batches(2)) == 2 and dataset.read[8:] == [0, 1, 2]


def test_a_position_is_where_another_goes_on():
    batches = training.Streamed(InOrder(rows))
    for step in range(5):
        batches(step)
    dataset = InOrder(rows)
    other = training.Streamed(dataset)
    other.resume(5, batches.position(5))
    assert first(other(5)) == 5 and first(other(6)) == 6 and dataset.read == [5, 6]
    with pytest.raises(ValueError, match=r"saved position '\{\"step\": 5\}': there is no step 5"):
        training.Streamed(InOrder(rows, steps=4)).resume(5, batches.position(5))


GRAIN = {
    "IterDataset": lambda source: source.repeat().to_iter_dataset().batch(8),
    "windows": lambda source: grain.experimental.WindowShuffleIterDataset(
        source.repeat().to_iter_dataset(), window_size=7, seed=3
    ).batch(8),
}


def arrays():
    random = np.random.default_rng(0)
    x = random.normal(size=(30, 4)).astype(np.float32)
    return [{"x": row, "y": np.sin(row.sum())} for row in x]


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", GRAIN.values(), ids=GRAIN)
def test_a_resumed_run_on_grain_equals_one_that_was_not_interrupted(tmp_path, make):
    def run(name, steps):
        dataset = make(grain.MapDataset.source(arrays()).seed(0).shuffle())
        return training.fit(
            tiny.task(batches=training.Streamed(dataset)),
            optax.adam(0.01),
            tiny.settings(steps=steps, save_every=5),
            tmp_path / name,
            identity={},
            resume=True,
        )

    run("run", 7)
    manifest = json.loads((tmp_path / "run/checkpoints/000000007/manifest.json").read_text())
    assert len(manifest["record"]["data"]) == 1 and "next_index" in manifest["record"]["data"][0]
    resumed, whole = run("run", 12), run("whole", 12)
    assert np.asarray(resumed.params["w1"]).tobytes() == np.asarray(whole.params["w1"]).tobytes()


class Loader:
    """Batches of Grain's loader, whose positions are bytes."""

    def __init__(self):
        source = grain.sources.RangeDataSource(0, 40, 1)
        self.batches = grain.load(source, shuffle=True, seed=1, transformations=[Named()], batch_size=4)

    def __iter__(self):
        return iter(self.batches)


class Named(grain.transforms.Map):
    def map(self, element):
        return {"x": element}


def test_a_position_may_be_bytes():
    batches, other = training.Streamed(Loader()), training.Streamed(Loader())
    read = [batches(step)["x"].tolist() for step in range(6)]
    assert "base64" in batches.position(3)
    other.resume(3, batches.position(3))
    assert [other(step)["x"].tolist() for step in (3, 4)] == read[3:5]


def test_a_resumed_run_reads_nothing_again_if_it_has_a_position(tmp_path, caplog):
    plain = tiny.task()

    def fit(dataset, steps, directory):
        task = tiny.task(batches=dataset and training.Streamed(dataset))
        settings = tiny.settings(steps=steps)
        return training.fit(task, optax.sgd(0.1), settings, directory, identity={}, resume=True)

    fit(InOrder(plain.batches), 4, tmp_path / "run")
    dataset = InOrder(plain.batches)
    fit(dataset, 6, tmp_path / "run")
    assert dataset.read == [4, 5] and not caplog.records
    with pytest.raises(RunError, match="cannot be resumed: the dataset cannot go to its saved position"):
        fit(InOrder(plain.batches, steps=5), 8, tmp_path / "run")
    fit(None, 4, tmp_path / "arrays")
    dataset = InOrder(plain.batches)
    fit(dataset, 6, tmp_path / "arrays")
    assert dataset.read == [0, 1, 2, 3, 4, 5]
    assert "from the start: its checkpoint has the positions of 0 processes, not of 1" in caplog.text


def test_what_is_no_dataset_is_refused():
    with pytest.raises(TypeError, match="dataset must be an iterable of batches"):
        training.Streamed(rows)
    with pytest.raises(TypeError, match="must start anew when iterated over, got a generator"):
        training.Streamed(rows(step) for step in range(3))
    with pytest.raises(TypeError, match="list_iterator has no get_state and no set_state"):
        training.Streamed([rows(0)])
    with pytest.raises(TypeError, match=r"training\.Streamed\(dataset\)"):
        tiny.task(batches=InOrder(rows))


def test_a_dataset_that_ends_says_so():
    batches = training.Streamed(InOrder(rows, steps=3))
    with pytest.raises(ValueError, match="dataset ends after 3 batches"):
        batches(3)
