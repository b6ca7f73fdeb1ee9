"""Makes the golden logits of random small models with PyTorch and transformers.

    pip install torch==2.13.0 transformers==5.23.0
    python tests/golden/models.py [NAME ...]

writes, beside this script, one folder a model with its checkpoint and `logits.npz`: the arguments and what the
model made of them, in evaluation mode, in float32 and with the attention written out. A ResNet is one file, of
tensors, arguments and logits. Of a causal decoder, the file also has a greedy generation behind prompts of
several lengths, with the logits of every step.

    python tests/golden/models.py rotary

writes `rotary.npz`, the frequencies of published rotary positions and the factor of their queries and keys.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def randomise(model, std=0.3):
    """Draw every parameter anew: biases and norms too; wide, so that attention is far from uniform."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1 and key.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(std=std)
    return model.eval()


def store(name, model, arguments, others=None):
    """Write a checkpoint, arguments by the name that the model gives them, its logits, and other arrays."""
    import torch

    model.save_pretrained(HERE / name)
    (HERE / name / "generation_config.json").unlink(missing_ok=True)
    tensors = {key: torch.tensor(array) for key, array in arguments.items()}
    with torch.no_grad():
        logits = model(**tensors).logits.numpy()
    np.savez_compressed(HERE / name / "logits.npz", logits=logits, **arguments, **others or {})


def tokens(lengths, width, vocabulary, seed=0):
    """Random ids, padded on the right with 0, and their mask."""
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(1, vocabulary, mask.shape)
    return np.where(mask, ids, 0), mask


def masked_bert(name):
    """Write a BERT with the head of masked language modelling, and its logits for a padded batch."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=12,
        attn_implementation="eager",
    )
    ids, mask = tokens([9, 12, 3, 5], 12, 50)
    types = np.where(mask, np.arange(12) % 2, 0)
    arguments = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    store(name, randomise(BertForMaskedLM(config)), arguments)


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
    model = randomise(GPT2LMHeadModel(config))
    store(name, model, {"input_ids": ids, "attention_mask": mask}, generated(model, 50))


def generated(model, vocabulary):
    """Prompts, padded on the left with 0, what follows them by greedy choice, and the logits of each choice."""
    import torch

    ids, mask = (array[:, ::-1].copy() for array in tokens([6, 2, 4], 6, vocabulary, seed=2))
    arguments = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    options = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        found = model.generate(
            **arguments, **options, output_logits=True, return_dict_in_generate=True, use_cache=True
        )
    steps = torch.stack(found.logits, dim=1).numpy()
    return {"prompts": ids, "prompts_mask": mask, "answers": found.sequences[:, 6:].numpy(), "steps": steps}


def llama(name, kind, **settings):
    """Write a decoder of the Llama kind, its logits for a padded batch, and a generation."""
    import torch
    import transformers

    sizes = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 32,
        "attn_implementation": "eager",
    }
    config = getattr(transformers, f"{kind}Config")(**sizes | settings)
    model = randomise(getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config), std=0.2)
    if kind.startswith("Gemma"):  # whose norms add one
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if key.endswith("norm.weight"):
                    parameter.sub_(1)
    ids, mask = tokens([9, 14, 1, 5], 14, 50)
    arguments = {"input_ids": ids, "attention_mask": mask}
    store(name, model, arguments, generated(model, 50))


def rotary():
    """Write the frequencies of published models, and of scalings that other models take."""
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    found = {}
    for name, (theta, size, positions, scaling) in ROTARIES.items():
        config = transformers.LlamaConfig(
            hidden_size=4 * size,
            num_attention_heads=4,
            max_position_embeddings=positions,
            rope_parameters={"rope_theta": theta, **scaling},
        )
        frequencies, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, seq_len=None)
        found[f"{name}_frequencies"], found[f"{name}_factor"] = frequencies.numpy(), np.float64(factor)
        if scaling["rope_type"] == "dynamic":
            longer, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=3 * positions)
            found[f"{name}_longer"] = longer.numpy()
    np.savez_compressed(HERE / "rotary.npz", **found)


# θ, the size of a head, the positions of the model, and its scaling.
ROTARIES = {
    "llama3.1": (
        500000.0,
        128,
        131072,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "qwen2.5_yarn": (
        1000000.0,
        128,
        32768,
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    ),
    "yarn_mscale": (
        10000.0,
        64,
        4096,
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.0,
            "mscale_all_dim": 0.8,
            "truncate": False,
        },
    ),
    "linear": (10000.0, 128, 16384, {"rope_type": "linear", "factor": 8.0}),
    "dynamic": (10000.0, 128, 4096, {"rope_type": "dynamic", "factor": 2.0}),
}


def vit(name):
    """Write a ViT with three classes."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        num_labels=3,
        attn_implementation="eager",
    )
    images = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    store(name, randomise(ViTForImageClassification(config)), {"pixel_values": images})


def t5(name, *, tied):
    """Write a T5, its logits for a padded batch, and the buckets of distances."""
    import torch
    from safetensors.torch import save_file
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(
        vocab_size=50,
        d_model=16,
        d_kv=6,
        d_ff=24,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=20,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
        attn_implementation="eager",
    )
    model = T5ForConditionalGeneration(config)
    if not tied:  # what v1.1 has, and this version of transformers no longer makes
        model.lm_head.weight = torch.nn.Parameter(torch.empty(50, 16))
    model = randomise(model)
    with torch.no_grad():  # attention has no scale: keep its weights from being all 0 and 1
        for key, parameter in model.named_parameters():
            if "SelfAttention.q" in key or "EncDecAttention.q" in key:
                parameter.mul_(0.4)
    ids, mask = tokens([9, 30, 1, 12], 30, 50)
    answer, _ = tokens([7, 11, 11, 2], 11, 50, seed=1)
    store(name, model, {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": answer})
    if not tied:
        tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        tensors = {key: tensor for key, tensor in tensors.items() if "embed_tokens" not in key}
        save_file(tensors, HERE / name / "model.safetensors", metadata={"format": "pt"})
        path = HERE / name / "config.json"
        described = json.loads(path.read_text()) | {"tie_word_embeddings": False}
        path.write_text(json.dumps(described, indent=2) + "\n")
    relative = torch.arange(-300, 301)
    buckets = {
        f"{kind}_{number}_{distance}": T5Attention._relative_position_bucket(
            relative, bidirectional=kind == "both", num_buckets=number, max_distance=distance
        ).numpy()
        for kind in ("both", "causal")
        for number, distance in ((32, 128), (8, 20))
    }
    np.savez_compressed(HERE / name / "buckets.npz", **buckets)


def resnet(name, *, cifar, layer_type):
    """Store a ResNet's tensors and its logits, with given statistics and with those of the batch."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[2, 1],
        layer_type=layer_type,
        num_labels=3,
    )
    model = randomise(ResNetForImageClassification(config))
    if cifar:
        stem = model.resnet.embedder
        stem.embedder.convolution = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        stem.pooler = torch.nn.Identity()
        torch.nn.init.normal_(stem.embedder.convolution.weight, std=0.3)
    generator = torch.Generator().manual_seed(1)
    for key, buffer in model.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.5, generator=generator)
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    tensors = {key: tensor.numpy().copy() for key, tensor in model.state_dict().items() if tensor.ndim}
    with torch.no_grad():
        given = model(torch.tensor(images)).logits.numpy()
        of_batch = model.train()(torch.tensor(images)).logits.numpy()
    np.savez_compressed(HERE / f"{name}.npz", images=images, given=given, of_batch=of_batch, **tensors)


# Each switch of the decoders of the Llama kind is on in one of these.
LLAMAS = {
    "llama2_tiny": ("Llama", {"num_key_value_heads": None, "rms_norm_eps": 1e-5}),
    "llama3_tiny": (
        "Llama",
        {
            "head_dim": 6,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {
                "rope_theta": 500.0,
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
    "llama_dynamic_tiny": (
        "Llama",
        {
            "max_position_embeddings": 12,
            "rope_parameters": {"rope_theta": 100.0, "rope_type": "dynamic", "factor": 3.0},
        },
    ),
    "mistral_tiny": ("Mistral", {"sliding_window": 4}),
    "qwen2_tiny": (
        "Qwen2",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_theta": 1000.0,
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 8,
            },
        },
    ),
    "qwen3_tiny": (
        "Qwen3",
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "gemma_tiny": ("Gemma", {"head_dim": 8, "num_key_value_heads": 1}),
    "gemma2_tiny": ("Gemma2", {"head_dim": 8, "query_pre_attn_scalar": 4, "sliding_window": 4}),
    "gemma3_tiny": (
        "Gemma3Text",
        {
            "head_dim": 8,
            "query_pre_attn_scalar": 6,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
}

MODELS = {
    "bert_tiny_masked": masked_bert,
    "vit_tiny": vit,
    "t5_tiny": lambda name: t5(name, tied=True),
    "t5_tiny_untied": lambda name: t5(name, tied=False),
    "resnet_tiny": lambda name: resnet(name, cifar=False, layer_type="bottleneck"),
    "resnet_tiny_cifar": lambda name: resnet(name, cifar=True, layer_type="basic"),
    "rotary": lambda name: rotary(),
    "gpt2_tiny": lambda name: gpt2(name, tied=True),
    "gpt2_tiny_untied": lambda name: gpt2(name, tied=False),
    **{
        name: lambda name, kind=kind, its=settings: llama(name, kind, **its)
        for name, (kind, settings) in LLAMAS.items()
    },
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
