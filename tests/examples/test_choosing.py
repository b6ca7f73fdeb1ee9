"""The tables of the page on choosing an optimizer, from the committed records."""

import re

import pytest

from examples import choosing, records
from optimiz import methods
from tests.conftest import ROOT


def cells(table):
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def memory():
    return records._measured("memory")


def test_bytes_per_parameter_are_those_of_parameters_gradients_and_state(memory):
    found = choosing.forms(memory)
    assert found["adamw"] == pytest.approx(4 + 4 + 8, abs=0.01)
    assert found["adamw, state in Int8"] == pytest.approx(4 + 4 + 2.03, abs=0.02)
    assert found["adamw, bfloat16 rounded stochastically, state in Int8"] == pytest.approx(6.03, abs=0.02)
    assert found["lion"] == pytest.approx(12, abs=0.01)


def test_the_page_answers_for_1_3_billion_parameters_what_the_table_says(memory):
    found = choosing.forms(memory)
    text = (ROOT / "docs/which_optimizer.md").read_text("utf-8")
    for form in ("adamw", "adamw, state in Int8", "adamw, bfloat16 rounded stochastically, state in Int8"):
        assert f"{1.3 * found[form]:.1f} GB" in text.partition("<!-- /record -->")[2].partition("```")[0]
    table = records.sections()["by_memory"]()
    assert "| `adamw` | 16.00 | 0.00 | 20.8 GB | 1.1 | 3.7 |" in table


def test_a_model_fits_with_what_its_update_holds_besides(memory):
    plan = records._benchmark("plan/gpt2_xl_h200")
    peaks = {row["optimizer"]: row["peak"] / row["parameters"] for row in plan["rows"]}
    sizes, besides = choosing.forms(memory), choosing.temporaries(plan)
    for name in ("soap", "muon", "adamw"):
        assert sizes[name] + besides[name] == pytest.approx(peaks[name], rel=0.03), name
    assert "adamw, state in Int8" in besides and "lion, state in Int8" not in besides
    soap = next(line for line in choosing.by_memory(memory, plan).splitlines() if "`soap`" in line)
    assert "| 97.3 GB | 0.2 | 0.8 |" in soap


def test_the_page_answers_for_seven_billion_parameters_on_eight_chips_what_the_record_says(memory):
    llama = memory["models"]["Llama-2-7B"]
    text = (ROOT / "docs/which_optimizer.md").read_text("utf-8")
    text = text.partition("**Eight TPU v5e")[2].partition("```")[0]
    for method, kept, size in (("adamw", "float32", 4), ("adamw", "Int8", 2), ("adafactor", "float32", 4)):
        total = 2 * size * llama["parameters"] + llama["bytes"][method][kept]
        assert f"{total / 8e9:.1f} GB" in text
    assert f"{2 * llama['parameters'] / 8e9:.1f} GB" in text  # frozen, in bfloat16
    (lora,) = (row for row in records._benchmark("lora")["rows"] if row["target"] == "v5e:2x4")
    assert f"a step of {lora['batch']} × {lora['length']:,} tokens takes [{lora['peak'] / 1e9:.1f} GB" in text


def test_an_outcome_says_better_only_beyond_its_interval():
    found = list(records.outcomes())
    assert {one.verdict for one in found} == {"not told apart", "better", "worse"}
    for one in found:
        low, high = one.difference.low, one.difference.high
        assert (one.verdict == "not told apart") == (low <= 0 <= high)
    lion = next(one for one in found if "lion" in one.method and "BERT" in one.study)
    assert lion.difference.mean == pytest.approx(0.355, abs=5e-4) and lion.verdict == "not told apart"
    sophia = next(one for one in found if "sophia_g" in one.method)
    assert sophia.verdict == "worse" and "9e-05" in sophia.method


def test_what_rates_lose_is_measured_from_the_best_rate_of_the_method():
    found = records.grids()
    assert found["validation loss, small BERT"]["adamw"] == pytest.approx(
        {0.000333: 0.191, 1e-3: 0, 3e-3: 0.065}, abs=1e-3
    )
    assert min(found["validation accuracy, MiniLM-L6"]["sgd_sai"].values()) == 0
    assert "× 3: diverges" in choosing._lost({0.1: 0.0, 0.3: float("inf"), 3.0: 1.0})


def test_a_step_is_compared_with_one_of_adamw():
    def row(name, least, greatest):
        return {"optimizer": name, "traffic": {"least": least, "greatest": greatest}}

    rows = [row("adamw", 8, 8), row("salsa", 10, 6), row("sophia_g", 8, 8), {"optimizer": "x", "traffic": None}]
    found = choosing.moved_by_steps({"rows": rows})
    assert found == {"adamw": "1.00", "salsa": "0.75 to 1.25", "sophia_g": "1.00"}


def test_every_method_is_in_the_table_and_says_when_not_to_use_it():
    table = records.sections()["all_methods"]()
    rows = {re.match(r"\[`(\w+)`\]", row[0])[1]: row for row in cells(table.partition("\n\n")[0])}
    assert list(rows) == list(methods.METHODS)
    assert all(row[1] and not row[1].endswith(".") for row in rows.values())
    assert rows["adamw"][2:5] == ["8.00", "2.04", "28"]
    assert rows["salsa"][4] == f"{records.moved_by_steps()['salsa']} × in a step"
    assert not [name for name, row in rows.items() if row[4] == choosing.UNMEASURED]
    assert rows["adamaxw"][5] == "7e-13" and rows["muonh"][5] == "5e-14" != rows["adamh"][5]
    assert rows["pla_sls"][5] == "5e-14" and rows["salsa_packaged"][5] == "4e-10"
    assert rows["salsa"][5] == "our own form"


def test_a_default_rate_stands_beside_what_it_and_its_neighbours_lose():
    lines = records.sections()["all_rates"]().partition("\n\n")[0].splitlines()[2:]
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    rows = {re.match(r"\[`(\w+)`\]", name)[1]: row for name, *row in split}
    assert rows.keys() == {name for name, one in methods.METHODS.items() if one.kind != "line search"}
    assert rows["adamw"] == ["0.0001", "0.000", "0.209", "0.059", "0.003", "0.037", "0.075", "0.000"]
    assert rows["prodigy"][:3] == ["1", "0.058", "0.000"] and rows["prodigy"][4:7] == ["1", "0.053", "0.000"]
    assert rows["signum"][:4] == ["5e-05", "", "0.333", "0.000"]  # between two rates that were tried
    assert choosing._around(0.1, {0.1: 0.0, 0.316: float("inf")}) == ["0.000", "", "diverges"]


def test_the_same_pair_has_the_same_interval_in_both_tables():
    made = {claim.says: claim.measured for claim in records.made_claims()}
    table = records.sections()["by_task"]()
    for says in (
        "SGD-SaI is on par with AdamW: fine-tuning",
        "SGD-SaI is on par with AdamW: pre-training",
        "a line search without a rate is at least as good as Adam at the best rate of a grid",
        "Lion is at least as good as AdamW: pre-training",
    ):
        intervals = re.findall(r"\([-+.\d]+ to [-+.\d]+\)", made[says])
        assert intervals and all(interval in table for interval in intervals), says
