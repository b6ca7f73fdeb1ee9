"""Makes the golden logits of classifiers that were saved here, as PyTorch and transformers compute them.

    pip install torch==2.14.1 transformers==5.24.0
    python -m tests.golden.classifiers

opens each directory with the class of transformers that its `config.json` names, with its own tokenizer or its
own preprocessor, and writes the logits to `classifiers.json`: those of the tokens are pooled as the
configuration says.
"""

import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from examples.models import families, pretrained, weights
from examples.models.image_classifier import ImageClassifier
from examples.models.text_classifier import TextClassifier

HERE = Path(__file__).parent
GOLDEN = HERE / "classifiers.json"
SPECIAL = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "roberta": ["<s>", "<pad>", "</s>", "<unk>"]}
WORDS = ["happy", "glad", "sad", "dull", "a", "the", "film", "was", "very"]
TEXTS = ["a happy film", "the film was very very dull", "unheard of", "", "a a a a a a a a a a a a a a a a"]
PAIRS = ["the film was glad", "a", "was it", "sad", "very sad"]
TEXT_MODELS = {
    "bert_mean": ("bert_tiny", "mean", False),
    "bert_pairs": ("bert_tiny", "mean", True),
    "roberta_first": ("bert_tiny_roberta", "first", False),
}


def tokenizer(model_type):
    """A tokenizer of a few words, with the special tokens of a family around a text, or a pair of texts."""
    special = SPECIAL[model_type]
    start, end, unknown = special[2:] + special[1:2] if model_type == "bert" else special[::2] + special[3:]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + WORDS)}, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(special)
    places = [(token, special.index(token)) for token in (start, end)]
    second = "1" if model_type == "bert" else "0"
    pair = f"{start} $A {end} $B:{second} {end}:{second}"
    made.post_processor = processors.TemplateProcessing(f"{start} $A {end}", pair, places)
    return made


def text_model(name):
    """A classifier of texts and its parameters: a golden encoder, and a head drawn at random."""
    directory, pooling, pairs = TEXT_MODELS[name]
    config, encoder = pretrained.load_encoder(HERE / directory)
    model_type = pretrained.read_model_type(HERE / directory)
    made = tokenizer(model_type)
    pad = SPECIAL[model_type][config.pad_token_id]
    made.enable_padding(pad_id=config.pad_token_id, pad_token=pad)
    draw = np.random.default_rng(0)
    head = {"kernel": draw.normal(size=(config.hidden_size, 3)), "bias": draw.normal(size=3)}
    params = encoder | {"head": jax.tree.map(np.float32, head)}
    return TextClassifier(model_type, config, pooling, made, ["no", "it depends", "yes"], 12, pairs), params


def image_model():
    """A classifier of images and its parameters: the golden ViT."""
    config, params = weights.load(HERE / "vit_tiny", families.VIT)
    return ImageClassifier(config, 8, [0.3, 0.4, 0.5], [0.2, 0.25, 0.3], ["cat", "dog", "eel"]), params


def pictures():
    """Four pictures, uint8 [4, 8, 8, 3]."""
    return np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)


def text_logits(directory):
    """The logits of TEXTS, or of TEXTS and PAIRS, as transformers computes them, [N, C]."""
    import torch
    import transformers

    config = json.loads((directory / "config.json").read_text())
    model = getattr(transformers, config["architectures"][0]).from_pretrained(directory).eval()
    read = transformers.AutoTokenizer.from_pretrained(directory)
    second = [PAIRS] if config["text_pairs"] else []
    tokens = read(TEXTS, *second, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens).logits
    weight = tokens["attention_mask"][..., None]
    mean = (logits * weight).sum(1) / weight.sum(1)
    return (mean if config["classifier_pooling"] == "mean" else logits[:, 0]).numpy()


def image_logits(directory):
    """The logits of the pictures, as transformers computes them, [N, L]."""
    import torch
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    model = transformers.AutoModelForImageClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        return model(**processor(list(pictures()), return_tensors="pt")).logits.numpy()


def main():
    """Write the golden logits."""
    import torch
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    found = {"versions": {name: version.partition("+")[0] for name, version in versions.items()}}
    with tempfile.TemporaryDirectory() as folder:
        for name in TEXT_MODELS:
            classifier, params = text_model(name)
            classifier.save(Path(folder) / name, params)
            found[name] = np.round(text_logits(Path(folder) / name).astype(float), 7).tolist()
        classifier, params = image_model()
        classifier.save(Path(folder) / "vit", params)
        found["vit"] = np.round(image_logits(Path(folder) / "vit").astype(float), 7).tolist()
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
