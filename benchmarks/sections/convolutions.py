"""Convolutions on their own: each pass of each, unfused."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks import network, peers
from benchmarks.measure import Timing
from benchmarks.peers import Contender
from benchmarks.report import Result
from benchmarks.sections.session import Session, against_fastest, asked


def conv(s: Session) -> list[Result]:
    """Each pass of each convolution, unfused, against PyTorch in its better memory format."""
    contenders = with_torch(s)
    peak = sgemm_peak(s)
    raced: dict[tuple[network.Convolution, str], dict[str, Timing]] = {}
    shapes = [c._replace(N=2) for c in network.CONVOLUTIONS[:2]] if s.quick else network.CONVOLUTIONS
    for shape in shapes:
        check_convolution(s, shape, contenders)
        for what in network.PASSES:
            turn = asked("convolve", shape=shape, what=what, at_least=s.samples(100, 1) / 1000)
            raced[shape, what] = s.race(contenders, turn)
    peak = max(peak, sgemm_peak(s))  # before and after: processors change their clock
    results = []
    for (shape, what), times in raced.items():
        result = against_fastest("conv", f"{what}, {shape.name}", times, 0.8)
        share = share_of_peak(shape.flops / times[peers.TINYCONV.name].median, peak)
        results.append(replace(result, ours=f"{result.ours}, {share}"))
    return conv_summary(s, results, shapes, peak) + results


def share_of_peak(speed: float, peak: float, of: str = "sgemm's") -> str:
    """A speed in FLOP/s, and what share of a peak it is: of :func:`sgemm_peak`, or another."""
    return f"{speed / 1e9:.0f} GFLOP/s, {100 * speed / peak:.0f} % of {of} peak"


def conv_summary(s: Session, results: list[Result], shapes: Sequence[network.Convolution], peak: float) -> list[Result]:
    """The geometric mean, the slowest, and the smallest share of the peak where channels fill whole vectors."""
    lanes = int(s.facts.get("vector lanes", "16"))
    shares = {
        result.work: 100 * shape.flops / statistics.median(result.seconds[peers.TINYCONV.name]) / peak
        for result, shape in zip(results, (shape for shape in shapes for _ in network.PASSES), strict=True)
        if shape.C % lanes == 0 and shape.F % lanes == 0
    }
    rows = []
    if not np.isnan(results[0].value):
        dense = {f"dW, {shape.name}" for shape in shapes if shape.is_dense_3x3}
        dw = [r.value for r in results if r.work in dense]
        work = f"dW of dense 3x3 convolutions, 32 channels and more, geometric mean of {len(dw)}"
        mean, worst = statistics.geometric_mean(r.value for r in results), min(results, key=lambda r: r.value)
        rows.append(Result("conv", f"conv2d, geometric mean of {len(results)}", mean, "x", 1.0, theirs="PyTorch"))
        rows.append(Result("conv", f"conv2d, slowest: {worst.work}", worst.value, "x", 0.8, theirs="PyTorch"))
        rows.append(Result("conv", work, statistics.geometric_mean(dw), "x", 1.6, theirs="PyTorch"))
    if shares:
        low = min(shares, key=shares.__getitem__)
        middle = statistics.median(shares.values())
        machine = f"sgemm, {peak / 1e9:.0f} GFLOP/s"
        rows.append(Result("conv", f"conv2d of whole vectors, lowest: {low}", shares[low], "%", 80, theirs=machine))
        rows.append(Result("conv", "conv2d of whole vectors, median share of peak", middle, "%", theirs=machine))
    return rows


def with_torch(s: Session) -> list[Contender]:
    """tinyconv, and PyTorch in both memory formats: who can be asked for a single operation."""
    return [peers.TINYCONV, *(c for c in s.contenders if c in (peers.TORCH, peers.TORCH_CHANNELS_LAST))]


def sgemm_peak(s: Session) -> float:
    """The machine's speed in FLOP/s: the fastest large matrix product that any of these achieves."""
    size = s.samples(2048, 128)
    times = s.race(with_torch(s), asked("matrix_product", size=size))
    best = min(min(timing.seconds) for timing in times.values())  # the peak is the best, not the usual
    return 2 * size**3 / best


def peak(s: Session) -> float:
    """The machine's own peak in FLOP/s: multiply-adds of numbers that lie in the registers and the nearest cache, where
    no library's product is faster."""
    own = s.race([peers.TINYCONV], asked("multiply_adds")) if s.backend == "cpu" else {}
    return max([sgemm_peak(s), *(2e9 / min(timing.seconds) for timing in own.values())])


def check_convolution(s: Session, shape: network.Convolution, contenders: Sequence[Contender]) -> None:
    """All passes of every contender must equal the reference kernels'."""
    from benchmarks.peers import tiny
    from tinyconv import kernels

    expected, passes = tiny.convolution(kernels.load("reference"), shape)
    passes["forward"]()
    passes["dW and dX"]()
    for contender in contenders:
        found = s.worker(contender).call("convolved", shape=shape)
        for what, array in expected.items():
            error = np.abs(found[what] - array).max() / np.abs(array).max()
            if not error < 1e-4:
                raise AssertionError(
                    f"{contender.name}: {what} of {shape.name} is wrong by {error:.1e} of its maximum."
                )
