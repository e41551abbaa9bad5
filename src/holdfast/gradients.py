"""Derivatives, whatever the caller has switched off."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def with_gradients() -> Iterator[None]:
    """Have PyTorch record derivatives inside, also under its `no_grad` and `inference_mode`.

    Bounds are computed with derivatives, so that a verb answers there what it answers elsewhere.
    Tensors made in inference mode stay without them; `check_tensor` copies those that come in.

    Yields:
        Once.
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield
