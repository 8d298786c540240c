"""Training by all ranks of an MPI job: a batch as shards, each with a plan of its own.

A rank runs the plans of its shards, and what they give stands in rows, one for each shard: totals and gradients. Then
the rows are added, first on each rank and then across all (:class:`tinyconv.distribution.shards.Tree`), and every rank
takes the same step with the sum. A batch normalisation, which needs to know the whole batch, lets the shards meet in
the middle of their plans (:class:`tinyconv.plan.builder.Meeting`).
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyconv.distribution.parallel import DataParallel
from tinyconv.distribution.ranks import Exchange, RankError
from tinyconv.distribution.shards import Tree, cut, owned, portion
from tinyconv.kernels import memory
from tinyconv.kernels.reference.dropout import CURSOR, FIRST_SAMPLE, STEP
from tinyconv.network import Network
from tinyconv.optimizers import Optimizer
from tinyconv.plan import ops
from tinyconv.plan.arena import ALIGNED, Storage
from tinyconv.plan.builder import Meeting
from tinyconv.plan.graph import Graph
from tinyconv.plan.lowering import PHASES, Plan, closing_steps, lower
from tinyconv.plan.state import State
from tinyconv.training.data import Data, Ready, given, loader
from tinyconv.training.heads import Head

Call = tuple[Callable[..., None], tuple[Any, ...]]
Program = Callable[[], None]
LINE = 64  # bytes: where the parts of a row begin
NUMBER, STOP, INTERRUPTED, CHECK = range(4)  # what stands where in the control words of a row


class Owner(Protocol):
    """What a batch in shards needs of a trainer."""

    model: Network
    kernels: ModuleType
    state: State
    optimizer: Optimizer | None
    heads: Sequence[Head]
    fuse: bool

    def _graph(self, with_loss: bool) -> Graph: ...


class Rows:
    """What the shards' plans give: for each shard a row of control words, totals and gradients, in one block of memory.

    ``head`` is what comes before the gradients: all that an evaluation sends.
    """

    def __init__(self, state: State, shards: int) -> None:
        totals = state.totals.nbytes
        first = LINE + -(-totals // LINE) * LINE
        self.all = memory.allocate((shards, first + -(-state.grads.flat.nbytes // LINE) * LINE), np.uint8)
        self.head = self.all[:, :first]
        self.control = self.all[:, :LINE].view(np.int64)
        self.totals = self.all[:, LINE : LINE + totals].view(np.float64)
        self.grads = self.all[:, first : first + state.grads.flat.nbytes].view(state.dtype)


class Shards:
    """Of one trainer and one distribution: the rows, how they are added, the buffers of plans, and batches by size."""

    def __init__(self, owner: Owner, team: DataParallel) -> None:
        self.owner, self.team, self.ranks = owner, team, team.ranks
        if not owner.state.on_host:
            raise ValueError(
                'DataParallel computes on processors. Expected backend="cpu" or "reference". Received: "cuda".'
            )
        getattr(owner.kernels, "default_threads", int)(self.ranks.threads)
        self.own = owned(self.ranks.rank, self.ranks.size, team.shards)
        self.tree = Tree.of(self.ranks.rank, self.ranks.size, team.shards)
        self.rows = Rows(owner.state, team.shards)
        self.storages: dict[Any, Storage] = {}
        self.batches: dict[Any, Batch] = {}
        self.muted = False  # programs run to be compiled: nothing is sent
        self.number = 0  # of the last batch, so that ranks that are not where the others are find out
        self.check = 0  # what a single batch says of its data
        self.columns = self._columns()
        self.exchanges = {training: self._exchange(training) for training in (True, False)}
        first = [self.rows.grads[0, columns] for columns in self.columns]
        self.share = Exchange(self.ranks, [[first[self.ranks.rank]]] * self.ranks.size, [[each] for each in first])

    def _columns(self) -> list[slice]:
        """Of which gradients each rank gets the rows of all: of a share, whose sum it then tells the others. It takes
        two messages, and not the more bytes the more ranks there are. Two ranks tell each other everything at once."""
        size, numbers = self.ranks.size, self.rows.grads.shape[1]
        if size <= 2:
            return [slice(0, numbers)] * size
        cuts = [numbers * rank // size // ALIGNED * ALIGNED for rank in range(size)]
        return [slice(first, last) for first, last in itertools.pairwise([*cuts, numbers])]

    def _exchange(self, training: bool) -> Exchange:
        rows, sent, me = self.rows, self.tree.sent, self.ranks.rank

        def pieces(row: int, rank: int) -> list[np.ndarray]:
            return [rows.head[row], *([rows.grads[row, self.columns[rank]]] if training else [])]

        to = [[piece for row in sent[me] for piece in pieces(row, rank)] for rank in range(self.ranks.size)]
        return Exchange(self.ranks, to, [[piece for row in each for piece in pieces(row, me)] for each in sent])

    def portion(self, size: int, rank: int | None = None) -> slice:
        """This rank's (or another's) samples of a batch."""
        return portion(size, self.ranks.rank if rank is None else rank, self.ranks.size, self.team.shards)

    def parts(self, whole: Ready) -> list[Ready]:
        """What each rank needs of a batch."""
        return [whole.part(self.portion(whole.size, rank)) for rank in range(self.ranks.size)]

    def owners(self, batches: int) -> list[int]:
        """The ranks of so many batches that are computed whole."""
        return [rank for rank in range(self.ranks.size) for _ in owned(rank, self.ranks.size, batches)]

    def batch(self, size: int, training: bool, weighted: Sequence[bool]) -> "Batch":
        """A batch of ``size`` samples; ``weighted`` says for each loss whether its samples have weights."""
        weighted = tuple(weighted) or (False,) * len(self.owner.heads)
        key = size, training, weighted
        if key not in self.batches:
            self.batches[key] = Batch(self, size, training, weighted)
        return self.batches[key]

    def storage(self, *key: Any) -> Storage:
        return self.storages.setdefault(key, Storage(self.owner.kernels))

    @contextlib.contextmanager
    def taking_turns(self) -> Iterator[None]:
        """Inside of it programs are run to be compiled, and send nothing. The first rank of each machine goes ahead:
        the others find in the cache what it has compiled."""
        if self.ranks.neighbour:
            self.ranks.everyone(None)
        self.muted = True
        try:
            yield
        finally:
            self.muted = False
        if not self.ranks.neighbour:
            self.ranks.everyone(None)

    # What ranks do together

    def meet(self, meetings: Sequence[Meeting], rows: np.ndarray, exchange: Exchange, shares: np.ndarray) -> None:
        """Shards whose plans have come to these meetings tell each other what they know. An empty one has no plan, and
        takes part for its rank."""
        for shard, meeting in zip(self.own, meetings, strict=True):
            for array, row in zip(meeting.given, rows[shard], strict=True):
                row[...] = array if shares[shard] else 0
                if meeting.cleared:
                    array[...] = 0
        if self.muted:
            return
        exchange()
        found = meetings[0].combine(rows, shares)
        for meeting in meetings:
            for array, values in zip(meeting.taken, found, strict=True):
                array[...] = values

    def exchange(self, training: bool) -> None:
        """The rows of all ranks' sums."""
        if self.muted:
            return
        self.number += 1
        for row in self.tree.sent[self.ranks.rank]:
            words = self.number, bool(self.owner.model.stop_training), self.ranks.interrupted, self.check
            self.rows.control[row, : len(words)] = words
        self.exchanges[training]()

    def add(self, pairs: Sequence[tuple[int, int]], training: bool, columns: slice = slice(None)) -> list[Call]:
        """The calls that add the second row of each pair to the first: totals, and these columns of the gradients."""
        grads, kernel = self.rows.grads[:, columns], self.owner.kernels.add_to
        sums = [(kernel, (grads[left], grads[right])) for left, right in pairs] if training and grads.size else []
        return [*sums, (self._add_totals, (pairs,))]

    def _add_totals(self, pairs: Sequence[tuple[int, int]]) -> None:
        for left, right in pairs:
            self.rows.totals[left] += self.rows.totals[right]

    def take(self, training: bool) -> None:
        """The sum of all rows is the batch's."""
        state = self.owner.state
        state.totals += self.rows.totals[0]
        if training:
            if self.ranks.size > 2 and not self.muted:
                self.share()
            np.copyto(state.grads.flat, self.rows.grads[0])

    def heed(self) -> None:
        """What ranks have said of themselves, after the step."""
        if self.muted:
            return
        words = self.rows.control[[rows[0] for rows in self.tree.sent]]
        for what, name in (
            (NUMBER, "has not run as many batches as"),
            (CHECK, "has other data or another learning rate than"),
        ):
            (others,) = np.nonzero(words[:, what] != words[0, what])
            if len(others):
                raise RankError(
                    f"Rank {others[0]} {name} rank 0. Expected the same calls, and the same data, on all ranks."
                )
        if words[:, STOP].any():
            self.owner.model.stop_training = True
        if words[:, INTERRUPTED].any():
            raise KeyboardInterrupt


class Part(NamedTuple):
    """A shard of a batch of some size: its first sample, how many it has, and its plan. An empty one's is never run."""

    shard: int
    first: int
    size: int
    plan: Plan
    state: State
    prepares: bool  # the first of those that share its buffers

    def calls(self, data: Data, phases: Sequence[str]) -> list[list[Call]]:
        """What it does, from one meeting to the next."""
        pieces: list[list[Call]] = [loader(self.plan, data, True, self.state.counters)]
        for phase in phases:
            for step in self.plan.steps[phase] if self.prepares or phase != "prepare" else ():
                if isinstance(step.kernel, Meeting):
                    pieces.append([])
                else:
                    pieces[-1].append(step.call)
        return pieces


class Batch:
    """A batch of one size, as this rank sees it: its own shards. In a pass it stands where else a plan stands."""

    def __init__(self, shards: Shards, size: int, training: bool, weighted: Sequence[bool]) -> None:
        self.shards, self.batch_size, self.training = shards, size, training
        owner, graph = shards.owner, shards.owner._graph(True)
        self.sizes = cut(size, shards.team.shards)
        losses = [head.op(each) for head, each in zip(owner.heads, weighted, strict=True)]
        check_supported(graph)
        moves = training and any(isinstance(node.op, ops.BatchNorm) and not node.op.frozen for _, node in graph)
        meets = moves or any(loss.meets for loss in losses)
        self.parts: list[Part] = []
        kinds = set()
        for shard in shards.own:
            count = self.sizes[shard]
            kind = shard if meets else count  # what lives from meeting to meeting cannot be shared
            totals, grads = shards.rows.totals[shard], owner.state.grads.over(shards.rows.grads[shard])
            state = owner.state.shard(size, grads, totals)
            plan = lower(
                graph.copy(),
                max(count, 1),
                state,
                training=training,
                losses=losses,
                fuse=owner.fuse,
                storage=shards.storage(training, kind),
            )
            self.parts.append(Part(shard, sum(self.sizes[:shard]), count, plan, state, kind not in kinds))
            kinds.add(kind)
        self.meetings = self._meetings()
        self.staged: tuple[Data | None, Program] | None = None

    @property
    def phases(self) -> tuple[str, ...]:
        return PHASES if self.training else ("forward",)

    def program(self, *phases: str) -> Program:
        """These phases of the shards' plans alone: their preparation, when no training does it."""
        steps = [step for part in self.parts if part.prepares for phase in phases for step in part.plan.steps[phase]]
        return memory.watched(self.shards.owner.kernels.record([step.call for step in steps]))

    def over(self, data: Data | None, staged: bool = False) -> Program:
        """The whole step, on the samples of a data set at the cursor; or (``staged``) on data that are this rank's part
        of the batch, None if that is empty."""
        shards, owner = self.shards, self.shards.owner
        tree, training, state = shards.tree, self.training, owner.state
        pieces = [part.calls(data, self.phases) for part in self.parts if part.size and data]
        calls: list[Call] = [(self._begin, (staged,))]
        for number, meet in enumerate([*self.meetings, None]):
            calls += [call for piece in pieces for call in piece[number]]
            calls += [(meet, ())] if meet else []
        calls += [*shards.add(tree.inside, training), (shards.exchange, (training,))]
        calls += shards.add(tree.rest, training, shards.columns[shards.ranks.rank])
        calls.append((shards.take, (training,)))
        optimizer = owner.optimizer if training else None
        closing = closing_steps(state, shards.storage("closing"), self.batch_size, optimizer)
        calls += [step.call for step in closing]
        calls += [(owner.kernels.advance, (state.counters, int(training), self.batch_size)), (shards.heed, ())]
        return memory.watched(owner.kernels.record(calls))

    def _begin(self, staged: bool) -> None:
        counters = self.shards.owner.state.counters
        for part in self.parts:
            part.state.counters[[STEP, FIRST_SAMPLE]] = counters[STEP], part.first
            part.state.counters[CURSOR] = part.first + (-self.parts[0].first if staged else counters[CURSOR])
            self.shards.rows.totals[part.shard] = 0
            if not part.size:
                self.shards.rows.grads[part.shard] = 0

    def _meetings(self) -> list[Program]:
        """What happens between two pieces of the plans."""
        shards, kernels = self.shards, []
        ranks, shares = shards.ranks, np.array(self.sizes) / self.batch_size
        for part in self.parts:
            steps = [step.kernel for phase in self.phases for step in part.plan.steps[phase]]
            kernels.append([kernel for kernel in steps if isinstance(kernel, Meeting)])
        found: list[Program] = []
        for meetings in zip(*kernels, strict=True):
            arrays = meetings[0].given
            rows = memory.allocate((len(shares), len(arrays), arrays[0].size), shards.owner.state.dtype)
            each = [owned(rank, ranks.size, len(shares)) for rank in range(ranks.size)]
            pieces = [[rows[own.start : own.stop]] for own in each]
            exchange = Exchange(ranks, [pieces[ranks.rank]] * ranks.size, pieces)
            found.append(functools.partial(shards.meet, meetings, rows, exchange, shares))
        return found

    # A batch that Python hands over

    def load(self, own: Ready) -> None:
        """Copy this rank's samples (:meth:`Shards.portion`) to where :meth:`step` finds them."""
        if self.staged is None:
            like = [tuple(None if each is None else np.empty_like(each) for each in some) for some in own.arrays]
            data = Data.load(self.shards.owner.state, *like) if len(own.xs[0]) else None  # type: ignore[arg-type]
            self.staged = data, self.over(data, staged=True)
        data, _ = self.staged
        if data is not None:
            there = (*data.xs, *data.ys, *given(data.weights))
            for array, each in zip(there, given(itertools.chain(*own.arrays)), strict=True):
                array[...] = each.reshape(array.shape)

    def step(self) -> Program:
        assert self.staged is not None
        return self.staged[1]


def check_supported(graph: Graph) -> None:
    """Refuse what would be wrong if each shard did it for itself."""
    for _, node in graph:
        layer = node.op.layer if isinstance(node.op, ops.Custom) else None
        if layer is not None and any(not spec.trainable for spec in layer.weight_specs(node.op.x_shape)):
            raise ValueError(
                f"Layer {node.op.name!r} moves statistics of its own, and each shard would have others. Under "
                "DataParallel expected only weights that are trained in a layer of your own. Fix: BatchNormalization."
            )
