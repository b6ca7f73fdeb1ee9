"""Masked language modelling: some tokens are hidden, and the model predicts them from the others.

Of the chosen tokens, 80 % become the mask token, 10 % a random token and 10 % stay as they are, so that a model
cannot tell from a token whether it must be predicted. Tokens are chosen anew at every step (dynamic masking).
Every row has the same number of chosen tokens, so that the head is computed only for those.

Source: Devlin et al., "BERT" (arXiv:1810.04805); Liu et al., "RoBERTa" (arXiv:1907.11692).

Departures: tokens are chosen one by one, not as whole words, and their number is fixed, as in BERT's own data;
RoBERTa draws it at random.
"""

import numpy as np

from examples.data import random_bits

RATE = 0.15
HIDDEN, REPLACED = 0.8, 0.1  # of the chosen tokens; the others stay


def predictions(length: int) -> int:
    """The number of tokens chosen in a row: 15 % of them, at least one."""
    return max(1, round(RATE * length))


def mask(
    rows_BT: np.ndarray, mask_id: int, ordinary: np.ndarray, seed: int, step: int
) -> dict[str, np.ndarray]:
    """Hide tokens of a batch.

    Args:
        rows_BT: ids, int32 [B, T].
        mask_id: the token that stands for a hidden one.
        ordinary: ids of the tokens that are not special: they may be chosen, and may replace others.
        seed: seed of the choice.
        step: the training step; each step has its own choice.

    Returns:
        `ids_BT`, with P tokens of each row hidden; `positions_BP`, their positions, ascending; `targets_BP`,
        the original tokens. P is `predictions(T)`, and no token is chosen twice.

    Raises:
        ValueError: there are no ordinary tokens.
    """
    if not len(ordinary):
        raise ValueError("ordinary must hold at least one id, got none")
    rows, length = rows_BT.shape
    chosen = predictions(length)
    # Special tokens come last in the order, so they are chosen only if a row has too few others.
    order = random_bits.bits((seed, 0, step), rows_BT.shape) >> np.uint64(1)
    order = np.where(np.isin(rows_BT, ordinary), order, order | np.uint64(1 << 63))
    positions_BP = np.sort(np.argsort(order, axis=1, kind="stable")[:, :chosen], axis=1)
    targets_BP = np.take_along_axis(rows_BT, positions_BP, axis=1)
    fate = random_bits.uniform((seed, 1, step), (rows, chosen))
    random = ordinary[random_bits.bits((seed, 2, step), (rows, chosen)) % np.uint64(len(ordinary))]
    written = np.where(fate < HIDDEN, mask_id, np.where(fate < HIDDEN + REPLACED, random, targets_BP))
    ids_BT = rows_BT.copy()
    np.put_along_axis(ids_BT, positions_BP, written.astype(ids_BT.dtype), axis=1)
    return {
        "ids_BT": ids_BT,
        "positions_BP": positions_BP.astype(np.int32),
        "targets_BP": targets_BP.astype(np.int32),
    }
