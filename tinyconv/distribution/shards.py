"""How a batch is cut into shards, and in which order what they computed is added.

The sum is a binary tree over the shards: (((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))). A rank adds what it can, whole
branches of its own shards, and sends only these: with two ranks and eight shards one sum instead of four. The others go
on from there, so each number is added to the same others in the same order for any number of ranks.
"""

from dataclasses import dataclass


def cut(samples: int, shards: int) -> list[int]:
    """The samples of each shard: as equal as possible, the larger ones first. Of a small batch the last ones are empty.

    >>> cut(18, 8)
    [3, 3, 2, 2, 2, 2, 2, 2]
    """
    return [samples // shards + (shard < samples % shards) for shard in range(shards)]


def owned(rank: int, ranks: int, shards: int) -> range:
    """The shards of a rank: neighbours, as many as another rank's or one more."""
    return range(rank * shards // ranks, (rank + 1) * shards // ranks)


def portion(samples: int, rank: int, ranks: int, shards: int) -> slice:
    """The samples of a batch that are in a rank's shards; of a small batch perhaps none.

    >>> portion(18, rank=1, ranks=2, shards=8)
    slice(10, 18)
    """
    sizes, own = cut(samples, shards), owned(rank, ranks, shards)
    return slice(sum(sizes[: own.start]), sum(sizes[: own.stop]))


@dataclass(frozen=True)
class Tree:
    """The order of a sum over ``shards`` rows, a power of two, in place: "add row b to row a" is a pair (a, b).

    ``inside``: what this rank adds of its own rows. ``sent``: for each rank, the rows that hold its sums then.
    ``rest``: what is added when all of these are there; the result is row 0.
    """

    inside: list[tuple[int, int]]
    sent: list[list[int]]
    rest: list[tuple[int, int]]

    @classmethod
    def of(cls, rank: int, ranks: int, shards: int) -> "Tree":
        ranges = [owned(each, ranks, shards) for each in range(ranks)]
        inside, rest = [], []
        sent: list[set[int]] = [set(each) for each in ranges]
        width = 1
        while width < shards:
            for first in range(0, shards, 2 * width):
                pair = first, first + width
                owner = next(
                    (r for r, each in enumerate(ranges) if first in each and pair[1] + width - 1 in each), None
                )
                if owner is None:
                    rest.append(pair)
                else:
                    sent[owner].remove(pair[1])
                    if owner == rank:
                        inside.append(pair)
            width *= 2
        return cls(inside, [sorted(rows) for rows in sent], rest)
