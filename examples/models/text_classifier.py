"""A trained classifier of texts: saved in the Hugging Face layout, read back, and asked for predictions.

The encoder's vectors are pooled before a linear head, which `transformers` has no class for. As the head is
linear, its logits are the pooled logits of every token, and those are the ones of `BertForTokenClassification`:
the directory is such a model, and `classifier_pooling` in `config.json`, as ModernBERT has it, says how the
logits of the tokens become those of the text.
"""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from tokenizers import Tokenizer

from examples.data import targets
from examples.data.tokenizer_file import SETTINGS, TOKENIZER, digest, encode
from examples.models import label_names, pretrained, weights, windows
from examples.models.adapters import Keys, from_nnx
from examples.models.bert import Classifier, EncoderConfig
from examples.models.layout import Layout
from examples.models.tensors import existing
from examples.shared import strict_json
from optimiz import training

_BATCH = 128
_POOLINGS = {"mean": "mean", "first": "cls"}  # by their names in `config.json`
_PAIRS = "text_pairs"
_STRIDE = "text_stride"
_COLUMNS = "text_columns"
_PROBLEM = "problem_type"


@dataclasses.dataclass(frozen=True, eq=False)
class TextClassifier:
    """A model that predicts a class, several labels or a number of a text, or of a pair of texts.

    Attributes:
        model_type: `"bert"`, `"roberta"` or `"xlm-roberta"`.
        config: configuration of the encoder.
        pooling: how tokens become one vector, `"mean"` or `"first"`.
        tokenizer: its tokenizer.
        names: names of the classes or labels, C; of a number, its name alone.
        length: tokens of a text; longer texts are truncated or divided, as in training.
        pairs: whether it classifies pairs of texts.
        problem: what it predicts, one of `targets.PROBLEMS`.
        stride: number of tokens that the windows of a long text share; None to truncate it. The logits of the
            windows are averaged.
        columns: columns of the text, or of the two texts of a pair, in the table that it was trained with;
            empty if there was none.
    """

    model_type: str
    config: EncoderConfig
    pooling: str
    tokenizer: Tokenizer
    names: Sequence[str]
    length: int
    pairs: bool
    problem: str = targets.CLASS
    stride: int | None = None
    columns: Sequence[str] = ()

    @property
    def meaning(self) -> dict[str, Any]:
        """What its parameters mean: the names of what it predicts, and a digest of the tokens."""
        names: Any = list(self.names)
        if self.problem != targets.CLASS:  # which label of this name would not be
            names = {self.problem: names}
        return {"label_names": names, "vocabulary": digest(self.tokenizer)}

    def predictions(self, params: Any, texts: Sequence[str], pairs: Sequence[str] | None) -> np.ndarray:
        """The probabilities of the classes or labels for each text, or its number, float32 [N, C].

        Args:
            params: the parameters.
            texts: N texts, or the first of each pair; at least one.
            pairs: N second texts, if it classifies pairs.
        """
        tokens, owners, _ = windows.encode(self.tokenizer, texts, pairs, self.length, self.stride)
        batches = training.padded(tokens, _BATCH)
        logits = [
            self._logits(params, *(batch[k] for k in ("ids_BT", "mask_BT", "types_BT"))) for batch in batches
        ]
        found = windows.means(np.concatenate(logits)[: len(owners)], owners)
        if self.problem == targets.NUMBER:
            return found
        return np.asarray((jax.nn.sigmoid if self.problem == targets.LABELS else jax.nn.softmax)(found))

    def save(self, directory: Path, params: Any) -> None:
        """Write configuration, parameters and tokenizer, so that `load`, and `transformers`, read them back."""
        tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        tokenizer.no_truncation()
        tokenizer.no_padding()
        (special,) = encode(tokenizer, ["a"])  # between the tokens that frame every text
        ids = [i for i, is_special in zip(special.ids, special.special_tokens_mask, strict=True) if is_special]
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": self.length}
        types = ["token_type_ids"] if self.config.type_vocab_size > 1 else []
        about["model_input_names"] = ["input_ids", *types, "attention_mask"]
        about["pad_token"] = tokenizer.id_to_token(self.config.pad_token_id)
        more = {
            **label_names.keys(self.names),
            "classifier_pooling": _POOLINGS[self.pooling],
            _PAIRS: self.pairs,
            _PROBLEM: self.problem,
            **({} if self.stride is None else {_STRIDE: self.stride}),
            **({_COLUMNS: list(self.columns)} if self.columns else {}),
        }
        if ids:
            about |= {"cls_token": tokenizer.id_to_token(ids[0]), "sep_token": tokenizer.id_to_token(ids[-1])}
            more |= {"bos_token_id": ids[0], "eos_token_id": ids[-1]}
        weights.save(directory, self._layout, self.config, params, more=more)
        training.write_whole(directory / TOKENIZER, tokenizer.to_str(pretty=True))
        training.write_whole(directory / SETTINGS, json.dumps(about, indent=2) + "\n")

    @property
    def _layout(self) -> Layout:
        return _layout(self.model_type, len(self.names), self.pooling)

    @functools.cached_property
    def _logits(self) -> Any:
        model = nnx.eval_shape(lambda: self._layout.model(self.config, rngs=Keys(0)))
        return jax.jit(from_nnx(model)[1])


def load(directory: Path) -> tuple[TextClassifier, Any]:
    """Read a classifier and its parameters.

    Args:
        directory: directory that `TextClassifier.save` has written.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or the files are not those of such a classifier.
    """
    description = weights.read_description(directory)
    names = label_names.read(directory, description)
    pooling = {word: pooling for pooling, word in _POOLINGS.items()}.get(
        str(description.get("classifier_pooling"))
    )
    pairs = description.get(_PAIRS)
    problem, stride = description.get(_PROBLEM) or targets.CLASS, description.get(_STRIDE)
    columns = description.get(_COLUMNS, [])
    length = strict_json.read_object(existing(directory, SETTINGS)).get("model_max_length")
    if (
        pooling is None
        or not isinstance(pairs, bool)
        or type(length) is not int
        or problem not in targets.PROBLEMS
        or not (stride is None or (type(stride) is int and stride >= 0))
        or not isinstance(columns, list)
        or not all(isinstance(column, str) for column in columns)
        or len(columns) not in (0, 1 + pairs)
    ):
        raise ValueError(f"{directory} is not a classifier of texts that finetune_text has saved")
    model_type = description.get("model_type")
    config = pretrained.read_config(directory)
    params = weights.read_params(directory, _layout(str(model_type), len(names), pooling), config)
    tokenizer = pretrained.load_tokenizer(directory, config)
    about = (names, length, pairs, str(problem), stride, tuple(columns))
    return TextClassifier(str(model_type), config, pooling, tokenizer, *about), params


def _layout(model_type: str, classes: int, pooling: str) -> Layout:
    encoder = pretrained.family(model_type)
    return dataclasses.replace(
        encoder,
        architecture=pretrained.CLASSES[model_type] + "ForTokenClassification",
        model=lambda config, rngs: Classifier(config, classes, pooling, rngs=rngs),
        modules={**encoder.modules, "classifier": "head"},
        ignored=r"(?!)",
    )
