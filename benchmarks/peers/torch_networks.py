"""The networks of ``benchmarks/networks.py`` in PyTorch, without the softmax at their end: its loss takes scores."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from benchmarks import networks
from benchmarks.networks import CLASSES, EPSILON, MOMENTUM


def normalised(before: int, channels: int, size: int, strides: int = 1, bias: bool = False) -> list[nn.Module]:
    """Convolution and batch normalisation. PyTorch's momentum is the share of what is new, Keras' of what was."""
    conv = nn.Conv2d(before, channels, size, strides, size // 2, bias=bias)
    return [conv, nn.BatchNorm2d(channels, eps=EPSILON, momentum=1 - MOMENTUM)]


def relu() -> nn.Module:
    """Nothing needs what it overwrites."""
    return nn.ReLU(inplace=True)


def vgg() -> nn.Module:
    body: list[nn.Module] = []
    before = 3
    for channels in (64, 128, 256):
        for _ in range(2):
            body += [*normalised(before, channels, 3, bias=True), relu()]
            before = channels
        body.append(nn.MaxPool2d(2))
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(256 * 4 * 4, CLASSES))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, CLASSES),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 512), relu(), nn.Linear(512, 512), relu(), nn.Linear(512, CLASSES))


def tutorial() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3),
        relu(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        relu(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        relu(),
        nn.Flatten(),
        nn.Linear(1024, 64),
        relu(),
        nn.Linear(64, CLASSES),
    )


def strided() -> nn.Module:
    body: list[nn.Module] = []
    for before, channels in ((3, 32), (32, 64), (64, 128)):
        body += [nn.Conv2d(before, channels, 3, 2, 1), relu()]
    return nn.Sequential(*body, *mean_and_dense(128))


def mean_and_dense(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


class Residual(nn.Module):
    """relu(f(x) + x). The parts stand in the order in which Keras lists a model's layers: by depth."""

    def __init__(self, before: int, channels: int, strides: int) -> None:
        super().__init__()
        conv1, norm1 = normalised(before, channels, 3, strides)
        self.first = nn.Sequential(conv1, norm1, relu())
        self.conv2, norm2 = normalised(channels, channels, 3)
        self.pool: nn.Module = nn.Identity()
        self.conv3: nn.Module = nn.Identity()
        norm3: nn.Module = nn.Identity()
        if strides > 1:
            self.pool = nn.AvgPool2d(strides)
            self.conv3, norm3 = normalised(before, channels, 1)
        self.norm2, self.norm3 = norm2, norm3

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norm2(self.conv2(self.first(x)))
        return torch.relu_(inner + self.norm3(self.conv3(self.pool(x))))


def resnet() -> nn.Module:
    blocks = [Residual(*settings) for settings in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
    return nn.Sequential(*normalised(3, 16, 3), relu(), *blocks, *mean_and_dense(64))


def stem() -> nn.Module:
    begin = [*normalised(3, 64, 7, 2), relu(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*begin, Residual(64, 64, 1), *mean_and_dense(64))


def module(network: networks.Network, weights: Sequence[np.ndarray]) -> nn.Module:
    """The network with Keras' weights."""
    made = globals()[network.make.__name__]()
    left = list(weights)

    def take(parameter: torch.Tensor, order: Sequence[int] = (0,)) -> None:
        array = np.ascontiguousarray(left.pop(0).transpose(order))
        assert parameter.shape == array.shape, f"{network.name}: {tuple(parameter.shape)} against {array.shape}"
        parameter.data = torch.from_numpy(array)

    channels = 0
    for part in made.modules():
        if isinstance(part, nn.Conv2d):
            if network.mirrored:
                left[0] = left[0][::-1, ::-1]
            take(part.weight, (3, 2, 0, 1))
            channels = part.out_channels
        elif isinstance(part, nn.Linear):
            if channels:  # what is flattened has its channels first
                rows = left[0].reshape(-1, channels, part.out_features)
                left[0] = rows.swapaxes(0, 1).reshape(part.in_features, part.out_features)
            take(part.weight, (1, 0))
            channels = 0
        elif isinstance(part, nn.BatchNorm2d):
            take(part.weight)
        else:
            continue
        if part.bias is not None:
            take(part.bias)
        if isinstance(part, nn.BatchNorm2d):
            take(part.running_mean)
            take(part.running_var)
    assert not left, f"{network.name}: {len(left)} weights too many."
    return made


def images(network: networks.Network, x: np.ndarray) -> torch.Tensor:
    """The same images, channels first."""
    if x.ndim == 2:
        return torch.from_numpy(x)
    x = x[:, ::-1, ::-1] if network.mirrored else x
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
