"""Batches that the ranks of a job share: one of them reads a batch, and gives each what it needs of it."""

from collections.abc import Callable
from typing import Any

from tinyconv.distribution.ranks import SAMPLES, WORD, Ranks
from tinyconv.training.reader import Reader


class Dealer:
    """What a :class:`Reader` is to one process. Its batches are prepared as lists, with a part for each rank.

    Args:
        ranks: who shares the batches.
        reader: of the batches that this rank reads, in order; None if it reads none.
        in_turns: whether rank r reads batch r and every ``ranks.size``-th after it; else rank 0 reads them all.
    """

    def __init__(self, ranks: Ranks, reader: Reader | None, in_turns: bool) -> None:
        self.ranks, self.reader, self.in_turns = ranks, reader, in_turns
        self.number = 0  # of the next batch

    def next(self, meanwhile: Callable[[], None]) -> Any:
        """This rank's part of the next batch, None after the last one; as :meth:`Reader.next`."""
        dealer = self.number % self.ranks.size if self.in_turns else 0
        self.number += 1
        parts = self.reader.next(meanwhile) if self.reader and dealer == self.ranks.rank else None
        return self.ranks.deal(dealer, parts or [None] * self.ranks.size, SAMPLES)

    def is_at_end(self, meanwhile: Callable[[], None]) -> bool:
        """Whether no batch is left, of those that rank 0 alone reads."""
        return bool(self.ranks.deal(0, [self.reader and self.reader.is_at_end(meanwhile)] * self.ranks.size, WORD))

    def close(self) -> None:
        """End the reader's thread."""
        if self.reader is not None:
            self.reader.close()
