"""Added tokens of a padded vocabulary: rows of a real model's size and cost that can never be chosen; numpy only.

The head row of an added token repeats a source token's row, so its logit would be that token's; two columns of the
residual, c and c', take a number of nats off it:

- Every embedding holds the same constant K in both columns; the layers' norms have weight zero there and the writers
  zero rows, so nothing reads or changes it.
- RMSNorm sees 2 K^2 / D more mean square and is given that much less eps: its result is the source's, exactly. K is
  as large as eps allows, and 127 times a power of two, which every type stores without rounding.
- The output norm has +g at c and -g at c'. A source token's head row holds (K, K) in the tied case, (0, 0) in the
  untied one: the terms cancel. An added token's holds (-P, +P) and loses 2 P g K / rms.

So an added token trails the token it repeats by MARGIN / rms nats whatever the text, rms being the root mean square
of the source's last residual. It can therefore never be the most likely; all added tokens together have less than
n_added / n_source * exp(-MARGIN / rms) times the source tokens' probability, if the rows are repeated evenly.

Not covered: added tokens as input (they would be read as the repeated token with a disturbed constant).
"""

import math
from dataclasses import dataclass

import numpy as np
from shapes import Shape

PUSH = 127.0 * 2**8  # P: exact in f16 and q8_0, whose scales are f16
MARGIN = 12_800.0  # nats at rms 1; logits stay finite in f16 down to rms 0.2


@dataclass(frozen=True)
class Marker:
    """The last two columns of the residual: constant K of the embeddings, gain g of the output norm."""

    constant: float
    gain: float
    mean_square: float  # what the constant adds to the target's

    def into_embedding(self, table: np.ndarray, n_source: int, tied: bool) -> None:
        """Marks every token; where the embedding is the head too, also which tokens are added."""
        table[:, -2:] = self.constant
        if tied:
            table[n_source:, -2:] = -PUSH, PUSH

    def into_head(self, table: np.ndarray, n_source: int) -> None:
        """Marks the head's rows of added tokens and keeps the source's clear."""
        table[:, -2:] = 0
        table[n_source:, -2:] = -PUSH, PUSH

    def into_output_norm(self, weight: np.ndarray) -> None:
        weight[-2:] = self.gain, -self.gain

    def out_of_norm(self, weight: np.ndarray) -> None:
        """Hides the constant from a layer."""
        weight[-2:] = 0


def mark(source: Shape, target: Shape, n_terms: int, epsilon: float) -> Marker:
    """Returns the marker for a source of that eps, the constant within what eps can give up."""
    room = n_terms * source.n_embd * epsilon  # eps as a sum of squares over the target's residual
    constant = 127.0 * 2.0 ** math.floor(math.log2(math.sqrt(room / 2) / 127))
    shrink = n_terms * source.n_embd / target.n_embd
    gain = MARGIN * math.sqrt(shrink) / (2 * PUSH * constant)
    return Marker(constant, gain, mean_square=2 * constant**2 / target.n_embd)
