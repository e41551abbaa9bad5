"""Modules that only pass calls on to the model inside them."""

from torch import nn

_INSIDE = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",  # of torch.compile
}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside wrappers of PyTorch that compute the same.

    A wrapper with hooks of its own computes something else, and stays; so do classes of users,
    whatever their names.
    """
    kind = type(model)
    inside = _INSIDE.get(f"{kind.__module__}.{kind.__qualname__}")
    if inside is None or model._forward_hooks or model._forward_pre_hooks:
        return model
    return unwrapped(getattr(model, inside))
