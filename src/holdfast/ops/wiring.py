"""Records of operations that only move entries."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from holdfast.ops.geometry import pad
from holdfast.ops.record import Evaluate, Kind, Op, Params


def _cat(inputs: Sequence[Tensor], params: Params) -> Tensor:
    batch = max(part.shape[0] for part in inputs)
    parts = [part.expand(batch, *part.shape[1:]) for part in inputs]
    return torch.cat(parts, dim=params["dim"])


def _slice(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    index = [slice(None)] * x.dim()
    index[params["dim"]] = slice(params["start"], params["stop"], params["step"])
    return x[tuple(index)]


def _upsample_nearest(inputs: Sequence[Tensor], params: Params) -> Tensor:
    (x,) = inputs
    return F.interpolate(x, size=params["size"], mode="nearest")


def _never(params: Params) -> bool:
    return False


def _always(params: Params) -> bool:
    return True


def _wiring(
    name: str, run: Evaluate, repeats: Callable[[Params], bool], by_entry: bool = False
) -> Op:
    """Make a record; what an operation adds is its setting `value`."""
    return Op(
        run,
        Kind.WIRING,
        linear=lambda params: (name, filled(params, 0.0)),
        repeats=repeats,
        by_entry=by_entry,
    )


def filled(params: Params, value: float) -> Params:
    """Return the settings with another constant where the operation adds constants."""
    return {**params, "value": value} if "value" in params else params


def _has_twins(params: Params) -> bool:
    return params["index"].unique().numel() < params["index"].numel()


WIRING: Mapping[str, Op] = {
    "reshape": _wiring(
        "reshape", lambda x, p: x[0].reshape(x[0].shape[0], *p["shape"]), _never, by_entry=True
    ),
    "permute": _wiring("permute", lambda x, p: x[0].permute(p["dims"]), _never, by_entry=True),
    "expand": _wiring("expand", lambda x, p: x[0].expand(x[0].shape[0], *p["shape"]), _always),
    "slice": _wiring("slice", _slice, _never),
    "select": _wiring("select", lambda x, p: x[0].select(p["dim"], p["index"]), _never),
    "index_select": _wiring(
        "index_select", lambda x, p: x[0].index_select(p["dim"], p["index"]), _has_twins
    ),
    "flip": _wiring("flip", lambda x, p: x[0].flip(p["dims"]), _never, by_entry=True),
    "pad": _wiring(
        "pad",
        lambda x, p: pad(x[0], p["pads"], p["mode"], p["value"]),
        lambda p: p["mode"] != "constant",
    ),
    "upsample_nearest": _wiring("upsample_nearest", _upsample_nearest, _always),
    "pixel_shuffle": _wiring(
        "pixel_shuffle", lambda x, p: F.pixel_shuffle(x[0], p["factor"]), _never
    ),
    "cat": _wiring("cat", _cat, _never),
}
"""The records by name."""
