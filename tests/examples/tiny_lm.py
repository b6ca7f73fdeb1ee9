"""A tiny language model with a chat template, and conversations for it."""

import json

import jax
from flax import nnx

from examples.data import tokenization
from examples.models import decoders, weights
from examples.models.gpt2 import GPT2Config
from examples.models.llama import LlamaConfig
from tests.examples import golden

WORDS = ["red", "blue", "green"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)


def chats(count):
    """Conversations of different lengths, whose answer repeats a word of the question."""
    for i in range(count):
        word = WORDS[i % 3]
        yield {
            "messages": [
                {"role": "user", "content": f"Say {word}, {'please, ' * (i % 4)}{i}!"},
                {"role": "assistant", "content": " ".join([word] * (1 + i % 4))},
            ]
        }


def written(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def save(directory, kind="gpt2"):
    """Write a tiny GPT-2 or Llama with parameters that bend, its tokenizer and a chat template."""
    texts = [f"<user> {row['messages'][0]['content']}</s>\n<assistant> red blue green" for row in chats(12)]
    tokenizer = tokenization.train(texts, "bpe", 300, "causal")
    family, size = decoders.FAMILIES[kind], tokenizer.get_vocab_size()
    config = {
        "gpt2": lambda: GPT2Config(size, 16, 1, 2, max_positions=96),
        "llama": lambda: LlamaConfig(size, 16, 1, 4, 2, 4, 24, 96, norm_eps=1e-6),
    }[kind]()
    params, _ = golden.drawn(lambda: family.model(config, rngs=nnx.Rngs(0)))
    weights.save(directory, family, config, jax.tree.map(lambda p: 0.3 * p, params), {"end": 0})
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return directory
