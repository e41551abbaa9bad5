"""Evaluating a loss in the middle of somebody's training, and leaving no trace of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def undisturbed(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Put random state and buffers back as they were, also when the evaluation fails.

    Every module that runs inside works on copies of its buffers (running statistics, counters,
    power iterations); its own buffers are not written to. Attention uses the kernel that can be
    differentiated twice.

    Args:
        parameters: They say whose devices' random state is kept.

    Yields:
        Once.
    """
    lent: dict[nn.Module, dict[str, Tensor | None]] = {}

    def lend(module: nn.Module, _: object) -> None:
        if module._buffers and module not in lent:
            own = lent[module] = dict(module._buffers)
            copies = {name: None if b is None else b.clone() for name, b in own.items()}
            module._buffers.update(copies)

    devices = {p.device for p in parameters if p.device.type == "cuda"}
    hook = register_module_forward_pre_hook(lend)
    try:
        with (
            torch.random.fork_rng(list(devices)),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        hook.remove()
        for module, own in lent.items():
            module._buffers.update(own)
