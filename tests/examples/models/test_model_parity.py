"""Every model agrees with PyTorch, and docs/models.md says how closely."""

import json

import pytest

from tests.examples import golden
from tests.golden import model_parity_record
from tests.golden.model_parity_record import BOUND, MODELS

RECORD = json.loads(model_parity_record.RECORD.read_text(encoding="utf-8"))


# The decoder with the most of its switches on comes first, then the encoders.
NAMES = sorted(MODELS, key=lambda name: name != "gemma3_tiny")


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_equals_pytorch(name):
    found = model_parity_record.difference(name)
    assert found["difference"] <= BOUND and RECORD["models"][name]["difference"] <= BOUND
    assert found["largest"] == pytest.approx(RECORD["models"][name]["largest"], rel=1e-6)
    assert found["largest"] > 1  # else the bound would say little


def test_the_record_is_of_all_models():
    assert {name: row["title"] for name, row in RECORD["models"].items()} == {
        name: title for name, (title, _) in MODELS.items()
    }
    assert RECORD["golden"] == json.loads((golden.GOLDEN / "models.json").read_text())["versions"]
