"""Models as people write them in PyTorch, with random weights: small, but with every part."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions with batch norm, and a way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, width, H, W]."""
        return F.relu(x + self.body(x))


class Recurrent(nn.Module):
    """The last state of a recurrent net, classified."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 3] for [N, steps, 4]."""
        return self.head(self.cells(x)[0][:, -1])


class Encoder(nn.Module):
    """Patches of an image, two blocks of attention, and the mean over places."""

    def __init__(self, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 4, 16))
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, 0.1, activation, batch_first=True, norm_first=norm_first
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 3] for [N, 1, 8, 8]."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(tokens).mean(1))


class Shrinking(nn.Module):
    """A small U-Net with bilinear enlargement, and one number at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(5, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, 3] for [N, 1, 8, 8]."""
        small = F.max_pool2d(F.relu(self.down(x)), 2)
        large = F.interpolate(small, scale_factor=2, mode="bilinear")
        return self.head(F.silu(self.up(torch.cat([x, large], 1))).mean((2, 3)))


class Chosen(nn.Module):
    """A logit as `squeeze` leaves it: [N]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return [N] for [N, 6]."""
        return self.net(x).squeeze(-1)


def _resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Residual(8), nn.MaxPool2d(2),
        Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def _mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.GroupNorm(2, 8), nn.GELU(),
        nn.Conv2d(8, 12, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


def _table() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm1d(6), nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Dropout(0.2),
        nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 3),
    )  # fmt: skip


def _made(
    make: Callable[[], nn.Module], *shape: int
) -> Callable[[], tuple[nn.Module, Tensor, None]]:
    def load() -> tuple[nn.Module, Tensor, None]:
        torch.manual_seed(0)
        return make().eval(), torch.rand(1, *shape), None

    return load


EVERYDAY: Mapping[str, Callable[[], tuple[nn.Module, Tensor, None]]] = {
    "MLP, one logit [N, 1]": _made(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1)), 6
    ),
    "MLP, one logit [N]": _made(Chosen, 6),
    "MLP with layer norm": _made(_table, 6),
    "MLP with softmax": _made(
        lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3), nn.Softmax(1)), 6
    ),
    "ResNet with batch norm": _made(_resnet, 3, 8, 8),
    "MobileNet-like": _made(_mobile, 3, 16, 16),
    "U-Net, bilinear": _made(Shrinking, 1, 8, 8),
    "RNN": _made(lambda: Recurrent(nn.RNN), 5, 4),
    "GRU": _made(lambda: Recurrent(nn.GRU), 5, 4),
    "LSTM": _made(lambda: Recurrent(nn.LSTM), 5, 4),
    "ViT, norm first, GELU": _made(lambda: Encoder(True, "gelu"), 1, 8, 8),
    "transformer, norm last, ReLU": _made(lambda: Encoder(False, "relu"), 1, 8, 8),
}
"""Name, and how to make the model with one row."""
