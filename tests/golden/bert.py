"""Makes the golden hidden states of BERT encoders with PyTorch and transformers.

    pip install torch==2.13.0 transformers==5.23.0
    python tests/golden/bert.py DIRECTORY_OF_ALL_MINILM_L6_V2

writes, beside this script, `bert_minilm.npz` (some token positions of real sentences),
`bert_tiny/` and `bert_tiny_roberta/` (random checkpoints, with all their hidden states) and
`bert.json` (the sentences and the versions). The models are called in evaluation mode, in float32
and with the attention written out.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
LENGTH = 32
SENTENCES = [
    "No.",
    "The ferry leaves at a quarter past six, unless the fog comes in.",
    "She asked whether the bridge had been repaired; nobody knew.",
    "Électricité, naïveté and 42 other things cost €3.50 at the corner shop.",
    "A learning rate that is too large makes the loss oscillate; one that is too small makes "
    "everybody wait for the results.",
    "Unbelievably, the unfriendliest neighbours baked us a marvellous cake!",
]


def hidden_states(model, ids, mask, types):
    """Return the hidden states `[layers + 1, B, T, D]`."""
    import torch

    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids, dtype=torch.long),
            attention_mask=torch.tensor(mask, dtype=torch.long),
            token_type_ids=torch.tensor(types, dtype=torch.long),
            output_hidden_states=True,
        )
    return np.stack([state.numpy() for state in output.hidden_states])


def minilm(directory):
    """Store two positions of each sentence: the first, and the one in the middle of its tokens."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    batch = tokenizer(SENTENCES, padding="max_length", max_length=LENGTH, truncation=True)
    ids, mask = np.array(batch["input_ids"]), np.array(batch["attention_mask"])
    positions = np.stack([np.zeros(len(ids), int), mask.sum(axis=1) // 2], axis=1)
    states = hidden_states(model, ids, mask, np.zeros_like(ids))
    np.savez_compressed(
        HERE / "bert_minilm.npz",
        ids=ids.astype(np.int32),
        mask=mask.astype(np.int32),
        positions=positions.astype(np.int32),
        states=np.take_along_axis(states, positions[None, :, :, None], axis=2),
    )
    return states


def tiny(name, model, types):
    """Store a random checkpoint and all its hidden states for a padded batch."""
    import torch

    encoder, config = model.base_model.eval(), model.config
    torch.manual_seed(0)
    with torch.no_grad():  # Biases and norms too; wide, so that attention is far from uniform.
        for key, parameter in model.named_parameters():
            if "LayerNorm.weight" in key:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.3)
    model.save_pretrained(HERE / name)
    lengths = np.array([[9], [12], [1], [5]])
    mask = (np.arange(12) < lengths).astype(np.int32)
    random = np.random.default_rng(0)
    ids = np.where(mask, random.integers(5, config.vocab_size, mask.shape), config.pad_token_id)
    types = np.where(mask, random.integers(0, types, mask.shape), 0)
    states = hidden_states(encoder, ids, mask, types)
    np.savez_compressed(
        HERE / name / "states.npz",
        ids=ids.astype(np.int32),
        mask=mask,
        types=types.astype(np.int32),
        states=states,
    )


def main(directory):
    """Write every file."""
    import torch
    import transformers
    from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "attn_implementation": "eager",
    }
    minilm(directory)
    # One with the head and so with prefixed names, one without.
    bert = BertConfig(**sizes, max_position_embeddings=12)
    tiny("bert_tiny", BertForMaskedLM(bert), types=2)
    roberta = RobertaConfig(
        **sizes,
        max_position_embeddings=14,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_act="gelu_new",
        pad_token_id=1,
    )
    tiny("bert_tiny_roberta", RobertaModel(roberta), types=1)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    record = {"versions": versions, "length": LENGTH, "sentences": SENTENCES}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (HERE / "bert.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
