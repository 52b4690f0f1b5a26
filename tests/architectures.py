"""Every kind of network a person may bring, small: one builder each, with inputs of several batches and lengths.

Weights are random but sane: batch norms hold the statistics of inputs, token embeddings are not near zero. Tests, and
the benchmarks that compare with other backends, iterate over `ARCHITECTURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A net in eval mode and what it is called with.

    inputs(batch, length): keyword inputs; `length` is of the sequence (images ignore it). shapes: (batch, length) of
    three calls, the first the example's. bound: dB of SQNR that int8 with calibration must reach; below 20 where no
    other backend reaches 20 either: the best of them less 1 dB, as `bench/bench_architectures.py` prints it, but for
    those whose comment says why they stay below.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int, int], Inputs]
    shapes: tuple[tuple[int, int], ...]
    bound: float = 20.0

    def net(self) -> nn.Module:
        """The net with its seeded weights, batch norms settled on inputs."""
        torch.manual_seed(0)
        net = self.build()
        torch.manual_seed(1)
        norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if norms:
            for norm in norms:
                norm.momentum = None  # the plain average
                norm.train()
            with torch.no_grad():
                for _ in range(2):
                    net(**self.inputs(16, self.shapes[0][1]))
            for norm in norms:
                norm.momentum = 0.1
        return net.eval()

    def example(self, batch: int, length: int, seed: int = 2) -> Inputs:
        """Seeded inputs."""
        torch.manual_seed(seed)
        return self.inputs(batch, length)

    def calibration(self) -> list[Inputs]:
        """Four batches that no test uses."""
        return [self.example(8, self.shapes[0][1], seed=100 + i) for i in range(4)]


ARCHITECTURES: dict[str, Architecture] = {}

IMAGE_SHAPES = ((2, 0), (1, 0), (3, 0))
SEQUENCE_SHAPES = ((2, 12), (1, 7), (3, 20))


def _images(side: int = 32, channels: int = 3, name: str = "x") -> Callable[[int, int], Inputs]:
    """Smooth images with some noise."""

    def make(batch: int, _: int) -> Inputs:
        coarse = F.interpolate(torch.randn(batch, channels, 5, 5), size=side, mode="bicubic", align_corners=False)
        return {name: coarse + 0.3 * torch.randn(batch, channels, side, side)}

    return make


def _sounds(name: str = "x", samples: int = 800) -> Callable[[int, int], Inputs]:
    def make(batch: int, _: int) -> Inputs:
        return {name: torch.randn(batch, samples)}

    return make


def _tokens(vocabulary: int = 100, *, mask: bool = True) -> Callable[[int, int], Inputs]:
    def make(batch: int, length: int) -> Inputs:
        inputs = {"input_ids": torch.randint(2, vocabulary, (batch, length))}
        if mask:
            lengths = torch.randint(max(length // 2, 1), length + 1, (batch,))
            lengths[0] = length
            inputs["attention_mask"] = (torch.arange(length)[None] < lengths[:, None]).long()
        return inputs

    return make


def _architecture(
    name: str,
    inputs: Callable[[int, int], Inputs],
    shapes: tuple[tuple[int, int], ...] = IMAGE_SHAPES,
    bound: float = 20.0,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def register(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ARCHITECTURES[name] = Architecture(name=name, build=build, inputs=inputs, shapes=shapes, bound=bound)
        return build

    return register


def _transformers(kind: str, config: str = "", **options: Any) -> nn.Module:
    """A net of transformers with random weights."""
    import transformers

    config_class = getattr(transformers, config or f"{kind.removesuffix('Model')}Config")
    net: nn.Module = getattr(transformers, kind)(config_class(**options))
    for module in net.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net


# --------------------------------------------------------------------------------------------------- convolutional nets


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: type[nn.Module] = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), act())


class Classifier(nn.Module):
    """Features, global average, linear."""

    def __init__(self, features: nn.Module, channels: int, classes: int = 10) -> None:
        super().__init__()
        self.features, self.head = features, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.features(x).mean((2, 3)))
        return y


@_architecture("resnet", _images(name="pixel_values"))
def _resnet() -> nn.Module:
    return _transformers(
        "ResNetForImageClassification",
        "ResNetConfig",
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[2, 2],
        num_labels=10,
    )


@_architecture("mobilenet_v2", _images(64, name="pixel_values"), bound=3.6)
def _mobilenet_v2() -> nn.Module:
    return _transformers(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", depth_multiplier=0.25, image_size=64, num_labels=10
    )


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: type[nn.Module], act: type[nn.Module]) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.act = nn.Conv2d(channels, channels // 4, 1), act()
        self.expand, self.gate = nn.Conv2d(channels // 4, channels, 1), gate()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return y


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        act: type[nn.Module],
        gate: type[nn.Module],
        inner: type[nn.Module],
    ) -> None:
        super().__init__()
        wide = 4 * inputs
        self.layers = nn.Sequential(
            ConvUnit(inputs, wide, 1, act=act),
            ConvUnit(wide, wide, 5, stride, groups=wide, act=act),
            SqueezeExcite(wide, gate, inner),
            ConvUnit(wide, outputs, 1, act=nn.Identity),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


@_architecture("mobilenet_v3", _images())
def _mobilenet_v3() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return InvertedResidual(inputs, outputs, stride, nn.Hardswish, nn.Hardsigmoid, nn.ReLU)

    return Classifier(
        nn.Sequential(ConvUnit(3, 16, 3, 2, act=nn.Hardswish), block(16, 24, 2), block(24, 24, 1), block(24, 32, 1)), 32
    )


@_architecture("efficientnet", _images())
def _efficientnet() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        return InvertedResidual(inputs, outputs, stride, nn.SiLU, nn.Sigmoid, nn.SiLU)

    return Classifier(
        nn.Sequential(ConvUnit(3, 16, 3, 2, act=nn.SiLU), block(16, 24, 2), block(24, 24, 1), block(24, 32, 1)), 32
    )


class ShuffleUnit(nn.Module):
    """Half of the channels pass; the other half is convolved; then they are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            ConvUnit(half, half, 1), ConvUnit(half, half, 3, groups=half, act=nn.Identity), ConvUnit(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = x.chunk(2, dim=1)
        y = torch.cat((kept, self.branch(worked)), dim=1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@_architecture("shufflenet", _images())
def _shufflenet() -> nn.Module:
    return Classifier(
        nn.Sequential(
            ConvUnit(3, 32, 3, 2),
            nn.MaxPool2d(3, 2, 1),
            ShuffleUnit(32),
            ShuffleUnit(32),
            nn.ChannelShuffle(4),
            ConvUnit(32, 64, 1),
        ),
        64,
    )


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


@_architecture("densenet", _images())
def _densenet() -> nn.Module:
    transition = nn.Sequential(nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1, bias=False), nn.AvgPool2d(2))
    return Classifier(
        nn.Sequential(
            ConvUnit(3, 16),
            *(DenseLayer(16 + 8 * i, 8) for i in range(3)),
            transition,
            *(DenseLayer(20 + 8 * i, 8) for i in range(2)),
            nn.BatchNorm2d(36),
            nn.ReLU(),
        ),
        36,
    )


class Inception(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = ConvUnit(inputs, 16, 1)
        self.three = nn.Sequential(ConvUnit(inputs, 12, 1), ConvUnit(12, 16, 3))
        self.five = nn.Sequential(ConvUnit(inputs, 8, 1), ConvUnit(8, 8, 5))
        self.wide = nn.Sequential(nn.Conv2d(inputs, 8, (1, 7), padding=(0, 3)), nn.Conv2d(8, 8, (7, 1), padding=(3, 0)))
        self.pool = ConvUnit(inputs, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1)
        return torch.cat([self.one(x), self.three(x), self.five(x), self.wide(x), self.pool(pooled)], 1)


@_architecture("inception", _images())
def _inception() -> nn.Module:
    return Classifier(nn.Sequential(ConvUnit(3, 16, 3, 2), Inception(16), nn.MaxPool2d(3, 2), Inception(56)), 56)


class UNet(nn.Module):
    """Two scales; the way up by a transposed convolution or by interpolation."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down1, self.down2, self.bottom = ConvUnit(3, 16), ConvUnit(16, 32), ConvUnit(32, 32)
        self.up2 = nn.ConvTranspose2d(32, 32, 2, 2) if mode == "transposed" else ConvUnit(32, 32, 1)
        self.up1 = (
            nn.ConvTranspose2d(32, 16, 3, 2, 1, output_padding=1) if mode == "transposed" else ConvUnit(32, 16, 1)
        )
        self.merge2, self.merge1, self.head = ConvUnit(64, 32), ConvUnit(32, 16), nn.Conv2d(16, 4, 1)

    def lift(self, layer: nn.Module, x: Tensor, like: Tensor) -> Tensor:
        y: Tensor = layer(x)
        if self.mode == "transposed":
            return y
        return F.interpolate(
            y, size=like.shape[2:], mode=self.mode, align_corners=True if self.mode == "bilinear" else None
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        y = self.bottom(F.max_pool2d(b, 2))
        y = self.merge2(torch.cat([self.lift(self.up2, y, b), b], 1))
        y = self.merge1(torch.cat([self.lift(self.up1, y, a), a], 1))
        out: Tensor = self.head(y)
        return out


@_architecture("unet_transposed", _images())
def _unet_transposed() -> nn.Module:
    return UNet("transposed")


@_architecture("unet_bilinear", _images())
def _unet_bilinear() -> nn.Module:
    return UNet("bilinear")


@_architecture("unet_nearest", _images())
def _unet_nearest() -> nn.Module:
    return UNet("nearest")


class SegNet(nn.Module):
    """Badrinarayanan et al. 2017: the decoder puts values back to where the encoder's maxima were."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.down = nn.ModuleList([ConvUnit(3, 24), ConvUnit(24, 32), ConvUnit(32, 48)])
        self.up = nn.ModuleList([ConvUnit(48, 32), ConvUnit(32, 24), ConvUnit(24, 24)])
        self.head = nn.Conv2d(24, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        places = []
        for unit in self.down:
            x, where = F.max_pool2d(unit(x), 2, return_indices=True)
            places.append(where)
        for unit in self.up:
            x = unit(F.max_unpool2d(x, places.pop(), 2))
        out: Tensor = self.head(x)
        return out


@_architecture("segnet", _images(), bound=10.0)  # near maxima change places: noise of 40 dB a layer leaves 11.6 dB
def _segnet() -> nn.Module:
    return SegNet()


class SpatialTransformer(nn.Module):
    """Jaderberg et al. 2015: a small net says how to turn the image before it is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.locate = nn.Sequential(ConvUnit(3, 16, stride=2), ConvUnit(16, 16, stride=2), nn.Flatten())
        self.turn = nn.Sequential(nn.Linear(16 * 64, 32), nn.ReLU(), nn.Linear(32, 6))
        self.classify = Classifier(nn.Sequential(ConvUnit(3, 24), ConvUnit(24, 32, stride=2)), 32)
        last = self.turn[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.02)
        last.bias.data = torch.tensor([1.0, 0, 0, 0, 1, 0])

    def forward(self, x: Tensor) -> Tensor:
        theta = self.turn(self.locate(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        out: Tensor = self.classify(F.grid_sample(x, grid, align_corners=False))
        return out


@_architecture("spatial_transformer", _images())
def _spatial_transformer() -> nn.Module:
    return SpatialTransformer()


class Detector(nn.Module):
    """A feature pyramid with a shared head on each level: a dict of boxes, scores and the levels' maps."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.c2, self.c3 = ConvUnit(3, 16, 3, 2), ConvUnit(16, 32, 3, 2), ConvUnit(32, 64, 3, 2)
        self.lateral = nn.ModuleList([nn.Conv2d(32, 32, 1), nn.Conv2d(64, 32, 1)])
        self.smooth = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1) for _ in range(2)])
        self.tower = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU())
        self.boxes, self.scores = nn.Conv2d(32, 4 * 3, 3, padding=1), nn.Conv2d(32, 5 * 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        c2 = self.c2(self.stem(x))
        c3 = self.c3(c2)
        p3 = self.lateral[1](c3)
        p2 = self.lateral[0](c2) + F.interpolate(p3, scale_factor=2.0, mode="nearest")
        levels = [smooth(p) for smooth, p in zip(self.smooth, (p2, p3), strict=True)]
        towers = [self.tower(level) for level in levels]
        boxes = [self.boxes(t).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 4) for t in towers]
        scores = [self.scores(t).permute(0, 2, 3, 1).reshape(x.shape[0], -1, 5) for t in towers]
        return {"boxes": torch.cat(boxes, 1).exp(), "scores": torch.cat(scores, 1).sigmoid(), "levels": tuple(levels)}


@_architecture("fpn_detector", _images())
def _fpn_detector() -> nn.Module:
    return Detector()


@_architecture("convnext", _images(name="pixel_values"))
def _convnext() -> nn.Module:
    return _transformers(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        hidden_sizes=[16, 32, 32, 64],
        depths=[1, 1, 2, 1],
        num_labels=10,
        layer_scale_init_value=0.5,
    )


@_architecture("efficientnet", _images(name="pixel_values"))
def _efficientnet() -> nn.Module:
    """Its last pool has a window wider than any image: ceil_mode cuts it off."""
    return _transformers(
        "EfficientNetModel",
        width_coefficient=0.25,
        hidden_dim=320,
        depth_coefficient=0.5,
        in_channels=[32, 16, 24],
        out_channels=[16, 24, 40],
        kernel_sizes=[3, 5, 3],
        strides=[1, 2, 2],
        expand_ratios=[1, 6, 4],
        num_block_repeats=[1, 2, 2],
        depthwise_padding=[],
    )


class Keyworded(nn.Module):
    """Lets a net whose parameter has another name be called with `x`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


@_architecture("super_resolution", _images(16))
def _super_resolution() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2, padding_mode="reflect"),
        nn.PReLU(32),
        nn.Conv2d(32, 32, 3, padding=1, padding_mode="replicate"),
        nn.LeakyReLU(0.1),
        nn.Conv2d(32, 12, 3, padding=1),
        nn.PixelShuffle(2),
    )
    return Keyworded(layers)


@_architecture("vgg", _images())
def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2, 2)] if inputs == 16 else []
    head = [
        nn.AdaptiveAvgPool2d(7),
        nn.Flatten(),
        nn.Linear(32 * 49, 64),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(64, 10),
    ]
    return Keyworded(nn.Sequential(*layers, *head))


class AudioNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(1, 16, 11, 4, 5),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.MaxPool1d(4),
            nn.Conv1d(16, 32, 3, padding=2, dilation=2),
            nn.BatchNorm1d(32),
            nn.ELU(),
            nn.AvgPool1d(2),
            nn.Conv1d(32, 32, 3, padding=1, groups=32),
            nn.Conv1d(32, 64, 1),
            nn.GELU(),
            nn.AdaptiveAvgPool1d(1),
        )
        self.head = nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.head(self.layers(x.unsqueeze(1)).squeeze(-1)), dim=-1)


@_architecture("audio_cnn", _sounds())
def _audio_cnn() -> nn.Module:
    return AudioNet()


def _volumes(batch: int, _: int) -> Inputs:
    return {"x": F.interpolate(torch.randn(batch, 1, 3, 4, 4), size=(6, 12, 12), mode="trilinear")}


@_architecture("video_cnn", _volumes)
def _video_cnn() -> nn.Module:
    return Keyworded(
        nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 16, (1, 3, 3)),
            nn.InstanceNorm3d(16, affine=True),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Linear(16, 5),
        )
    )


# --------------------------------------------------------------------------------------------------------- transformers

_SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}


@_architecture("bert", _tokens(), SEQUENCE_SHAPES)
def _bert() -> nn.Module:
    return _transformers("BertModel", vocab_size=100, max_position_embeddings=64, **_SMALL)


@_architecture("distilbert", _tokens(), SEQUENCE_SHAPES)
def _distilbert() -> nn.Module:
    return _transformers(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        vocab_size=100,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=96,
        max_position_embeddings=64,
    )


@_architecture("roberta", _tokens(), SEQUENCE_SHAPES)
def _roberta() -> nn.Module:
    return _transformers(
        "RobertaForTokenClassification",
        "RobertaConfig",
        vocab_size=100,
        max_position_embeddings=64,
        pad_token_id=1,
        **_SMALL,
    )


@_architecture("vit", _images(name="pixel_values"))
def _vit() -> nn.Module:
    return _transformers("ViTForImageClassification", "ViTConfig", image_size=32, patch_size=8, num_labels=10, **_SMALL)


@_architecture("swin", _images(name="pixel_values"))
def _swin() -> nn.Module:
    return _transformers(
        "SwinForImageClassification",
        "SwinConfig",
        image_size=32,
        patch_size=2,
        embed_dim=24,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    )


@_architecture("mobilevit", _images(64, name="pixel_values"), bound=7.0)
def _mobilevit() -> nn.Module:
    return _transformers(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        image_size=64,
        patch_size=2,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 16, 16, 24, 24, 32, 64],
        num_attention_heads=4,
        mlp_ratio=2.0,
        num_labels=10,
    )


@_architecture("gpt2", _tokens(), SEQUENCE_SHAPES)
def _gpt2() -> nn.Module:
    return _transformers(
        "GPT2LMHeadModel", "GPT2Config", vocab_size=100, n_positions=64, n_embd=48, n_layer=2, n_head=4, use_cache=False
    )


@_architecture("llama", _tokens(), SEQUENCE_SHAPES)
def _llama() -> nn.Module:
    return _transformers(
        "LlamaForCausalLM",
        "LlamaConfig",
        vocab_size=100,
        num_key_value_heads=2,
        max_position_embeddings=64,
        use_cache=False,
        **_SMALL,
    )


@_architecture("t5_encoder", _tokens(), SEQUENCE_SHAPES)
def _t5_encoder() -> nn.Module:
    return _transformers(
        "T5EncoderModel",
        "T5Config",
        vocab_size=100,
        d_model=48,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        use_cache=False,
    )


class WhisperEncoder(nn.Module):
    """The encoder alone, with its output object."""

    def __init__(self) -> None:
        super().__init__()
        net = _transformers(
            "WhisperModel",
            vocab_size=100,
            d_model=48,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            num_mel_bins=16,
            max_source_positions=30,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        self.encoder = net.get_encoder()

    def forward(self, input_features: Tensor) -> Any:
        return self.encoder(input_features)


@_architecture("whisper_encoder", lambda batch, _: {"input_features": torch.randn(batch, 16, 60)})
def _whisper_encoder() -> nn.Module:
    return WhisperEncoder()


@_architecture("wav2vec2", _sounds("input_values"))
def _wav2vec2() -> nn.Module:
    return _transformers(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        vocab_size=20,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 2),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **_SMALL,
    )


def _pairs(batch: int, length: int) -> Inputs:
    return {**_tokens()(batch, length), **_images(name="pixel_values")(batch, 0)}


@_architecture("clip", _pairs, SEQUENCE_SHAPES)
def _clip() -> nn.Module:
    import transformers

    config = transformers.CLIPConfig(
        text_config={"vocab_size": 100, "max_position_embeddings": 64, "eos_token_id": 99, **_SMALL},
        vision_config={"image_size": 32, "patch_size": 8, **_SMALL},
        projection_dim=24,
    )
    return transformers.CLIPModel(config)


@_architecture(
    "torch_transformer",
    lambda batch, length: {
        "source": torch.randint(0, 50, (batch, length)),
        "target": torch.randint(0, 50, (batch, length)),
    },
    SEQUENCE_SHAPES,
)
def _torch_transformer() -> nn.Module:
    return Translator()


class Translator(nn.Module):
    """nn.Transformer between an embedding and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.transformer = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        y: Tensor = self.head(
            self.transformer(self.embed(source), self.embed(target), tgt_mask=causal, tgt_is_causal=True)
        )
        return y


# ------------------------------------------------------------------------------------------------------------ recurrent


class Tagger(nn.Module):
    """Embedding, a bidirectional recurrent net of two layers, a tag for each token."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 24)
        self.rnn = kind(24, 32, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
        self.head = nn.Linear(64, 9)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Any]:
        y, state = self.rnn(self.embed(input_ids))
        return self.head(y), state


@_architecture("lstm_tagger", _tokens(mask=False), SEQUENCE_SHAPES)
def _lstm_tagger() -> nn.Module:
    return Tagger(nn.LSTM)


@_architecture("gru_tagger", _tokens(mask=False), SEQUENCE_SHAPES)
def _gru_tagger() -> nn.Module:
    return Tagger(nn.GRU)


class Crnn(nn.Module):
    """Text in images: convolutions down to one row, a BiLSTM along it, log-probabilities for CTC [T, N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvUnit(1, 16),
            nn.MaxPool2d(2),
            ConvUnit(16, 32),
            nn.MaxPool2d((2, 1)),
            ConvUnit(32, 32),
            nn.MaxPool2d((4, 1)),
        )
        self.rnn, self.head = nn.LSTM(32, 24, bidirectional=True), nn.Linear(48, 11)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.features(x).squeeze(2).permute(2, 0, 1)
        return F.log_softmax(self.head(self.rnn(rows)[0]), dim=2)


@_architecture("crnn", lambda batch, _: {"x": F.interpolate(torch.randn(batch, 1, 4, 12), (16, 48), mode="bilinear")})
def _crnn() -> nn.Module:
    return Crnn()


class LogMel(nn.Module):
    """Sound [N, samples] to the log of its energy in bands, as torchaudio and Whisper do; convolutions and a GRU."""

    def __init__(self, size: int = 64, hop: int = 24, bands: int = 16, width: int = 32) -> None:
        super().__init__()
        self.size, self.hop = size, hop
        self.register_buffer("window", torch.hann_window(size))
        peaks = torch.linspace(0, size // 2, bands + 2)
        places = torch.arange(size // 2 + 1.0)[:, None]
        rise, fall = (places - peaks[:-2]) / peaks.diff()[:-1], (peaks[2:] - places) / peaks.diff()[1:]
        self.register_buffer("bank", torch.minimum(rise, fall).clamp(min=0))
        self.convs = nn.Sequential(
            nn.Conv1d(bands, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, width, 3, 2, padding=1), nn.GELU()
        )
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, 12)

    def forward(self, x: Tensor) -> Tensor:
        window: Any = self.window
        spectrum = torch.stft(x, self.size, self.hop, window=window, return_complex=True)
        energy = spectrum.abs() ** 2
        bands = (energy.transpose(1, 2) @ self.bank).clamp(min=1e-10).log10().transpose(1, 2)
        bands = (torch.maximum(bands, bands.amax((1, 2), keepdim=True) - 8) + 4) / 4
        states, _ = self.gru(self.convs(bands).transpose(1, 2))
        logits: Tensor = self.head(states).log_softmax(-1)
        return logits


@_architecture("log_mel", _sounds(), shapes=IMAGE_SHAPES)
def _log_mel() -> nn.Module:
    return LogMel()


class DeepSpeech(nn.Module):
    """Spectrograms [N, 1, bins, time]: convolutions, GRUs whose directions are summed, a letter for each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, (11, 5), stride=(2, 2), padding=(5, 2)),
            nn.BatchNorm2d(8),
            nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(8, 8, (5, 5), stride=(2, 1), padding=(2, 2)),
            nn.BatchNorm2d(8),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.rnns = nn.ModuleList([nn.GRU(48, 48, bidirectional=True), nn.GRU(48, 48, bidirectional=True)])
        self.norm, self.head = nn.BatchNorm1d(48), nn.Linear(48, 29, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        n, c, bins, t = y.shape
        y = y.view(n, c * bins, t).permute(2, 0, 1)
        for rnn in self.rnns:
            y = rnn(y)[0].view(t, n, 2, -1).sum(2)
        y = self.norm(y.reshape(t * n, -1)).view(t, n, -1)
        return self.head(y).transpose(0, 1).softmax(-1)


@_architecture(
    "deepspeech", lambda batch, _: {"x": F.interpolate(torch.randn(batch, 1, 6, 10), (24, 40), mode="bilinear")}
)
def _deepspeech() -> nn.Module:
    return DeepSpeech()


# --------------------------------------------------------------------------------------------------------- recommenders


class Dlrm(nn.Module):
    """Dense features and bags of ids; pairwise dot products of their vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList([nn.EmbeddingBag(50, 64, mode="sum") for _ in range(3)])
        self.bottom = nn.Sequential(nn.Linear(13, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(64 + 6, 256), nn.ReLU(), nn.Linear(256, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        x = self.bottom(dense)
        vectors = torch.stack([x, *(bag(ids[:, i]) for i, bag in enumerate(self.bags))], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        row, column = torch.tril_indices(4, 4, offset=-1)
        y: Tensor = self.top(torch.cat([x, products[:, row, column]], dim=1))
        return y


@_architecture(
    "dlrm",
    lambda batch, _: {"dense": torch.randn(batch, 13), "ids": torch.randint(0, 50, (batch, 3, 4))},
    ((2, 0), (1, 0), (9, 0)),
)
def _dlrm() -> nn.Module:
    return Dlrm()


class DeepFM(nn.Module):
    """A factorization machine beside a deep net on the same embeddings."""

    def __init__(self, fields: int = 5, size: int = 40) -> None:
        super().__init__()
        self.register_buffer("offsets", torch.arange(fields) * size)
        self.first, self.second = nn.Embedding(fields * size, 1), nn.Embedding(fields * size, 32)
        self.deep = nn.Sequential(nn.Linear(fields * 32, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.normal_(self.first.weight, std=0.2)
        nn.init.normal_(self.second.weight, std=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        ids = ids + self.offsets
        v = self.second(ids)
        pairs = 0.5 * (v.sum(1).pow(2) - v.pow(2).sum(1)).sum(1, keepdim=True)
        return torch.sigmoid(self.bias + self.first(ids).sum(1) + pairs + self.deep(v.flatten(1))).squeeze(1)


@_architecture("deepfm", lambda batch, _: {"ids": torch.randint(0, 40, (batch, 5))}, ((2, 0), (1, 0), (9, 0)))
def _deepfm() -> nn.Module:
    return DeepFM()


class Ncf(nn.Module):
    """Neural collaborative filtering: a product of embeddings beside a multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.user_gmf, self.item_gmf = nn.Embedding(30, 8), nn.Embedding(60, 8)
        self.user_mlp, self.item_mlp = nn.Embedding(30, 64), nn.Embedding(60, 64)
        self.mlp = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
        self.head = nn.Linear(136, 1)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        gmf = self.user_gmf(user) * self.item_gmf(item)
        mlp = self.mlp(torch.cat([self.user_mlp(user), self.item_mlp(item)], dim=-1))
        y: Tensor = self.head(torch.cat([gmf, mlp], dim=-1)).squeeze(-1)
        return y


@_architecture(
    "ncf",
    lambda batch, _: {"user": torch.randint(0, 30, (batch,)), "item": torch.randint(0, 60, (batch,))},
    ((2, 0), (1, 0), (9, 0)),
)
def _ncf() -> nn.Module:
    return Ncf()


class MaskedEncoder(nn.Module):
    """An encoder with each kind of mask: made for the length, a part of a buffer, and an input of padding."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def encoder() -> nn.Module:
            return nn.TransformerEncoder(nn.TransformerEncoderLayer(width, 4, 64, batch_first=True), 1)

        self.causal, self.local, self.padded = encoder(), encoder(), encoder()
        self.near: Tensor
        distance = (torch.arange(64)[None] - torch.arange(64)[:, None]).abs()
        self.register_buffer("near", torch.zeros(64, 64).masked_fill(distance > 5, float("-inf")))

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        length = x.shape[1]
        x = self.causal(x, mask=nn.Transformer.generate_square_subsequent_mask(length))
        x = self.local(x, mask=self.near[:length, :length])
        ahead = torch.ones(length, length, dtype=torch.bool).triu(4)
        return self.padded(x, mask=ahead, src_key_padding_mask=padding)  # type: ignore[no-any-return]


def _padded_steps(batch: int, length: int) -> Inputs:
    lengths = torch.randint(max(length // 2, 1), length + 1, (batch,))
    return {"x": torch.randn(batch, length, 32), "padding": torch.arange(length)[None] >= lengths[:, None]}


@_architecture("masked_encoder", _padded_steps, SEQUENCE_SHAPES)
def _masked_encoder() -> nn.Module:
    return MaskedEncoder()


class GraphNet(nn.Module):
    """Two graph convolutions (Kipf and Welling, 2017): messages are gathered along edges and added where they lead."""

    def __init__(self, features: int = 16, hidden: int = 64, classes: int = 7) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(features, hidden), nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[:, 0], edges[:, 1]
        ones = torch.ones_like(source, dtype=x.dtype)
        degree = torch.ones(x.shape[:2]).scatter_add(1, target, ones).rsqrt()
        for layer in (self.first, self.second):
            h = layer(x) * degree.unsqueeze(-1)
            messages = h.gather(1, source.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
            h = h.scatter_add(1, target.unsqueeze(-1).expand(-1, -1, h.shape[-1]), messages)
            x = F.relu(h * degree.unsqueeze(-1))
        return self.head(x)  # type: ignore[no-any-return]


@_architecture(
    "graph_convolution",
    lambda batch, _: {"x": torch.randn(batch, 10, 16), "edges": torch.randint(0, 10, (batch, 2, 24))},
)
def _graph_convolution() -> nn.Module:
    return GraphNet()


class BagOfWords(nn.Module):
    """An MLP on the mean of words, as fastText's, and on their weighted sum."""

    def __init__(self, words: int = 200, width: int = 64, classes: int = 5) -> None:
        super().__init__()
        self.mean = nn.EmbeddingBag(words, width, mode="mean")
        self.sum = nn.EmbeddingBag(words, width, mode="sum")
        self.layers = nn.Sequential(
            nn.Linear(2 * width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, classes)
        )

    def forward(self, words: Tensor, weights: Tensor) -> Tensor:
        bags = self.mean(words), self.sum(words, per_sample_weights=weights)
        return self.layers(torch.cat(bags, -1))  # type: ignore[no-any-return]


@_architecture(
    "embedding_bag",
    lambda batch, length: {"words": torch.randint(0, 200, (batch, length)), "weights": torch.rand(batch, length)},
    SEQUENCE_SHAPES,
)
def _embedding_bag() -> nn.Module:
    return BagOfWords()


class Siamese(nn.Module):
    """Two images through one encoder: how far apart they are, and their cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.encoder(first), self.encoder(second)
        return F.pairwise_distance(a, b), F.cosine_similarity(a, b)


@_architecture("siamese", lambda batch, _: {**_images(name="first")(batch, _), **_images(name="second")(batch, _)})
def _siamese() -> nn.Module:
    return Siamese()
