"""Functions of six rows of four numbers that a model may compute: usual, odd and senseless ones.

Each is a function of a module with layers `a` (4 to 3), `b` (4 to 4) and `c` (3 to 3), and of x.
"""

import math

import torch
from torch.func import grad, jvp, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def _functions(home, *names):
    return {name: getattr(home, name) for name in " ".join(names).split()}


def _into_slice(x):
    y = x.clone()
    y[:, 1:3] = 0.5
    y[:, 0] += y[:, 3]
    return y


ELEMENTWISE = {
    **_functions(
        torch,
        "sin cos tan asin acos atan sinh cosh asinh acosh atanh exp exp2 expm1 log log2 log10",
        "log1p sqrt rsqrt reciprocal square erf erfc erfinv lgamma digamma floor ceil round trunc",
        "frac sign sgn sigmoid logit sinc i0 neg positive abs relu tanh deg2rad rad2deg nan_to_num",
        "isnan isfinite signbit logical_not angle real conj_physical",
    ),
    **_functions(
        F,
        "hardshrink softshrink tanhshrink softsign hardtanh hardsigmoid hardswish relu6 elu selu",
        "celu gelu silu mish softplus logsigmoid leaky_relu rrelu alpha_dropout",
    ),
    **_functions(torch.special, "entr erfcx log_ndtr ndtr bessel_j0"),
    "threshold": lambda x: F.threshold(x, 0.1, 0.1),
    "threshold with a jump": lambda x: F.threshold(x, 0.1, 5.0),
    "square by power": lambda x: x**2,
    "root by power": lambda x: x**0.5,
    "power 0": lambda x: x**0,
    "itself to itself": lambda x: x**x,
    "two to it": lambda x: 2.0**x,
    "modulo": lambda x: x % 0.7,
    "fmod": lambda x: torch.fmod(x, 0.7),
    "floor division": lambda x: x // 0.7,
    "by itself": lambda x: x / x,
    "times itself": lambda x: x * x,
    "less itself": lambda x: x - x,
    "compared": lambda x: (x > 0).float() * x,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "where it jumps": lambda x: torch.where(x > 0, x, x - 1),
    "where it is NaN": lambda x: torch.where(x.isnan(), 0.0, x),
    "times infinity": lambda x: x * math.inf,
    "times NaN": lambda x: x * math.nan,
    "plus infinity": lambda x: x + math.inf,
    "over zero": lambda x: x / 0.0,
    "over a tiny number": lambda x: x / 1e-42,
    "times zero": lambda x: x * 0.0,
    "times 1e38 twice": lambda x: x * 1e38 * 1e38,
    "times 1e-30 and back": lambda x: x * 1e-30 * 1e30,
    "clamp upside down": lambda x: x.clamp(1.0, -1.0),
    "clamp to a point": lambda x: x.clamp(0.5, 0.5),
    "clamp by NaN": lambda x: x.clamp(max=math.nan),
    "clamp by tensors": lambda x: x.clamp(torch.zeros(4), torch.ones(4)),
    "leaky by -2": lambda x: F.leaky_relu(x, -2.0),
    "leaky by NaN": lambda x: F.leaky_relu(x, math.nan),
    "elu of infinity": lambda x: F.elu(x, math.inf),
    "softplus of beta 0": lambda x: F.softplus(x, 0.0),
    "softplus below 0": lambda x: F.softplus(x, -1.0),
    "softplus that switches": lambda x: F.softplus(x, 1.0, 0.0),
    "hardtanh of one point": lambda x: F.hardtanh(x, -0.0, 0.0),
    "half": lambda x: x.half().float(),
    "bfloat16": lambda x: x.bfloat16().float(),
    "double and back": lambda x: x.double().float(),
    "double": lambda x: x.double(),
    "whole": lambda x: x.long().float(),
    "truth": lambda x: x.bool().float(),
    "complex": lambda x: torch.complex(x, x).abs(),
    "bits": lambda x: x.view(torch.int32).view(torch.float32),
    "detached": lambda x: x.detach(),
    "cloned": lambda x: x.clone(),
    "contiguous": lambda x: x.t().contiguous().t(),
    "fake quantised": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255),
    "noise": lambda x: x + torch.randn_like(x),
    "noise of a seed": lambda x: x + torch.randn(x.shape, generator=torch.Generator()),
    "dropped": lambda x: F.dropout(x, 0.5, training=True),
    "not dropped": lambda x: F.dropout(x, 0.5, training=False),
    "bernoulli": lambda x: torch.bernoulli(x.sigmoid()),
    "in place": lambda x: x.clone().mul_(2).add_(1),
    "into a slice": _into_slice,
    "in place on the input": lambda x: x.relu_(),
    "out of a buffer": lambda x: torch.add(x, 1, out=torch.empty_like(x)),
}
"""From [N, 4] to [N, 4], entry by entry (or so)."""


def _no_grad(m, x):
    with torch.no_grad():
        return m.b(x).relu()


def _autocast(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.b(x).float()


def _while(x):
    while x.abs().max() > 1:
        x = x / 2
    return x


def _asserted(x):
    assert bool((x.abs() < 1e6).all())
    return x


def _checked_rows(x):
    if x.shape[0] > 6:
        raise ValueError("too many rows")
    return x


def _deep(m, x):
    for _ in range(40):
        x = torch.relu(m.b(x)) + x
    return x


def _doubled(x):
    for _ in range(40):
        x = torch.cat([x, x], 1)[:, :4] + x
    return x


ROWWISE = {
    "softmax": lambda m, x: x.softmax(1),
    "softmax over rows": lambda m, x: x.softmax(0),
    "softmin": lambda m, x: F.softmin(x, 1),
    "log softmax": lambda m, x: x.log_softmax(-1),
    "gumbel softmax": lambda m, x: F.gumbel_softmax(x),
    "normalised": lambda m, x: F.normalize(x),
    "layer norm": lambda m, x: F.layer_norm(x, (4,)),
    "layer norm of one number": lambda m, x: F.layer_norm(x[..., None], (1,))[..., 0],
    "layer norm of epsilon 0": lambda m, x: F.layer_norm(x, (4,), eps=0.0),
    "rms norm": lambda m, x: F.rms_norm(x, (4,)),
    "group norm": lambda m, x: F.group_norm(x, 2),
    "instance norm": lambda m, x: F.instance_norm(x[:, None])[:, 0],
    "local response norm": lambda m, x: F.local_response_norm(x[:, :, None], 2)[:, :, 0],
    "batch norm in training": lambda m, x: F.batch_norm(x, None, None, training=True),
    "batch norm of variance 0": lambda m, x: F.batch_norm(
        x, torch.zeros(4), torch.zeros(4), eps=0.0
    ),
    "sum": lambda m, x: x + x.sum(1, keepdim=True),
    "sum over rows": lambda m, x: x + x.sum(0),
    "sum of all": lambda m, x: x + x.sum(),
    "mean over rows": lambda m, x: x - x.mean(0, keepdim=True),
    "product": lambda m, x: x + x.prod(1, keepdim=True),
    "variance": lambda m, x: x / x.var(1, keepdim=True),
    "deviation": lambda m, x: x - x.std(1, keepdim=True),
    "length": lambda m, x: x + x.norm(dim=1, keepdim=True),
    "length, p 0.5": lambda m, x: x + x.norm(0.5, 1, keepdim=True),
    "logsumexp": lambda m, x: x - x.logsumexp(1, keepdim=True),
    "largest": lambda m, x: x - x.amax(1, keepdim=True),
    "smallest": lambda m, x: x - x.amin(1, keepdim=True),
    "largest of all": lambda m, x: x - x.max(),
    "median": lambda m, x: x - x.median(1, keepdim=True).values,
    "mode": lambda m, x: x - x.mode(1, keepdim=True).values,
    "second": lambda m, x: x - x.kthvalue(2, 1, keepdim=True).values,
    "quantile": lambda m, x: x - x.quantile(0.3, 1, keepdim=True),
    "top two": lambda m, x: x.topk(2, 1).values.repeat(1, 2),
    "sorted": lambda m, x: x.sort(1).values,
    "sorted downward": lambda m, x: x.sort(1, descending=True).values,
    "sorted among rows": lambda m, x: x.sort(0).values,
    "places in order": lambda m, x: x + x.sort(1).indices,
    "place of the largest": lambda m, x: x + x.argmax(1, keepdim=True),
    "largest with its place": lambda m, x: x + x.max(1, keepdim=True)[1],
    "running largest": lambda m, x: x.cummax(1).values,
    "running sum": lambda m, x: x.cumsum(1),
    "running sum over rows": lambda m, x: x.cumsum(0),
    "running product": lambda m, x: x.cumprod(1),
    "running logsumexp": lambda m, x: x.logcumsumexp(1),
    "differences": lambda m, x: F.pad(x.diff(dim=1), (0, 1)),
    "cosine": lambda m, x: x + F.cosine_similarity(x, m.b(x))[:, None],
    "distances among rows": lambda m, x: x + torch.cdist(x, x).sum(1, keepdim=True),
    "distances of a row": lambda m, x: torch.cdist(x[:, :, None], x[:, :, None]).sum(2),
    "product of two": lambda m, x: x * m.b(x),
    "quotient of two": lambda m, x: x / m.b(x),
    "quotient of safe two": lambda m, x: x / (1 + m.b(x) ** 2),
    "sum of two": lambda m, x: x + 3 * m.b(x),
    "larger of two": lambda m, x: torch.maximum(x, m.b(x)),
    "fmax of two": lambda m, x: torch.fmax(x, m.b(x)),
    "smaller of two": lambda m, x: torch.min(x, m.b(x)),
    "angle of two": lambda m, x: torch.atan2(x, m.b(x)),
    "hypotenuse": lambda m, x: torch.hypot(x, m.b(x)),
    "logaddexp": lambda m, x: torch.logaddexp(x, m.b(x)),
    "lerp": lambda m, x: torch.lerp(x, m.b(x), 0.25),
    "addcmul": lambda m, x: torch.addcmul(x, x, m.b(x)),
    "glu": lambda m, x: F.glu(x.repeat(1, 2)),
    "cross": lambda m, x: F.pad(torch.linalg.cross(x[:, :3], x[:, 1:]), (0, 1)),
    "outer product": lambda m, x: (x[:, :, None] * x[:, None, :]).sum(2),
    "product of matrices": lambda m, x: (x[:, :, None] @ x[:, None, :]).sum(2),
    "einsum of two": lambda m, x: torch.einsum("ni,nj->ni", x, x),
    "einsum with weights": lambda m, x: torch.einsum("ni,oi->no", x, m.b.weight),
    "weights from the left": lambda m, x: (m.b.weight @ x[:, :, None])[:, :, 0],
    "weights by rows": lambda m, x: F.linear(x, x.new_ones(4, 4), x.sum(1, keepdim=True)),
    "bias by rows": lambda m, x: F.linear(x, m.b.weight, m.b(x)),
    "bilinear": lambda m, x: F.bilinear(x, x, torch.ones(4, 4, 4)),
    "gathered": lambda m, x: x.gather(1, torch.tensor([[3, 2, 1, 0]]).expand(x.shape[0], 4)),
    "gathered by value": lambda m, x: x.gather(1, (x > 0).long()),
    "scattered": lambda m, x: x.scatter(1, torch.zeros(x.shape[0], 1, dtype=torch.long), 0.0),
    "taken": lambda m, x: x[:, [3, 0, 0, 1]],
    "taken by mask": lambda m, x: x[:, torch.tensor([True, True, False, True])].repeat(1, 2)[:, :4],
    "masked": lambda m, x: x.masked_fill(torch.tensor([True, False, False, True]), 0.0),
    "masked by value": lambda m, x: x.masked_fill(x > 1, 0.0),
    "masked select": lambda m, x: x + x.masked_select(x > 0).sum(),
    "index added": lambda m, x: x.index_add(1, torch.tensor([0, 0]), x[:, :2]),
    "index put": lambda m, x: x.index_put((torch.tensor([0]),), torch.tensor(1.0)),
    "unique": lambda m, x: x + len(x.unique()),
    "nonzero": lambda m, x: x + x.nonzero().shape[0],
    "histogram": lambda m, x: x + x.histc(4),
    "bucketed": lambda m, x: x + torch.bucketize(x, torch.tensor([0.0, 1.0])),
    "one-hot": lambda m, x: F.one_hot(x.argmax(1), 4).float(),
    "embedded": lambda m, x: m.b.weight[(x > 0).long()].sum(1),
    "rolled": lambda m, x: x.roll(1, 1),
    "rolled rows": lambda m, x: x.roll(1, 0),
    "flipped": lambda m, x: x.flip(1),
    "flipped rows": lambda m, x: x.flip(0),
    "repeated": lambda m, x: x.repeat(1, 2)[:, :4],
    "interleaved": lambda m, x: x.repeat_interleave(2, 1)[:, ::2],
    "tiled rows": lambda m, x: x.repeat(2, 1)[: x.shape[0]],
    "expanded": lambda m, x: x[:, :1].expand(-1, 4),
    "every other from behind": lambda m, x: x.flip(1)[:, ::3].repeat(1, 2),
    "transposed rows": lambda m, x: (x.t() @ x).sum() + x,
    "reshaped across rows": lambda m, x: x.reshape(-1).reshape(-1, 4),
    "rows become columns": lambda m, x: x.reshape(4, -1).t(),
    "as strided": lambda m, x: x.as_strided(x.shape, x.stride()),
    "unfolded": lambda m, x: x.unfold(1, 2, 1).sum(2).repeat(1, 2)[:, :4],
    "lower triangle": lambda m, x: (x[:, :, None] * torch.ones(4)).tril().sum(2),
    "diagonal": lambda m, x: torch.diag_embed(x).diagonal(dim1=1, dim2=2),
    "nothing in between": lambda m, x: torch.cat([x[:, :0], x], 1),
    "meshgrid": lambda m, x: x + torch.meshgrid(torch.arange(4.0), indexing="ij")[0],
    "ones like it": lambda m, x: x + torch.ones_like(x),
    "new of it": lambda m, x: x + x.new_full((4,), 0.5),
    "its batch size": lambda m, x: x * x.shape[0],
    "row numbers": lambda m, x: x + torch.arange(x.shape[0])[:, None],
    "first row": lambda m, x: x - x[0],
    "a constant": lambda m, x: torch.ones(x.shape[0], 4),
    "fft": lambda m, x: torch.fft.fft(x).abs(),
    "real fft": lambda m, x: torch.fft.irfft(torch.fft.rfft(x), 4),
    "singular values": lambda m, x: (
        x + torch.linalg.svdvals(x[:, :, None] * torch.ones(2)).sum(1)[:, None]
    ),
    "determinant": lambda m, x: x + torch.linalg.det(torch.diag_embed(x))[:, None],
    "inverse": lambda m, x: torch.linalg.inv(torch.diag_embed(x)).sum(2),
    "solved": lambda m, x: torch.linalg.solve(torch.eye(4), x.t()).t(),
    "matrix exponential": lambda m, x: torch.matrix_exp(torch.diag_embed(x)).sum(2),
    "attention": lambda m, x: F.scaled_dot_product_attention(*(x[:, :, None],) * 3)[:, :, 0],
    "convolved by rows": lambda m, x: F.conv1d(x[None], x[:, None, :2], groups=x.shape[0])[
        0
    ].repeat(1, 2)[:, :4],
    "convolved": lambda m, x: F.conv1d(x[:, None], torch.ones(1, 1, 3), padding=1)[:, 0],
    "convolved without batch": lambda m, x: F.conv1d(x.t(), torch.ones(4, 4, 1)).t(),
    "max pooled": lambda m, x: F.max_pool1d(x[:, None], 2, 1, 1)[:, 0, :4],
    "max pooled with places": lambda m, x: F.max_pool1d(x[:, None], 1, return_indices=True)[0][
        :, 0
    ],
    "adaptive max": lambda m, x: F.adaptive_max_pool1d(x[:, None], 4)[:, 0],
    "lp pooled": lambda m, x: F.lp_pool1d(x[:, None], 2.0, 1)[:, 0],
    "fractional": lambda m, x: F.fractional_max_pool2d(x.view(-1, 1, 2, 2), 1, 2).view(-1, 4),
    "linear upsample": lambda m, x: F.interpolate(x[:, None], 8, mode="linear")[:, 0, ::2],
    "nearest by 1.5": lambda m, x: F.interpolate(x[:, None], scale_factor=1.5)[:, 0, :4],
    "bicubic": lambda m, x: F.interpolate(x.view(-1, 1, 2, 2), 2, mode="bicubic").view(-1, 4),
    "grid sample": lambda m, x: F.grid_sample(
        x.view(-1, 1, 2, 2), x.new_zeros(x.shape[0], 2, 2, 2), align_corners=False
    ).view(-1, 4),
    "padded": lambda m, x: F.pad(x, (1, 0))[:, :4],
    "padded by NaN": lambda m, x: F.pad(x, (1, 0), value=math.nan)[:, :4],
    "padded rows": lambda m, x: F.pad(x, (0, 0, 1, 0))[:-1],
    "cropped": lambda m, x: F.pad(x, (-1, 1)),
    "circular": lambda m, x: F.pad(x[:, None], (2, 2), mode="circular")[:, 0, :4],
    "pixel unshuffle": lambda m, x: F.pixel_unshuffle(x.view(-1, 1, 2, 2), 2).view(-1, 4),
    "checkpointed": lambda m, x: checkpoint(m.b, x, use_reentrant=False),
    "gradient inside": lambda m, x: grad(lambda z: m.b(z).relu().sum())(x),
    "forward derivative inside": lambda m, x: jvp(m.b, (x,), (x,))[1],
    "vmap inside": lambda m, x: vmap(m.b)(x),
    "without gradients": _no_grad,
    "autocast inside": _autocast,
    "cond": lambda m, x: torch.cond(x.sum() > 0, lambda z: z * 2, lambda z: z * 3, (x,)),
    "if": lambda m, x: x * 2 if x.sum() > 0 else x,
    "while": lambda m, x: _while(x),
    "item": lambda m, x: x * x[0, 0].item(),
    "list": lambda m, x: x + torch.tensor(x.tolist()),
    "numpy": lambda m, x: torch.from_numpy(x.detach().numpy() * 2),
    "assertion": lambda m, x: _asserted(x),
    "rows are checked": lambda m, x: _checked_rows(x),
    "row by row": lambda m, x: torch.stack([m.b(row) for row in x]),
    "deep": _deep,
    "forty doublings": lambda m, x: _doubled(x),
}
"""From [N, 4] to [N, 4]."""
