"""PyTorch, with the data in one tensor and batches taken by index: what costs least, in the variants people use."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import conv2d

from benchmarks import network
from benchmarks.measure import seconds_per_call
from benchmarks.peers import torch_networks
from benchmarks.peers.base import Peer
from benchmarks.peers.layout import channels_first


class PyTorch(Peer):
    """``channels_last``: the memory format of images and filters; ``compiled``: whether torch.compile makes the step;
    ``fused``: whether Adam is one kernel."""

    packages = ("torch",)

    def __init__(self, threads: int, channels_last: bool = False, compiled: bool = False, fused: bool = True) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiled, self.fused = compiled, fused
        torch._dynamo.config.recompile_limit = 64  # one program for each batch size

    def set_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def build(self, seed: int = 0, dropout: float = network.DROPOUT) -> None:
        torch.manual_seed(seed)
        self.show(self.x)
        self.labels = torch.from_numpy(self.y)
        module = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(1600, 10),
        )
        for parameter, array in zip(module.parameters(), channels_first(network.weights(seed)), strict=True):
            parameter.data = torch.from_numpy(array)
        self.ready(module)

    def show(self, x: np.ndarray) -> None:
        """Digits for the seed's network. With one channel, permute would leave its stride ambiguous."""
        self.images = torch.from_numpy(x).reshape(-1, 1, 28, 28).contiguous(memory_format=self.format)

    def build_other(self, weights: list[np.ndarray]) -> None:
        images = torch_networks.images(self.network, self.x)
        self.images = images.contiguous(memory_format=self.format) if images.ndim == 4 else images
        self.labels = torch.from_numpy(self.y)
        self.ready(torch_networks.module(self.network, weights))

    def ready(self, module: nn.Module) -> None:
        module = module.to(memory_format=self.format)
        self.optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, eps=network.EPSILON, fused=self.fused)
        self.module = torch.compile(module, dynamic=False) if self.compiled else module

    def epoch(self, samples: int, batch_size: int) -> float:
        self.module.train()
        order = torch.randperm(samples)
        total, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for first in range(0, samples, batch_size):
            batch = order[first : first + batch_size]
            labels = self.labels[batch]
            self.optimizer.zero_grad()
            scores = self.module(self.images[batch])
            loss = nn.functional.cross_entropy(scores, labels)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                total += loss * len(batch)
                correct += (scores.argmax(1) == labels).sum()
        return total.item() / samples

    def inference(self, batch_size: int) -> Callable[[], np.ndarray]:
        images = self.images[:batch_size]
        self.module.eval()

        @torch.inference_mode()
        def run() -> np.ndarray:
            return self.module(images).softmax(1).numpy()

        return run

    def outputs(self, samples: int) -> np.ndarray:
        return self.inference(samples)()

    def convolution(self, shape: network.Convolution) -> dict[str, Callable[[], torch.Tensor]]:
        a = shape.arrays()
        x, dout = (to_nchw(a[name]).contiguous(memory_format=self.format) for name in ("x", "dout"))
        w, b = to_oihw(a["w"]).contiguous(memory_format=self.format), torch.from_numpy(a["b"])
        settings = ([shape.stride] * 2, [shape.padding] * 2, [1, 1])

        @torch.inference_mode()
        def forward() -> torch.Tensor:
            return conv2d(x, w, b, *settings)

        def gradients(dx: bool, dw: bool) -> Any:
            rest = (*settings, False, [0, 0], 1)
            return torch.ops.aten.convolution_backward(dout, x, w, [shape.F], *rest, [dx, dw, dw])

        return {
            "forward": forward,
            "dW": lambda: gradients(False, True)[1],
            "dX": lambda: gradients(True, False)[0],
        }

    def convolved(self, shape: network.Convolution) -> dict[str, np.ndarray]:
        order = {"forward": (0, 2, 3, 1), "dW": (2, 3, 1, 0), "dX": (0, 2, 3, 1)}
        return {what: run().permute(order[what]).numpy() for what, run in self.convolution(shape).items()}

    def matrix_product(self, size: int, at_least: float = 0.2) -> float:
        a = torch.ones((size, size))
        return seconds_per_call(lambda: a @ a, at_least)


def to_nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def to_oihw(filters: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(filters).permute(3, 2, 0, 1)
