"""Networks of other kinds than the seed's (``benchmarks/networks.py``): training, inference, beside others, memory."""

import functools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import replace

from benchmarks import peers
from benchmarks.measure import Timing, interleave
from benchmarks.networks import LARGE_IMAGES, NETWORKS, SMALL, Network
from benchmarks.peers import Contender
from benchmarks.report import Result
from benchmarks.sections.convolutions import peak, share_of_peak
from benchmarks.sections.session import Session, against_fastest, asked, busy_processes, fastest_of
from benchmarks.worker import Worker

SLOW = (peers.KERAS_JAX, peers.TORCH_COMPILED)  # at the epoch: two to four times the fastest peer's time
QUICK = ("LeNet-5", "small ResNet")
MIB = 2**20


def trainers(s: Session) -> list[Contender]:
    return [peers.TINYCONV, *(c for c in s.trainers if c not in SLOW)]


def chosen(s: Session, found: Iterable[Network]) -> list[Network]:
    """All, but for a quick run, which would spend its time in the reference kernels' large convolutions."""
    return [network for network in found if not s.quick or network.name in QUICK]


def told(result: Result) -> Result:
    """The sections here take minutes: each row is printed when it is there."""
    print(*filter(None, result.row), sep=" | ", flush=True)
    return result


def summary(section: str, work: str, results: Iterable[Result], target: float) -> list[Result]:
    """The geometric mean of ratios, if there are any."""
    found = [r.value for r in results if r.value == r.value]  # NaN: no peer
    mean = [statistics.geometric_mean(found)] if found else []
    return [Result(section, f"{work}, geometric mean of {len(found)}", value, "x", target) for value in mean]


def bound(most: float, flops: float, weights: int = 0) -> Callable[[float], str]:
    """What bounds work that takes so many seconds: its share of the machine's FLOP/s, of which there are ``most``, and
    how fast its ``weights``, so many bytes, are read. Winograd's method needs fewer multiplications than its definition
    has, by which they are counted: there it can be more than all."""

    def of(seconds: float) -> str:
        read = f", weights at {weights / seconds / 1e9:.1f} GB/s" if weights else ""
        return f", {share_of_peak(flops / seconds, most, 'the')}{read}"

    return of


def needed(result: Result, most: float, flops: float) -> Result:
    """With the share of the peak that the target would take."""
    if result.target is None:
        return result
    peer = min(statistics.median(seconds) for name, seconds in result.seconds.items() if name != peers.TINYCONV.name)
    share = 100 * result.target * flops / peer / most
    return replace(result, theirs=f"{result.theirs}; {result.target:g}x that is {share:.0f} %")


def training(s: Session) -> list[Result]:
    """A training step of each network, in a pass through a few batches by ``fit``."""
    results, most = [], peak(s)
    for network in chosen(s, NETWORKS.values()):
        times = s.race_with(network, trainers(s), s.steps(network))
        s.fastest[network.name] = fastest_of(times)
        batch = s.sizes(network)[0]
        work, target = f"training step, {network.name}, batch {batch}", 1.5 if network is LARGE_IMAGES else 2.0
        flops = batch * s.answers[network.name].training
        result = against_fastest("networks", work, times, target, bound(most, flops))
        results.append(told(needed(result, most, flops)))
    small = [r for r in results if LARGE_IMAGES.name not in r.work]
    return summary("networks", "training step", small, 3.0) + results


def inference(s: Session) -> list[Result]:
    """``model(x)`` for a batch: the mean and the slowest of all, and each of them."""
    contenders = [peers.TINYCONV, *(c for c in s.contenders if c.infers and c not in SLOW)]
    results, most = [], peak(s)
    for network in chosen(s, SMALL):
        for batch_size in (1, 2) if s.quick else (1, 32, 256):
            turn = asked("infer", batch_size=batch_size, at_least=s.samples(100, 1) / 1000)
            times = s.race_with(network, contenders, turn)
            work = f"inference, {network.name}, batch {batch_size}"
            answers = s.answers[network.name]
            # All of them are read for one image, or for all of a batch.
            weights = sum(array.nbytes for array in answers.weights) if batch_size == 1 else 0
            bounds = bound(most, batch_size * answers.inference, weights)
            results.append(told(against_fastest("networks-inference", work, times, None, bounds)))
    rows = summary("networks-inference", "inference", results, 1.5)
    if rows:
        slowest = min(results, key=lambda r: r.value)
        rows.append(replace(slowest, work=f"slowest {slowest.work}", target=1.0))
    return rows + results


def busy(s: Session) -> list[Result]:
    """How much slower a training step becomes beside two busy processes: ours, over the least of the peers'."""
    results = []
    for network in chosen(s, SMALL):
        turns = {
            (c.name, others): functools.partial(beside, s, s.other(c, network), network, others)
            for c in trainers(s)
            for others in (0, 2)
        }
        times = interleave(turns, s.rounds)
        factors = {c.name: times[c.name, 2].median / times[c.name, 0].median for c in trainers(s)}
        ours, work = factors.pop(peers.TINYCONV.name), f"beside two busy processes, {network.name}"
        seconds = {f"{name}, {others} others": timing.seconds for (name, others), timing in times.items()}
        columns = {"ours": slower(ours, times, peers.TINYCONV.name), "seconds": seconds}
        if not factors:
            results.append(Result("networks-busy", work, ours, "x", **columns))
            continue
        best = min(factors, key=factors.__getitem__)
        columns["theirs"] = f"{best} {slower(factors[best], times, best)}"
        results.append(told(Result("networks-busy", work, ours / factors[best], "x", 1.0, True, **columns)))
    return results


def beside(s: Session, worker: Worker, network: Network, others: int) -> float:
    with busy_processes(others):
        return s.steps(network, 0.3)(worker)


def slower(factor: float, times: dict[tuple[str, int], Timing], name: str) -> str:
    return f"{factor:.2f} times slower: {times[name, 0]}, then {times[name, 2]}"


def memory(s: Session) -> list[Result]:
    """The most memory of a process that trains each network for a few steps: ours, and the fastest peer's."""
    results = []
    for network in chosen(s, NETWORKS.values()):
        peer = fastest_peer(s, network)
        found, batch = {c.name: most_memory(s, c, network) for c in (peers.TINYCONV, *peer)}, s.sizes(network)[0]
        (empty, ours, predicted), work = found[peers.TINYCONV.name], f"peak memory, {network.name}, batch {batch}"
        if not peer:
            results.append(Result("networks-memory", work, ours, "MB"))
            continue
        empty_peer, theirs, predicted_peer = found[peer[0].name]
        columns = (
            f"{ours:.0f} MB, {empty:.0f} without a network, {predicted:.0f} with a prediction",
            f"{peer[0].name} {theirs:.0f} MB, {empty_peer:.0f}, {predicted_peer:.0f}",
        )
        results.append(told(Result("networks-memory", work, 100 * ours / theirs, "%", 50, True, *columns)))
    return results


def fastest_peer(s: Session, network: Network) -> list[Contender]:
    """The peer that trains it in the least time, as seen before or else by two turns; none if there is no peer."""
    if network.name not in s.fastest:
        turns = {c.name: functools.partial(s.steps(network), s.other(c, network)) for c in trainers(s)[1:]}
        s.fastest[network.name] = fastest_of(interleave(turns, 2))
    return [c for c in trainers(s) if c.name == s.fastest[network.name]]


def most_memory(s: Session, contender: Contender, network: Network) -> tuple[float, float, float]:
    """MB of a new process, which does nothing else: before it is given the network, after some steps, and after the
    outputs of a batch."""
    batch, steps = s.sizes(network)
    with s.start(contender, keep_memory=False) as worker:
        found = [worker.call("peak_memory")]
        s.give(worker, network, batch * steps)
        s.steps(network)(worker)
        found.append(worker.call("peak_memory"))
        worker.call("outputs", samples=batch)
        return tuple(each / MIB for each in (*found, worker.call("peak_memory")))
