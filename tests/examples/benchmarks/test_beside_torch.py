import importlib.util

import pytest
from absl.testing import flagsaver

from examples.benchmarks.beside_torch import peers, steps, steps_report
from examples.shared import command

HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def call(*argv):
    """The program, in this process."""
    with flagsaver.flagsaver():
        command.parse(["benchmarks.beside_torch.steps", *argv], steps.FLAGS)
        command.guarded(steps.main)


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
