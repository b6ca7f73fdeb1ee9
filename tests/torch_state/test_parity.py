"""Ours goes on where PyTorch stopped, and PyTorch where ours did: the next steps are the same."""

import re
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import torch_state
from tests.conftest import ROOT
from tests.golden import torch_state as golden
from tests.golden.torch_state import CASES, FIRST, LAST
from tests.torch_state import trained

# Relative to the largest entry, after ten steps; docs/pytorch_state.md states them.
BOUNDS = {"float64": 1e-13, "float32": 2e-6}


@pytest.mark.parametrize("title", CASES)
def test_the_next_ten_steps_and_their_state_are_pytorchs(title):
    case = CASES[title]
    with jax.enable_x64(case.dtype == "float64"):
        params = trained.ours(case, golden.params_of(title, FIRST))
        before, after = (golden.state_dict_of(title, steps) for steps in (FIRST, LAST))
        tensors = trained.tensors_of(case)
        found = torch_state.from_torch(case.code, before, params, tensors, **trained.rates(case))
        assert found.updates == (0 if case.code == "SGD" and not case.decays else FIRST)

        again = torch_state.to_torch(case.code, found.state, params, tensors, before)
        assert trained.deviation_of_states(again, before) == 0
        assert again["param_groups"] == before["param_groups"]

        params, state = trained.train(case, found.tx, found.state, params, FIRST, LAST - FIRST)
        wanted = trained.ours(case, golden.params_of(title, LAST))
        assert trained.deviation(params, wanted) < BOUNDS[case.dtype]
        back = torch_state.to_torch(case.code, state, params, tensors, after)
        assert trained.deviation_of_states(back, after) < BOUNDS[case.dtype]


def test_what_has_had_no_gradient_is_frozen_and_what_came_late_has_its_own_count():
    title = "adamw, two groups, one late, one frozen"
    case = CASES[title]
    with jax.enable_x64():
        params = trained.ours(case, golden.params_of(title, FIRST))
        found = torch_state.from_torch(
            case.code, golden.state_dict_of(title, FIRST), params, trained.TENSORS, **trained.rates(case)
        )
    assert found.frozen == ("scale",)
    counts = {int(part.inner_state[0].count) for k, part in found.state.inner_states.items() if k != "frozen"}
    assert counts == {FIRST, FIRST - 4}


def test_the_bounds_are_not_met_by_another_state():
    """A forgotten moment, transpose or count shows."""
    title = "adamw"
    case = CASES[title]
    with jax.enable_x64():
        params = trained.ours(case, golden.params_of(title, FIRST))
        wanted = trained.ours(case, golden.params_of(title, LAST))
        for change in (
            lambda entry: entry | {"step": np.float32(0)},
            lambda entry: entry | {"exp_avg": 0 * entry["exp_avg"]},
            lambda entry: (
                entry | {"exp_avg_sq": entry["exp_avg_sq"][..., ::-1]} if entry["exp_avg"].ndim else entry
            ),
        ):
            state_dict = golden.state_dict_of(title, FIRST)
            state_dict["state"] = {key: change(entry) for key, entry in state_dict["state"].items()}
            found = torch_state.from_torch("AdamW", state_dict, params, trained.TENSORS)
            got, _ = trained.train(case, found.tx, found.state, params, FIRST, LAST - FIRST)
            assert trained.deviation(got, wanted) > 1e-4


@pytest.mark.long
@pytest.mark.parametrize("title", CASES)
def test_pytorch_goes_on_from_ours(title):
    """Here, where PyTorch is installed: it loads what is written, and trains as it would have."""
    torch = pytest.importorskip("torch")
    case = CASES[title]
    with jax.enable_x64(case.dtype == "float64"):
        before = golden.state_dict_of(title, FIRST)
        params = trained.ours(case, golden.params_of(title, FIRST))
        tensors = trained.tensors_of(case)
        found = torch_state.from_torch(case.code, before, params, tensors, **trained.rates(case))
        run = golden.Run(case)
        written = torch_state.to_torch(case.code, found.state, params, tensors, run.optimizer.state_dict())
    written["state"] = {
        key: {name: torch.from_numpy(x) for name, x in entry.items()} for key, entry in written["state"].items()
    }
    run.optimizer.load_state_dict(written)
    run.made = FIRST
    run.scheduler.last_epoch = FIRST
    for group, saved in zip(run.optimizer.param_groups, before["param_groups"], strict=True):
        group["lr"] = saved["lr"]
    with torch.no_grad():
        for name, x in golden.params_of(title, FIRST).items():
            run.params[name].copy_(torch.from_numpy(x))
    run.train(LAST - FIRST)
    theirs = golden.params_of(title, LAST)
    assert trained.deviation(run.arrays(), theirs) < BOUNDS[case.dtype]


@pytest.mark.long
def test_the_page_runs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    embed, norm, head = torch.nn.Embedding(5, 3), torch.nn.LayerNorm(3), torch.nn.Linear(3, 2)
    model = torch.nn.Sequential(OrderedDict(embed=embed, norm=norm, head=head))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.arange(5)).square().sum().backward()
    optimizer.step()
    monkeypatch.chdir(tmp_path)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "checkpoint.pt")
    grads = {"embed": {"embedding": jnp.array(embed.weight.grad)}}
    grads |= {"norm": {"scale": jnp.array(norm.weight.grad), "bias": jnp.array(norm.bias.grad)}}
    grads |= {"head": {"kernel": jnp.array(head.weight.grad).T, "bias": jnp.array(head.bias.grad)}}
    names = {"optimizer": optimizer, "grads": grads}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/pytorch_state.md").read_text(), re.DOTALL):
        exec(block, names)
    assert names["found"].updates == 1 and names["found"].frozen == ()
    assert {int(entry["step"]) for entry in optimizer.state_dict()["state"].values()} == {2}
    optimizer.load_state_dict(torch.load("checkpoint.pt")["optimizer"])
    optimizer.step()
    ours = names["params"]["head"]["kernel"] + names["updates"]["head"]["kernel"]
    np.testing.assert_allclose(ours, head.weight.detach().numpy().T, rtol=1e-5)
