"""Time an epoch of tinyconv and of Keras on TensorFlow in turns, in one run, and print the ratio.

    python benchmarks/train_mnist.py
    python benchmarks/train_mnist.py --peer "PyTorch channels_last" --batch-size 32

benchmarks/compare.py does this for all peers, and more.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

if not __package__:  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import network, peers, report
from benchmarks.sections import Session


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    peer = next(peer for peer in peers.PEERS if peer.name == options.peer)
    if peer.missing:
        sys.exit(f"Not installed: {', '.join(peer.missing)}. Fix: pip install -e '.[bench]'")
    print(report.facts_list(report.machine()))
    watch = report.LoadWatch()
    with tempfile.TemporaryDirectory() as folder:
        network.save_data(Path(folder))
        settings = {"threads": options.threads, "rounds": options.rounds, "backend": options.backend}
        with Session(Path(folder), [peer], **settings) as session:
            times = session.train([peers.TINYCONV, peer], options.samples, options.batch_size)
            facts = session.facts | {"threads": str(options.threads)}
    print(report.facts_list(facts | {"other load": watch.share()}))
    rows = [(name, t, f"{options.samples / t.median:,.0f}") for name, t in times.items()]
    print(report.table(("an epoch", "median ± spread", "images/s"), rows, right=(1, 2)))
    ours, theirs = (times[name].median for name in (peers.TINYCONV.name, peer.name))
    print(f"{options.samples:,} images, batch {options.batch_size}, {options.rounds} rounds: "
          f"tinyconv is {theirs / ours:.2f} times as fast as {peer.name}.")  # fmt: skip


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    trainers = [peer.name for peer in peers.PEERS if peer.trains]
    parser.add_argument("--peer", choices=trainers, default=peers.KERAS_TENSORFLOW.name, help="whom to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="epochs of each, in turns")
    parser.add_argument("--samples", type=int, default=network.TRAINING_SAMPLES, help="images in an epoch")
    parser.add_argument("--batch-size", type=int, default=128, help="images in a training step")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for both")
    parser.add_argument("--backend", default="cpu", help="tinyconv's kernels")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
