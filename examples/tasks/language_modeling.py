"""Fine-tuning of a causal language model, whole or by adapters, as a task that any optimizer can train.

The texts are tokenised once and packed: a row holds several, which do not see each other, each with positions
from 0. The loss of a row is the mean cross-entropy of what it predicts, and its weight the number of these
tokens: the loss of a batch is the mean over tokens, however they are packed.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from examples.data import chat_template, pieces, segments, tokenizer_file
from examples.data.corpus import Corpus
from examples.data.prompts import Prompts
from examples.data.summary import Summary, counted
from examples.models import decoders, weights
from examples.models.adapters import Keys, from_nnx
from examples.models.layout import Layout
from examples.models.lora import Adapted, Lora
from examples.models.tensors import CONFIG
from examples.models.writer import read_tokenizer
from examples.tasks.cross_entropy import cross_entropy
from optimiz import training

METRICS = ("loss", "perplexity", "bits_per_byte")  # of an evaluation
ADAPTER = "adapter"  # folder of the adapters, beside that of the model
EVALUATION_BATCH = 16
EVALUATION_ROWS = 256  # at most, per part
PACKED, LONGEST = 256, 1024  # tokens of a row by default: at least, if it is packed, and at most
_STEP = 8  # default lengths are multiples of this
_KEPT = (tokenizer_file.TOKENIZER, tokenizer_file.SETTINGS, chat_template.FILE, decoders.GENERATION)

Arrays = Mapping[str, np.ndarray]


class PackedModel:
    """A causal language model that reads packed rows, see `segments`, and its loss; no text is needed.

    Args:
        family: layout of the model's files.
        config: its configuration.
        lora: adapters to be trained in place of the model; None to train all of it.
    """

    def __init__(self, family: Layout, config: Any, lora: Lora | None = None):
        self.adapted = None if lora is None else Adapted(family, config, lora)
        # The structure of the model alone: its parameters come from elsewhere.
        _, self._apply = from_nnx(nnx.eval_shape(lambda: family.model(config, rngs=Keys(0))))

    def losses(self, params: Any, batch: Arrays, key: jax.Array | None, frozen: Any = None) -> jax.Array:
        """The mean cross-entropy of what each row predicts, [B].

        Args:
            params: those that are trained: of the model, or of the adapters.
            batch: rows.
            key: random key of dropout; None for none.
            frozen: the parameters of the model if adapters are trained.
        """
        return self.nats(params, batch, key, frozen) / jnp.maximum(batch["weight"], 1)

    def nats(self, params: Any, batch: Arrays, key: jax.Array | None, frozen: Any) -> jax.Array:
        """The cross-entropy of each row, summed over what it predicts, [B]; arguments as for `losses`."""
        targets = batch["targets"]
        nats_BT = cross_entropy(self._logits(params, batch, key, frozen), jnp.maximum(targets, 0))
        return jnp.where(targets >= 0, nats_BT, 0).sum(-1)

    def logits(self, params: Any, batch: Arrays, key: jax.Array | None, frozen: Any = None) -> Any:
        """The logits of a batch, [B, T, V], and which positions are predicted, [B, T]."""
        return self._logits(params, batch, key, frozen), (batch["targets"] >= 0).astype(jnp.float32)

    def _logits(self, params: Any, batch: Arrays, key: jax.Array | None, frozen: Any) -> jax.Array:
        arguments = batch["ids_BT"], batch["segments_BT"], key
        positions = {"positions_BT": batch["positions_BT"]}
        if self.adapted is None:
            return self._apply(params, *arguments, **positions)
        return self.adapted.apply(frozen, params, *arguments, **positions)


class LanguageModeling(PackedModel):
    """Packed texts, and the model that is to write them.

    Args:
        parts: "train" and others.
        model: directory of the model.
        length: T, the number of tokens per row; None for the longest text, at least PACKED if a row holds
            several, and at most LONGEST and what the model reads.
        dropout: dropout rate of the model, in [0, 1).
        remat: what the backward pass computes again, see `remat.REMAT`.
        lora: adapters to be trained in place of the model; None to train all of it.
        pack: whether a row holds several texts.
        skip_long: whether texts with answers that are longer than a row are left out.

    Attributes:
        directory: directory of the model.
        length: T.
        rows: part → rows, see `segments.laid_out`.
        summary: summary of the data and the model, for the screen and a report.
        meaning: what the parameters mean: a digest of the tokens and, of adapters, that of the model that they
            belong to, and their scale.
        vocabulary: number of tokens that the model knows.

    Raises:
        FileNotFoundError: the directory lacks a file.
        ValueError: a file is damaged, a text is refused, or an argument is outside its domain.
    """

    def __init__(
        self,
        parts: Mapping[str, Corpus | Prompts],
        model: Path,
        *,
        length: int | None = None,
        dropout: float = 0.0,
        remat: str = "none",
        lora: Lora | None = None,
        pack: bool = True,
        skip_long: bool = False,
    ):
        self.directory, family = model, decoders.family(model)
        plain = weights.read_config(model, family)
        rates = {name: dropout for name in vars(plain) if name.endswith("_dropout")}
        self._family, self._config = family, plain
        config, base = weights.load(model, family, **rates, remat=remat)
        if length is not None and length > config.max_positions:
            raise ValueError(f"length={length}: the model reads at most {config.max_positions} tokens")
        tokenizer = read_tokenizer(model, config.vocab_size)
        self.meaning: dict[str, Any] = {"vocabulary": tokenizer_file.digest(tokenizer)}
        super().__init__(family, config, lora)
        self._base = jax.device_get(base)
        if lora is not None:
            self.meaning |= {"adapted": _sha256(self._base), "lora_scale": lora.scale}
        self._sums, self.vocabulary = jax.jit(self.nats), config.vocab_size

        self._pack, self._most = pack, min(config.max_positions, LONGEST)
        self.length = 0 if length is None else length
        self.rows: dict[str, Arrays] = {}
        self._bytes: dict[str, np.ndarray] = {}  # of the text that each row predicts
        skipped = {}
        for name in sorted(parts, key=lambda name: name != "train"):  # which decides the length
            of_part = self._pieces(parts[name], tokenizer, skip_long=skip_long)
            lengths = of_part.lengths
            of_rows = segments.fit(lengths, self.length) if pack else [[i] for i in range(len(lengths))]
            # In any order but that of lengths: an evaluation may see the first rows alone.
            of_rows = [of_rows[i] for i in np.random.default_rng(0).permutation(len(of_rows))]
            self.rows[name] = segments.laid_out(of_part.tokens, of_rows, self.length)
            self._bytes[name] = np.array([sum(of_part.sizes[i] for i in row) for row in of_rows])
            skipped[name] = of_part.skipped
        self.summary = self._summary(skipped)

    def task(self, batch_size: int, seed: int, share: tuple[int, int] = (0, 1)) -> training.Task:
        """The task of the training part, evaluated on the validation part.

        Args:
            batch_size: B, rows per update.
            seed: seed of the order of the rows.
            share: which part of each batch this process reads, see ``training.Layout.share``.
        """
        return training.Task(
            init=self._start,
            loss=self.losses,
            batches=training.shuffled(self.rows["train"], batch_size, seed, share),
            evaluate=self.evaluation("validation"),
            logits=self.logits,
            frozen=None if self.adapted is None else lambda key: self._base,
        )

    def evaluation(self, part: str) -> Callable[..., dict[str, float]]:
        """A function from parameters, and frozen ones, to the metrics of a part.

        The loss is in nats per token, and bits per byte refer to the text that is predicted.
        """
        rows = {name: array[:EVALUATION_ROWS] for name, array in self.rows[part].items()}
        predicted, size = float(rows["weight"].sum()), float(self._bytes[part][:EVALUATION_ROWS].sum())
        batches = training.padded(rows, min(EVALUATION_BATCH, len(rows["weight"])))

        def evaluate(params: Any, frozen: Any = None) -> dict[str, float]:
            frozen = jax.device_put(self._base) if frozen is None and self.adapted is not None else frozen
            nats = [np.asarray(self._sums(params, batch, None, frozen), np.float64) for batch in batches]
            total = float(np.concatenate(nats)[: len(rows["weight"])].sum())
            perplexity = math.exp(min(total / predicted, 700.0))
            bits = total / math.log(2) / size
            return {"loss": total / predicted, "perplexity": perplexity, "bits_per_byte": bits}

        return evaluate

    def untuned(self) -> dict[str, dict[str, float]]:
        """The metrics of the model as it was, for each part except "train"."""
        params = self._start(jax.random.key(0))  # adapters add nothing yet
        return {name: self.evaluation(name)(params) for name in self.rows if name != "train"}

    def save(self, directory: Path, params: Any, *, name: str) -> None:
        """Write the model in the Hugging Face layout, and adapters as `peft` reads them.

        Args:
            directory: directory of the model; that of adapters is `adapter` beside it.
            params: those that were trained.
            name: name of the model that they belong to.
        """
        if self.adapted is not None:
            self.adapted.save(directory.with_name(ADAPTER), params, name)
            params = self.adapted.merged(self._base, params)
        ids = decoders.special_ids(self.directory)
        weights.save(directory, self._family, self._config, params, ids)
        for file in (self.directory / kept for kept in _KEPT):
            if file.exists():
                training.write_whole(directory / file.name, file.read_bytes())

    def fingerprint(self) -> str:
        """SHA-256 of the model's parameters and of every row."""
        return _sha256((self._base, self.rows))

    def _start(self, key: jax.Array) -> Any:
        return self._base if self.adapted is None else self.adapted.init(key)

    def _pieces(self, part: Corpus | Prompts, tokenizer: Any, *, skip_long: bool) -> pieces.Pieces:
        ids = self._ids()
        if isinstance(part, Corpus):
            end = self._needed(ids["end"])
            return pieces.of_documents(part, tokenizer, ids["start"], end, self._length_for)
        end = None if part.prompts[0].is_whole else self._needed(ids["end"])
        return pieces.of_prompts(part, tokenizer, end, self._length_for, skip_long=skip_long)

    def _length_for(self, lengths: list[int]) -> int:
        """The length that was asked for, or what the first part needs."""
        if not self.length:
            needed = max(max(lengths), PACKED if self._pack else 1)
            self.length = min(-(-needed // _STEP) * _STEP, self._most)
        return self.length

    def _ids(self) -> dict[str, int | None]:
        """The ids of the tokens that begin and end a text, if the configuration has them."""
        directory, size = self.directory, self._config.vocab_size
        start = weights.read_description(directory).get("bos_token_id")
        end = next(iter(decoders.end_ids(directory)), None)
        return {
            "start": _id(directory, "bos_token_id", start, size),
            "end": _id(directory, "eos_token_id", end, size),
        }

    def _needed(self, end: int | None) -> int:
        if end is None:
            raise ValueError(f"{self.directory / CONFIG} has no eos_token_id, with which texts are to end")
        return end

    def _summary(self, skipped: Mapping[str, int]) -> Summary:
        train = self.rows["train"]
        filled = float((train["segments_BT"] > 0).mean())
        facts = {
            "rows": ", ".join(f"{len(rows['weight'])} {name}" for name, rows in self.rows.items()),
            "tokens of a row": f"{self.length}, {filled:.0%} of them filled",
            "tokens to predict": f"{train['weight'].sum():.0f} in training",
        }
        warnings = [
            f"{counted(count, 'texts')} of {name} longer than {self.length} tokens left out"
            for name, count in skipped.items()
            if count
        ]
        trained = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(self._start, jax.random.key(0))))
        total = sum(leaf.size for leaf in jax.tree.leaves(self._base))
        facts["parameters"] = f"{total:,}" + ("" if self.adapted is None else f", {trained:,} in adapters")
        return Summary(facts, warnings)


def _sha256(tree: Any) -> str:
    """SHA-256 of the arrays of a tree."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _id(directory: Path, key: str, value: Any, vocab_size: int) -> int | None:
    """A token's id in a configuration."""
    if value is not None and (type(value) is not int or not 0 <= value < vocab_size):
        got = repr(value)[:100]
        raise ValueError(f"{directory / CONFIG}: {key} must be an id below {vocab_size}, got {got}")
    return value
