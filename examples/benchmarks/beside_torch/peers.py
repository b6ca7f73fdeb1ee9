"""The models that are measured next to PyTorch's: the same weights, batches and loss on both sides.

Ours are the tasks that the trainers make. PyTorch's are modules of `transformers` whose loss is that of the
task, with the optimizer `torch.optim.AdamW` in its fused form, not compiled, as its `Trainer` runs them.
"""

import dataclasses
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.data import docstrings
from examples.data.images import ImageExamples
from examples.models import families, pretrained, weights
from examples.tasks import image_classification, objectives
from examples.tasks.pretraining import LanguageModel, depth_of
from examples.tasks.text_classification import TextClassification
from optimiz import training

RATE, DECAY, DROPOUT = 1e-4, 0.01, 0.1

Arrays = Mapping[str, np.ndarray]


def versions(*packages: str) -> dict[str, str]:
    """The versions of packages that are needed beside those of the project.

    Raises:
        ModuleNotFoundError: one of them is missing; the message says how to install it.
    """
    missing = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    if missing:
        raise ModuleNotFoundError(
            f"a comparison with PyTorch needs {', '.join(missing)}: pip install {' '.join(packages)}",
            name=missing[0],
        )
    return {name: importlib.metadata.version(name) for name in packages}


@dataclasses.dataclass(frozen=True, eq=False)
class Peers:
    """One model on both sides.

    Attributes:
        task: the task as a trainer makes it, from the weights of `module`.
        module: PyTorch's model.
        loss: batch of the task → PyTorch's loss of the same examples, a tensor.
    """

    task: training.Task
    module: Any
    loss: Callable[[Arrays], Any]

    def losses(self) -> tuple[float, float]:
        """The losses of the first batch without dropout: ours, and PyTorch's."""
        import torch

        batch = self.task.batches(0)
        params = self.task.init(jax.random.key(0))
        ours = jax.jit(lambda params, batch: jnp.mean(self.task.loss(params, batch, None)))(params, batch)
        self.module.eval()
        with torch.no_grad():
            theirs = self.loss(batch)
        self.module.train()
        return float(ours), float(theirs)

    def stepper(self) -> Callable[[Arrays], None]:
        """A function that takes a step of PyTorch's: forward, backward, update."""
        import torch

        self.module.train()
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=RATE, weight_decay=DECAY, fused=True)

        def step(batch: Arrays) -> None:
            self.loss(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step


def minilm(length: int) -> Peers:
    """Sentences of Python's documentation by topic, with the mean of the encoder's vectors."""
    import torch
    import transformers

    directory, parts = pretrained.find(), docstrings.load_split()
    made = TextClassification(parts, directory, length=length, dropout=DROPOUT, pooling="mean")
    task = made.task(32, seed=0)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            dropout = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
            load = transformers.BertModel.from_pretrained
            self.encoder = load(directory, add_pooling_layer=False, dtype=torch.float32, **dropout)
            self.dropout = torch.nn.Dropout(DROPOUT)
            self.head = torch.nn.Linear(self.encoder.config.hidden_size, len(parts["train"].label_names))

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            hidden = self.encoder(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
            weights = mask[..., None].to(hidden.dtype)
            return self.head(self.dropout((hidden * weights).sum(1) / weights.sum(1)))

    torch.manual_seed(0)
    module = Classifier()
    head = {"kernel": module.head.weight.detach().numpy().T.copy(), "bias": module.head.bias.detach().numpy()}
    init = task.init

    def loss(batch: Arrays) -> Any:
        ids, mask, types, label = (
            torch.from_numpy(np.asarray(batch[name], np.int64))
            for name in ("ids_BT", "mask_BT", "types_BT", "label")
        )
        return torch.nn.functional.cross_entropy(module(ids, mask, types), label)

    params = {"head": jax.tree.map(np.array, head)}
    return Peers(dataclasses.replace(task, init=lambda key: init(key) | params, evaluate=None), module, loss)


def gpt2(folder: Path, *, tokens: int = 256, batch: int = 4, **sizes: int) -> Peers:
    """GPT-2 small, or another with `sizes`, from random weights: each token from those before it."""
    import torch
    import transformers

    torch.manual_seed(0)
    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    module.save_pretrained(folder)
    config, params = weights.load(folder, families.GPT2)
    objective = objectives.next_token(config)
    language = LanguageModel(objective)
    draw = np.random.default_rng(0)
    rows = draw.integers(0, config.vocab_size, (64, batch, tokens + 1), np.int32)
    task = training.Task(
        init=lambda key: params,
        loss=language.losses,
        batches=lambda step: dict(objective.batch(rows[step % len(rows)], 0, step)),
        logits=language.logits,
        depth=depth_of,
    )

    def loss(batch: Arrays) -> Any:
        ids, targets = (torch.from_numpy(np.asarray(batch[name], np.int64)) for name in ("ids_BT", "targets"))
        logits = module(input_ids=ids, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    return Peers(task, module, loss)


def vit(folder: Path, *, batch: int = 16, classes: int = 1000, **sizes: int) -> Peers:
    """ViT-S/16, or another with `sizes`, from random weights: no augmentation, smoothed labels."""
    import torch
    import transformers

    torch.manual_seed(0)
    small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    dropout = {"hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
    settings = transformers.ViTConfig(num_labels=classes, **small | dropout | sizes)
    module = transformers.ViTForImageClassification(settings)
    module.save_pretrained(folder)
    config, params = weights.load(folder, families.VIT)
    draw = np.random.default_rng(0)
    side = config.image_size
    images = draw.integers(0, 256, (4 * batch, side, side, 3), np.uint8)
    labels = draw.integers(0, classes, 4 * batch).astype(np.int32)
    examples = ImageExamples(images, labels, tuple(map(str, range(classes))), "random pixels")
    parts = {"train": examples, "validation": examples}
    model = image_classification.Model(config, params, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    smoothing = 0.1
    task = image_classification.ImageClassification(parts, model, augment=(), smoothing=smoothing).task(
        batch, 0
    )

    def loss(batch: Arrays) -> Any:
        pixels = torch.from_numpy(np.asarray(batch["image"])).permute(0, 3, 1, 2).float() / 127.5 - 1
        label = torch.from_numpy(np.asarray(batch["label"], np.int64))
        logits = module(pixel_values=pixels).logits
        return torch.nn.functional.cross_entropy(logits, label, label_smoothing=smoothing)

    return Peers(dataclasses.replace(task, init=lambda key: params, evaluate=None), module, loss)
