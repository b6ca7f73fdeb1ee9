"""A generation is that of `transformers`, and that of computing everything anew, however prompts are padded."""

import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from examples.models import decoders, pretrained, weights
from examples.models.generation import generator, greedy, sampled
from tests.examples import golden

PAD = 49


def golden_case(name):
    """A model, its parameters and jitted apply, golden arrays, and the third token of the first answer."""
    family = decoders.family(golden.GOLDEN / name)
    params, apply, arrays = golden.loaded(name, family)
    config, _ = weights.load(golden.GOLDEN / name, family)
    return family, config, params, apply, arrays, int(arrays["answers"][0, 2])


@pytest.fixture(scope="module", params=["gemma3_tiny", "gpt2_tiny"])
def case(request):
    """A compiled generator of six tokens, which that token ends, and what it is of."""
    family, config, params, apply, arrays, end = golden_case(request.param)
    generate = generator(family, config, 6, end=[end], pad=PAD)
    return generate, params, apply, arrays, end


@pytest.fixture(scope="module")
def gpt2():
    return golden_case("gpt2_tiny")


def up_to(end, answers):
    """Answers with padding behind the first end, and their lengths."""
    lengths = [list(row).index(end) + 1 if end in row else len(row) for row in answers]
    return np.where(np.arange(answers.shape[1]) < np.array(lengths)[:, None], answers, PAD), lengths


def test_greedy_answers_equal_pytorch_up_to_their_end(case):
    generate, params, _, arrays, end = case
    found = generate(params, arrays["prompts"], arrays["prompts_mask"])
    expected, lengths = up_to(end, arrays["answers"])
    np.testing.assert_array_equal(found.ids_BN, expected)
    assert found.lengths_B.tolist() == lengths and lengths[0] < 6
    assert found.ids_BN.dtype == found.lengths_B.dtype == jnp.int32


def test_prompts_may_be_padded_on_the_right(case):
    generate, params, _, arrays, _ = case
    ids, mask = arrays["prompts"], arrays["prompts_mask"]
    lengths = mask.sum(1)
    right = np.stack([np.roll(row, n - 6) for row, n in zip(ids, lengths, strict=True)])
    right_mask = np.arange(6) < lengths[:, None]
    assert not right[~right_mask].any() and (~right_mask).any()
    found = generate(params, np.where(right_mask, right, 7), right_mask)
    jax.tree.map(np.testing.assert_array_equal, found, generate(params, ids, mask))


def test_what_is_remembered_is_what_would_be_computed_again(case):
    _, params, apply, arrays, _ = case
    lengths = arrays["prompts_mask"].sum(1)
    ids = np.zeros((3, 12), np.int64)
    for row, prompt, n in zip(ids, arrays["prompts"], lengths, strict=True):
        row[:n] = prompt[6 - n :]
    for step in range(6):
        logits = np.asarray(apply(params, ids))[range(3), lengths + step - 1]
        np.testing.assert_allclose(logits, arrays["steps"][:, step], atol=1e-5)
        ids[range(3), lengths + step] = logits.argmax(-1)
        np.testing.assert_array_equal(logits.argmax(-1), arrays["answers"][:, step])


def test_sampling_draws_with_the_probabilities_of_the_most_likely_tokens():
    shares = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    logits = np.tile(2 * np.log(shares), (20_000, 1))  # twice, for the temperature
    drawn = jax.jit(sampled(temperature=2.0, top_p=0.8))(logits, jax.random.key(0))
    found = np.bincount(drawn, minlength=5) / len(drawn)
    # Tokens 1, 3 and 4 have 0.85 together, and 1 and 3 alone 0.65.
    np.testing.assert_allclose(found, np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85, atol=0.015)


@pytest.mark.long
def test_sampling_from_all_tokens_and_from_one():
    shares = np.array([0.1, 0.4, 0.05, 0.25, 0.2])
    everything = jax.jit(sampled())(np.tile(np.log(shares), (20_000, 1)), jax.random.key(1))
    np.testing.assert_allclose(np.bincount(everything, minlength=5) / 20_000, shares, atol=0.015)
    equal = jnp.array([[1.0, 3.0, 3.0, 0.0]] * 50)
    assert set(np.asarray(jax.jit(sampled(top_p=1e-6))(equal, jax.random.key(0))).tolist()) == {1}
    assert greedy(equal, None).tolist() == [1] * 50


@pytest.mark.long
def test_the_key_decides_what_is_drawn(gpt2):
    family, config, params, _, arrays, _ = gpt2
    generate = generator(family, config, 4, choose=sampled(temperature=5.0))
    ids, mask = arrays["prompts"], arrays["prompts_mask"]
    first, again, other = (generate(params, ids, mask, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.ids_BN, again.ids_BN)
    assert (np.asarray(first.ids_BN) != other.ids_BN).mean() > 0.5
    assert first.lengths_B.tolist() == [4, 4, 4]  # nothing ends them
    with pytest.raises(ValueError, match="key must be given to draw tokens, got None"):
        generate(params, ids, mask)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[1, 50]], None, "ids_BT must be in [0, 50), got 50"),
        ([[1, -1]], None, "ids_BT must be in [0, 50), got -1"),
        ([[1, 2], [3, 4]], [[1, 1], [0, 0]], "each prompt must have a token, but row 1 has none"),
        ([[1, 2]], [[1, 1, 1]], "mask_BT must have shape [1, 2], got [1, 3]"),
        ([[1.0, 2.0]], None, "ids_BT must be integers [B, T], got float64 [1, 2]"),
        ([1, 2], None, "ids_BT must be integers [B, T], got int64 [2]"),
        ([list(range(9))], None, "prompts and what follows must have at most 12 tokens per row, got 13"),
    ],
)
def test_prompts_that_are_refused(gpt2, ids, mask, message):
    family, config, params, *_ = gpt2
    with pytest.raises(ValueError) as error:
        generator(family, config, 4)(params, np.array(ids), None if mask is None else np.array(mask))
    assert str(error.value) == message


def test_a_llama_writes_no_more_than_it_has_positions():
    family = decoders.family(golden.GOLDEN / "llama2_tiny")
    config, params = weights.load(golden.GOLDEN / "llama2_tiny", family)
    prompt = np.ones((1, config.max_positions - 3), int)
    assert generator(family, config, 3)(params, prompt).ids_BN.shape == (1, 3)
    most = config.max_positions
    with pytest.raises(ValueError, match=f"must have at most {most} tokens per row, got {most + 1}"):
        generator(family, config, 4)(params, prompt)


def test_a_dynamic_scaling_is_not_outgrown():
    family = decoders.family(golden.GOLDEN / "llama_dynamic_tiny")
    config, params = weights.load(golden.GOLDEN / "llama_dynamic_tiny", family)
    with pytest.raises(
        ValueError, match=r"at most 12 tokens per row, beyond which a dynamic scaling .*, got 13"
    ):
        generator(family, config, 10)(params, np.array([[1, 2, 3]]))


def test_arguments_that_are_refused(gpt2):
    family, config, *_ = gpt2
    for call, message in (
        (lambda: generator(family, config, 0), "most must be at least 1, got 0"),
        (lambda: generator(family, config, 1, end=[50]), "end must be ids in [0, 50), got 50"),
        (lambda: generator(family, config, 1, pad=-1), "pad must be ids in [0, 50), got -1"),
        (lambda: sampled(temperature=0.0), "temperature must be above 0 and finite, got 0.0"),
        (lambda: sampled(temperature=float("nan")), "temperature must be above 0 and finite, got nan"),
        (lambda: sampled(top_p=0.0), "top_p must be in (0, 1], got 0.0"),
        (lambda: sampled(top_p=1.5), "top_p must be in (0, 1], got 1.5"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == message


@pytest.mark.long
def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[3] / "docs/models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copytree(golden.GOLDEN / "gemma3_tiny", tmp_path, dirs_exist_ok=True)
    words = ["[PAD]", "Once", "upon", "a", "time", "The", "sea", *(f"w{i}" for i in range(43))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(pretrained, "find", lambda model: tmp_path)
    exec(compile(block, "docs/models.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(set(line.split()) <= set(words) for line in lines)
