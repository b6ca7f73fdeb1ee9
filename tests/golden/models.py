"""Makes the golden logits of random small models with PyTorch and transformers.

    pip install torch==2.13.0 transformers==5.23.0
    python tests/golden/models.py [NAME ...]

writes, beside this script, one folder a model with its checkpoint and `logits.npz`: the arguments and what the
model made of them, in evaluation mode, in float32 and with the attention written out.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def randomise(model):
    """Draw every parameter anew: biases and norms too; wide, so that attention is far from uniform."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and key.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=0.3)
    return model.eval()


def store(name, model, arguments):
    """Write a checkpoint, arguments by the name that the model gives them, and its logits."""
    import torch

    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    tensors = {key: torch.tensor(array) for key, array in arguments.items()}
    with torch.no_grad():
        logits = model(**tensors).logits.numpy()
    np.savez_compressed(HERE / name / "logits.npz", logits=logits, **arguments)


def tokens(lengths, width, vocabulary, seed=0):
    """Random ids, padded on the right with 0, and their mask."""
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(1, vocabulary, mask.shape)
    return np.where(mask, ids, 0), mask


def gpt2(name, *, tied):
    """Write a GPT-2, and its logits for a padded batch."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=50,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=12,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    ids, mask = tokens([9, 12, 1, 5], 12, 50)
    store(name, randomise(GPT2LMHeadModel(config)), {"input_ids": ids, "attention_mask": mask})


MODELS = {
    "gpt2_tiny": lambda name: gpt2(name, tied=True),
    "gpt2_tiny_untied": lambda name: gpt2(name, tied=False),
}


def main(names):
    """Write the models of these names, or all."""
    import torch
    import transformers

    for name in names or MODELS:
        MODELS[name](name)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    text = json.dumps({"versions": versions}, indent=2)
    (HERE / "models.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
