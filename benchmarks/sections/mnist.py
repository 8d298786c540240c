"""The seed's network: its epoch, inference, other batches, fewer threads, a busy machine."""

import functools

from benchmarks import network, peers
from benchmarks.measure import Timing, interleave
from benchmarks.peers import Contender
from benchmarks.report import Result
from benchmarks.sections.session import BATCH, PART, Session, against_fastest, asked, busy_processes


def epoch(s: Session) -> list[Result]:
    """One epoch. All qualify on a ninth of it; the full epoch is for those that may be the fastest."""
    part, whole = s.samples(PART), s.samples(network.TRAINING_SAMPLES)
    contenders = [peers.TINYCONV, *s.trainers]
    qualifying = s.train(contenders, part, BATCH)
    fastest = min((t.median for name, t in qualifying.items() if name != peers.TINYCONV.name), default=0)
    final = s.finalists = [c for c in contenders if c is peers.TINYCONV or qualifying[c.name].median < 1.3 * fastest]
    results = []
    for contender in contenders:
        if contender not in final:
            scaled = Timing(tuple(t * whole / part for t in qualifying[contender.name].seconds))
            work = f"an epoch of {contender.name}, from {part:,} images"
            times = {contender.name: scaled.seconds}
            results.append(Result("epoch", work, scaled.median, "s", theirs=str(scaled), seconds=times))
    before = {c.name: s.worker(c).call("processor_seconds") for c in final}
    times = s.train(final, whole, BATCH)
    for contender in final:
        timing = times[contender.name]
        used = (s.worker(contender).call("processor_seconds") - before[contender.name]) / s.rounds
        text = f"{timing}, {used:.1f} s of processor time"
        where = {"ours" if contender is peers.TINYCONV else "theirs": text}
        runs = {contender.name: timing.seconds}
        results.append(Result("epoch", f"an epoch of {contender.name}", timing.median, "s", **where, seconds=runs))
    return [against_fastest("epoch", f"training epoch, {whole:,} images, batch {BATCH}", times, 8.0), *results]


def inference(s: Session) -> list[Result]:
    """``model(x)`` for a batch."""
    contenders = [peers.TINYCONV, *(c for c in s.contenders if c.infers)]
    at_least = s.samples(200, 1) / 1000
    results = []
    for batch_size in (1, 32, 1000):
        size = min(batch_size, s.samples(batch_size, 64))
        times = s.race(contenders, asked("infer", batch_size=size, at_least=at_least))
        results.append(against_fastest("inference", f"inference, batch {size}", times, 1.5))
    return results


def batches(s: Session) -> list[Result]:
    """Training at other batch sizes. Those that compile for each take part only if they were fast at the epoch."""
    slow_starters = (peers.KERAS_JAX, peers.TORCH_COMPILED)
    contenders = [peers.TINYCONV, *(c for c in s.trainers if c not in slow_starters or c in s.finalists)]
    results = []
    for batch_size in (16, 32, 512, 4096):
        samples = s.samples(max(2048, 2 * batch_size))
        size = min(batch_size, samples // 2)
        times = s.train(contenders, samples, size)
        results.append(against_fastest("batches", f"training at batch {size}, {samples:,} images", times, 3.0))
    return results


def threads(s: Session) -> list[Result]:
    """An epoch on one thread, and on all; and, for what the machine allows, a large product of matrices."""
    if s.threads == 1:
        s.remark("threads: one thread cannot be compared with more")
        return []
    s.warm_up(peers.TINYCONV, BATCH, s.samples(PART))
    samples, size = s.samples(network.TRAINING_SAMPLES), s.samples(2048, 128)

    def turn(contender: Contender, count: int) -> float:
        worker = s.worker(contender)
        worker.call("set_threads", threads=count)
        try:
            if contender is peers.TINYCONV:
                return worker.call("train", samples=samples, batch_size=BATCH)[0]
            return worker.call("matrix_product", size=size)
        finally:
            worker.call("set_threads", threads=s.threads)

    who = [peers.TINYCONV, *(c for c in s.contenders if c is peers.TORCH)]
    turns = {(c.name, n): functools.partial(turn, c, n) for c in who for n in (s.threads, 1)}
    times = interleave(turns, s.rounds)
    results = []
    for contender in who:
        many, one = times[contender.name, s.threads], times[contender.name, 1]
        value, seconds = one.median / many.median, {"all": many.seconds, "one": one.seconds}
        work, target, ours = f"{s.threads} threads against one, epoch", 0.9 * s.threads, str(many)
        theirs = f"one thread {one}"
        if contender is peers.TORCH:
            work, target = f"{s.threads} threads against one, a matrix product by PyTorch, {size} x {size}", None
            ours, theirs = "", f"{many}, {theirs}"
        results.append(Result("threads", work, value, "x", target, ours=ours, theirs=theirs, seconds=seconds))
    return results


def busy(s: Session) -> list[Result]:
    """An epoch while another process keeps one processor busy."""
    s.warm_up(peers.TINYCONV, BATCH, s.samples(PART))
    worker, samples = s.worker(peers.TINYCONV), s.samples(network.TRAINING_SAMPLES)

    def turn(others: int) -> float:
        with busy_processes(others):
            return worker.call("train", samples=samples, batch_size=BATCH)[0]

    times = interleave({"quiet": lambda: turn(0), "beside": lambda: turn(1)}, s.rounds)
    value = times["beside"].median / times["quiet"].median
    seconds = {name: timing.seconds for name, timing in times.items()}
    ours, theirs = str(times["beside"]), f"its quiet time {times['quiet']}"
    return [Result("busy", "beside one busy process, epoch", value, "x", 2.5, True, ours, theirs, seconds)]
