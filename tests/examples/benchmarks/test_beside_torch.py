import importlib.util

import pytest
from absl.testing import flagsaver

from examples.benchmarks.beside_torch import peers, steps, steps_report, trainer, trainer_report
from examples.data import text_files
from examples.shared import command

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def call(*argv, program=steps):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse([program.__name__, *argv], program.FLAGS)
        command.guarded(program.main)


def test_what_is_not_installed_is_said_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name == "torch" else True)
    with pytest.raises(SystemExit) as exit:
        call(f"--output={tmp_path}")
    assert exit.value.code == command.EXIT_USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: a comparison with PyTorch needs torch: pip install torch transformers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.skipif(not HAS_TORCH, reason="needs torch and transformers")
@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_both_sides_have_the_same_loss_and_take_turns(name, tmp_path):
    if name == "gpt2":
        small = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50}
        sides = peers.gpt2(tmp_path / "model", tokens=8, batch=2, **small)
    else:
        small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
        sides = peers.vit(tmp_path / "model", batch=2, classes=3, image_size=16, patch_size=8, **small)
    row = steps.measured(sides, 4, tmp_path)
    assert row["loss"]["optimiz"] == pytest.approx(row["loss"]["torch"], rel=1e-5)
    assert row["parameters"] == sum(x.numel() for x in sides.module.parameters())
    assert {who: len(seconds) for who, seconds in row["seconds"].items()} == {"optimiz": 4, "torch": 4}
    # The first and the last step of each side have trained it.
    after = float(sides.loss(sides.task.batches(0)).detach())
    assert after != pytest.approx(row["loss"]["torch"], rel=1e-7)


@pytest.mark.long
@pytest.mark.skipif(not HAS_TORCH, reason="needs torch and transformers")
def test_sides_that_do_not_compute_the_same_are_refused(tmp_path):
    small = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    sides = peers.gpt2(tmp_path / "model", tokens=8, batch=2, **small)
    sides.module.lm_head.weight.data[:] *= 1.5
    with pytest.raises(ValueError, match="both sides must have the same loss"):
        steps.measured(sides, 4, tmp_path)


def test_a_ratio_is_of_times_of_one_round():
    row = {"seconds": {"optimiz": [1.0, 4.0, 9.0], "torch": [2.0, 4.0, 6.0]}}
    assert steps_report.ratios(row) == [0.5, 1.0, 1.5]


def test_a_table_from_a_machine_with_other_work_says_so():
    row = {"title": "T", "batch": "4", "parameters": 2e6, "compile_seconds": 1.0, "date": "2026-12-01"}
    row["seconds"] = {"optimiz": [1.0, 4.0, 9.0], "torch": [2.0, 4.0, 6.0]}
    versions = dict.fromkeys(("jax", "torch", "transformers"), "1")
    where = {"device": "cpu", "cpu_cores": 2, "versions": versions, "peers": {}}
    for load, said in ((2.5, False), (9.6, True)):
        text = steps_report.report({"environment": where, "rows": [row | {"load": [1.0, load]}]})
        assert "| T | 4 | 2 million | 4000 | 4000 | 1.00 | 0.75 to 1.25 | 3 | 1.0 |" in text
        assert ("a load of 1 to 10" in text) is said


@pytest.fixture
def files(tmp_path):
    """Arguments for a task of forty different texts."""
    for name in ("a", "b"):
        lines = [f"text {name} {i}\t{('bad', 'good')[i % 2]}" for i in range(40)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    return [f"--data={tmp_path}/a.tsv", f"--test={tmp_path}/b.tsv", f"--output={tmp_path}/out", "--rows=30"]


def test_a_task_is_added_to_the_record_and_each_of_its_runs_is_made_once(files, tmp_path, monkeypatch, capsys):
    made = []

    def measured(name, accuracy):
        def measure(parts, seed=0):
            made.append((name, seed, {part: len(examples.texts) for part, examples in parts.items()}))
            return {"accuracy": accuracy + 0.01 * seed, "macro_f1": 0.5, "mcc": 0.0}

        return measure

    for name, accuracy in {"ours": 0.85, "trainers": 0.87, "linear": 0.8}.items():
        monkeypatch.setattr(trainer, name, measured(name, accuracy))
    monkeypatch.setattr(trainer.peers, "versions", lambda *names: dict.fromkeys(names, "1"))
    call("--task=one", "--seeds=1", *files, program=trainer)
    assert [run[:2] for run in made] == [("linear", 0), ("ours", 0), ("trainers", 0)]
    (examples,) = {tuple(run[2].items()) for run in made}
    assert sum(count for _, count in examples) == 60 and ("test", 30) in examples
    call("--task=one", "--seeds=2", *files, program=trainer)
    assert [run[:2] for run in made[3:]] == [("ours", 1), ("trainers", 1)]
    call("--task=two", "--seeds=1", *files, program=trainer)
    assert len(made) == 8
    page = (tmp_path / "out/report.md").read_text()
    assert "| 85.5 ± 0.5 | 87.5 ± 0.5 | 80.0 | -2.0 (-2.0 to -2.0) | open | 0.00, 0.00, 0.00 | 2 |" in page
    assert str(tmp_path) not in (tmp_path / "out/record.json").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call("--task=one", *files[:3], program=trainer)  # all forty rows
    assert "has runs of other data or epochs under this name" in capsys.readouterr().err


def test_columns_are_those_that_a_trainer_reads(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\tlabel\nA.\tB.\tyes\nC.\tD.\tno\n")
    expected = {"sentence1": ["A.", "C."], "sentence2": ["B.", "D."], "label": ["yes", "no"]}
    assert trainer.columns(text_files.read(path)) == expected


def test_what_keeps_up_is_a_point_behind_at_most():
    def row(side, accuracy):
        return {"task": "t", "side": side, "seed": 0, "test": {"accuracy": accuracy}}

    def said(ours, theirs, linear, seeds=3):
        sides = (trainer_report.OURS, trainer_report.THEIRS, trainer_report.LINEAR)
        return trainer_report.verdict({"rows": seeds * [*map(row, sides, (ours, theirs, linear))]}, "t")

    assert said(0.8, 0.809, 0.8) == said(0.9, 0.8, 0.7) == "keeps up"
    assert said(0.8, 0.811, 0.7) == "**behind the Trainer**"
    assert said(0.8, 0.9, 0.81) == "**behind the Trainer and TF-IDF**"
    assert said(0.8, 0.9, 0.81, seeds=2) == "open"
    assert trainer_report.verdict({"rows": [row(trainer_report.OURS, 0.8)]}, "t") == "open"
