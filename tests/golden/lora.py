"""Makes the golden logits of the tiny GPT-2 with adapters, and the files of these adapters, with peft.

    pip install torch==2.14.1 transformers==5.24.0 peft==0.21.2
    python tests/golden/lora.py

reads `gpt2_tiny/` beside this script, and writes `gpt2_tiny_lora/`: the files that peft's `save_pretrained`
writes, without its page, and `logits.npz`, of the model with the adapters beside it and merged.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RANK, ALPHA = 2, 3.0
MODULES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def factor(shape, *place):
    """A factor with entries of its own for a place: layer, module, part of the module, which factor."""
    return (0.4 * np.cos(0.7 * np.arange(np.prod(shape)) + np.dot(place, (11, 5, 3, 1)))).reshape(shape)


def main():
    import peft
    import torch
    import transformers

    model = transformers.GPT2LMHeadModel.from_pretrained(HERE / "gpt2_tiny", attn_implementation="eager")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(MODULES),
        rank_pattern={"attn.c_attn": 3 * RANK},
        alpha_pattern={"attn.c_attn": 3 * ALPHA},
        fan_in_fan_out=True,
    )
    adapted = peft.get_peft_model(model, config)
    for layer, block in enumerate(adapted.base_model.model.transformer.h):
        for index, name in enumerate(MODULES):
            module = block.get_submodule(name)
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            parts = len(a) // RANK
            outputs = len(b) // parts
            with torch.no_grad():
                b.zero_()
                for part in range(parts):
                    rows = slice(part * RANK, (part + 1) * RANK)
                    here = factor((a.shape[1], RANK), layer, index, part, 0)
                    there = factor((RANK, outputs), layer, index, part, 1)
                    a[rows] = torch.tensor(here.T, dtype=torch.float32)
                    b[part * outputs : (part + 1) * outputs, rows] = torch.tensor(there.T, dtype=torch.float32)
    folder = HERE / "gpt2_tiny_lora"
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    about = json.loads(path.read_text()) | {"base_model_name_or_path": "gpt2_tiny"}
    about["target_modules"] = sorted(about["target_modules"])  # a set, whose order differs from run to run
    path.write_text(json.dumps(about, indent=2) + "\n")
    arrays = np.load(HERE / "gpt2_tiny/logits.npz")
    arguments = {name: torch.tensor(arrays[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        beside = adapted.eval()(**arguments).logits.numpy()
        merged = adapted.merge_and_unload()(**arguments).logits.numpy()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    np.savez_compressed(folder / "logits.npz", beside=beside, merged=merged, versions=json.dumps(versions))


if __name__ == "__main__":
    main()
