"""Makes losses and gradients of golden models under PyTorch's autocast to bfloat16, beside those in float32.

    pip install torch==2.14.1 transformers==5.24.0
    python -m tests.golden.autocast

writes `autocast.json`: for each model the loss in both, and how far the gradient of all parameters under
autocast is from that in float32, ‖g₁₆ − g₃₂‖ / ‖g₃₂‖.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GOLDEN = HERE / "autocast.json"


def gpt2_batch():
    """Tokens and the tokens to predict, [4, 8]."""
    ids = np.random.default_rng(0).integers(0, 50, (4, 9))
    return {"ids": ids[:, :-1], "targets": ids[:, 1:]}


def vit_batch():
    """Images of normal numbers, [6, 8, 8, 3], and their classes."""
    draw = np.random.default_rng(0)
    return {"images": draw.normal(size=(6, 8, 8, 3)).astype(np.float32), "targets": draw.integers(0, 3, 6)}


def bert_batch():
    """Tokens without padding, to which PyTorch would give no gradient, [4, 8], and a token for each."""
    draw = np.random.default_rng(0)
    return {"ids": draw.integers(1, 50, (4, 8)), "targets": draw.integers(0, 50, (4, 8))}


def _logits(name):
    """The model, and its logits on the batch."""
    import torch
    import transformers

    if name == "gpt2_tiny":
        model = transformers.GPT2LMHeadModel.from_pretrained(HERE / name)
        batch = gpt2_batch()
        return model, lambda: model(torch.tensor(batch["ids"])).logits, batch["targets"]
    if name == "vit_tiny":
        model = transformers.ViTForImageClassification.from_pretrained(HERE / name)
        batch = vit_batch()
        images = torch.tensor(batch["images"].transpose(0, 3, 1, 2))
        return model, lambda: model(images).logits, batch["targets"]
    model = transformers.BertForMaskedLM.from_pretrained(HERE / name)
    batch = bert_batch()
    return model, lambda: model(torch.tensor(batch["ids"])).logits, batch["targets"]


def measured(name):
    """The losses and the distance of a model."""
    import torch

    model, logits, targets = _logits(name)
    model.eval()
    losses, gradients = [], []
    for narrow in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            found = logits()
        found = found.float().reshape(-1, found.shape[-1])
        loss = torch.nn.functional.cross_entropy(found, torch.tensor(targets).reshape(-1))
        loss.backward()
        losses.append(float(loss.detach()))
        given = [p.grad.double().ravel() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(given))
    exact, rough = gradients
    distance = float((rough - exact).norm() / exact.norm())
    return {"float32": losses[0], "autocast": losses[1], "distance": distance, "norm": float(exact.norm())}


def main():
    """Write the golden numbers."""
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"versions": {name: version.partition("+")[0] for name, version in versions.items()}}
    found |= {name: measured(name) for name in ("gpt2_tiny", "vit_tiny", "bert_tiny_masked")}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
