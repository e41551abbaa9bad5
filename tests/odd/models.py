"""Odd models: how they are made, kept, called and hooked, and what they return."""

import collections
import dataclasses
import math
import threading

import torch
from tests.odd.operations import ELEMENTWISE, ROWWISE
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

ROWS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    """A function of a few layers and of whatever a model is called with."""

    def __init__(self, function, **parts):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 4), nn.Linear(3, 3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


def of(function, rows=ROWS, **parts):
    """Return how to make a model of a function, and the rows that it is asked about."""
    return lambda: (Model(function, **parts).eval(), rows)


def made(make, rows=ROWS, evaluated=True):
    """Return how to make a module, and the rows that it is asked about."""
    return lambda: (make().eval() if evaluated else make(), rows)


def net(*middle):
    return nn.Sequential(nn.Linear(4, 4), *middle, nn.Linear(4, 3))


def filled(value, dtype=torch.float32):
    model = net(nn.ReLU()).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(value)
    return model


class Straight(torch.autograd.Function):
    """Rounds, and says that it does not."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, slope):
        return slope


class Lying(torch.autograd.Function):
    """Doubles, and says that nothing moves."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        return torch.zeros_like(slope)


class Broken(torch.autograd.Function):
    """Has a derivative that fails."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, slope):
        raise RuntimeError("no derivative here")


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


Named = collections.namedtuple("Named", "logits extra")


class NoForward(nn.Module):
    pass


class Called(nn.Linear):
    """Overrides __call__."""

    def __call__(self, x):
        return super().__call__(x) + 1


class Failing(nn.Linear):
    @property
    def scale(self):
        raise ValueError("a property that fails")

    def forward(self, x):
        raise KeyError("a forward that fails")


class Counting(nn.Linear):
    """Counts its calls, and answers by the count."""

    def __init__(self):
        super().__init__(4, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + self.calls % 2)


class Remembering(nn.Linear):
    """Adds what it saw last."""

    def __init__(self):
        super().__init__(4, 3)
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x):
        y = super().forward(x) + self.last
        self.last = y.mean(0).detach()
        return y


class Caching(nn.Linear):
    """Keeps answers by batch size."""

    def __init__(self):
        super().__init__(4, 3)
        self.cache = {}

    def forward(self, x):
        return self.cache.setdefault(x.shape[0], super().forward(x))


class Appending(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return super().forward(x)


class Growing(nn.Module):
    """Makes its layers when it is first called."""

    def forward(self, x):
        if not hasattr(self, "layer"):
            self.layer = nn.Linear(x.shape[1], 3)
        return self.layer(x)


class Loose(nn.Module):
    """Keeps a tensor that is no buffer, and a module in a list that is no ModuleList."""

    def __init__(self):
        super().__init__()
        self.loose, self.layers = torch.randn(3, 4), [nn.Linear(3, 3)]

    def forward(self, x):
        return self.layers[0](x @ self.loose.t())


class Exporting(nn.Linear):
    def forward(self, x):
        if torch.compiler.is_exporting():
            return super().forward(x)
        return super().forward(x) * 2


class Patched(nn.Linear):
    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("weight", "bias") else 1.0


def hooked(register, hook):
    model = net(nn.ReLU())
    getattr(model[1], register)(hook)
    return model


def shared():
    layer, act = nn.Linear(4, 4), nn.ReLU()
    return nn.Sequential(layer, act, layer, act, nn.Linear(4, 3))


def looped():
    model = net(nn.ReLU())
    object.__setattr__(model, "itself", model)
    model._modules["2"].__dict__["parent"] = model
    return model


def normed(kind):
    model = net(nn.ReLU())
    kind(model[0])
    return model


class Twice(nn.Module):
    def forward(self, x):
        return 2 * x


def parametrized():
    model = net(nn.ReLU())
    parametrize.register_parametrization(model[0], "weight", Twice())
    return model


def without_gradients():
    return net(nn.ReLU()).requires_grad_(False)


def in_inference_mode():
    with torch.inference_mode():
        return net(nn.ReLU())


def quantised():
    return torch.ao.quantization.quantize_dynamic(net(nn.ReLU()), {nn.Linear}, dtype=torch.qint8)


def sparse():
    model = net(nn.ReLU())
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse())
    return model


def whole(dtype=torch.int64):
    model = Model(lambda m, x: x @ m.whole.to(x.dtype).t())
    model.whole = nn.Parameter(torch.randint(-3, 3, (3, 4)).to(dtype), requires_grad=False)
    return model


def swapped_out():
    model = net(nn.ReLU())
    model[0].bias = None
    del model[2].weight
    return model


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3))
    model[2].weight = model[0].weight
    return model


def on_thread(m, x):
    box = []
    thread = threading.Thread(target=lambda: box.append(m.a(x)))
    thread.start()
    thread.join()
    return box[0]


def transformer():
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)


def token_model():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embeddings, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, input_ids, attention_mask=None):
            return self.head(self.embeddings(input_ids).mean(1))

    return Tokens().eval()


TOKENS = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(2))
MASK = torch.ones(6, 5, dtype=torch.long)

STRUCTURES = {
    "linear": made(lambda: nn.Linear(4, 3)),
    "no bias": made(lambda: nn.Linear(4, 3, bias=False)),
    "a usual net": made(lambda: net(nn.ReLU())),
    "identity": made(nn.Identity),
    "nothing in sequence": made(nn.Sequential),
    "flatten alone": made(nn.Flatten),
    "no forward": made(NoForward),
    "bare module": made(nn.Module),
    "module list": made(lambda: nn.ModuleList([nn.Linear(4, 3)])),
    "module dictionary": made(lambda: nn.ModuleDict({"a": nn.Linear(4, 3)})),
    "parameter list": made(lambda: nn.ParameterList([nn.Parameter(torch.ones(2))])),
    "call overridden": made(lambda: Called(4, 3)),
    "forward that fails": made(lambda: Failing(4, 3)),
    "counts calls": made(Counting),
    "remembers": made(Remembering),
    "caches": made(Caching),
    "appends": made(Appending),
    "grows": made(Growing),
    "loose tensors": made(Loose),
    "told of export": made(lambda: Exporting(4, 3)),
    "attributes of its own": made(lambda: Patched(4, 3)),
    "shared layers": made(shared),
    "holds itself": made(looped),
    "tied weights": made(tied),
    "weight norm": made(lambda: normed(parametrizations.weight_norm)),
    "spectral norm": made(lambda: normed(parametrizations.spectral_norm)),
    "spectral norm in training": made(lambda: normed(parametrizations.spectral_norm), ROWS, False),
    "orthogonal": made(lambda: normed(parametrizations.orthogonal)),
    "parametrised": made(parametrized),
    "no gradients": made(without_gradients),
    "made in inference mode": made(in_inference_mode),
    "a weight is gone": made(swapped_out),
    "lazy": made(lambda: nn.Sequential(nn.LazyLinear(3))),
    "meta": made(lambda: net(nn.ReLU()).to("meta")),
    "sparse weights": made(sparse),
    "quantised": made(quantised),
    "whole weights": made(whole),
    "truth weights": made(lambda: whole(torch.bool)),
    "complex weights": made(lambda: net().to(torch.complex64)),
    "half weights": made(lambda: net(nn.ReLU()).half()),
    "bfloat16 weights": made(lambda: net(nn.ReLU()).bfloat16()),
    "double weights": made(lambda: net(nn.ReLU()).double()),
    "mixed weights": made(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3).double())),
    "NaN weights": made(lambda: filled(math.nan)),
    "infinite weights": made(lambda: filled(math.inf)),
    "zero weights": made(lambda: filled(0.0)),
    "huge weights": made(lambda: filled(3e38)),
    "tiny weights": made(lambda: filled(1e-42)),
    "huge double weights": made(lambda: filled(1e300, torch.float64)),
    "tiny double weights": made(lambda: filled(1e-310, torch.float64)),
    "no inputs": made(lambda: nn.Linear(0, 3), torch.zeros(6, 0)),
    "no outputs": made(lambda: nn.Linear(4, 0)),
    "an empty layer inside": made(lambda: nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 3))),
    "one output": made(lambda: nn.Linear(4, 1)),
    "one output, squeezed": of(lambda m, x: m.a(x)[:, 0]),
    "many outputs": made(lambda: nn.Linear(4, 300)),
    "outputs in a grid": of(lambda m, x: m.b(x).view(-1, 2, 2)),
    "outputs in one row": of(lambda m, x: m.a(x)[None]),
    "one number for all": of(lambda m, x: m.a(x).sum()),
    "class numbers": of(lambda m, x: m.a(x).argmax(1)),
    "truth values": of(lambda m, x: m.a(x) > 0),
    "whole outputs": of(lambda m, x: m.a(x).long()),
    "complex outputs": of(lambda m, x: torch.complex(m.a(x), m.a(x))),
    "half outputs": of(lambda m, x: m.a(x).half()),
    "double outputs": of(lambda m, x: m.a(x).double()),
    "sparse outputs": of(lambda m, x: m.a(x).to_sparse()),
    "batch last": of(lambda m, x: m.a(x).t()),
    "NaN outputs": of(lambda m, x: m.a(x) * math.nan),
    "infinite outputs": of(lambda m, x: m.a(x) + math.inf),
    "equal outputs": of(lambda m, x: m.a(x) * 0),
    "constant outputs": of(lambda m, x: m.a.bias.expand(x.shape[0], 3)),
    "a parameter": of(lambda m, x: m.a.weight),
    "the input": of(lambda m, x: x),
    "a view of the input": of(lambda m, x: x[:, :3]),
    "returns nothing": of(lambda m, x: None),
    "returns a number": of(lambda m, x: 1.0),
    "returns text": of(lambda m, x: "cat"),
    "returns a list": of(lambda m, x: [m.a(x)]),
    "returns a tuple": of(lambda m, x: (m.a(x), m.b(x))),
    "returns an empty tuple": of(lambda m, x: ()),
    "returns nested tuples": of(lambda m, x: ((m.a(x),),)),
    "returns a tuple with nothing": of(lambda m, x: (None, m.a(x))),
    "returns a dictionary": of(lambda m, x: {"logits": m.a(x)}),
    "returns two in a dictionary": of(lambda m, x: {"loss": x.sum(), "logits": m.a(x)}),
    "returns a record": of(lambda m, x: Output(m.a(x))),
    "returns a named tuple": of(lambda m, x: Named(m.a(x), None)),
    "returns a generator": of(lambda m, x: (y for y in m.a(x))),
    "returns numpy": of(lambda m, x: m.a(x).detach().numpy()),
    "keywords only": of(lambda m, *, x: m.a(x), {"x": ROWS}),
    "keywords, given a tensor": of(lambda m, *, x: m.a(x)),
    "a keyword that is not taken": of(lambda m, x: m.a(x), {"y": ROWS}),
    "two inputs": of(lambda m, x, y: m.a(x + y), {"x": ROWS, "y": ROWS + 1}),
    "two inputs, one whole": of(lambda m, x, y: m.a(x + y), {"x": ROWS, "y": TOKENS[:, :4]}),
    "an input that is not used": of(lambda m, x, y: m.a(x), {"x": ROWS, "y": TOKENS}),
    "an optional input": of(lambda m, x, y=None: m.a(x if y is None else y)),
    "no input at all": of(lambda m: m.a(ROWS)),
    "tokens": lambda: (token_model(), {"input_ids": TOKENS}),
    "tokens with a mask": lambda: (token_model(), {"input_ids": TOKENS, "attention_mask": MASK}),
    "tokens, given a tensor": lambda: (token_model(), TOKENS),
    "tokens beyond the table": lambda: (token_model(), {"input_ids": TOKENS + 9}),
    "too narrow": made(lambda: nn.Linear(5, 3)),
    "lstm": of(lambda m, x: m.c(m.r(x[:, :, None])[0][:, -1]), r=nn.LSTM(1, 3, batch_first=True)),
    "gru": of(lambda m, x: m.c(m.r(x[:, :, None])[0][:, -1]), r=nn.GRU(1, 3, batch_first=True)),
    "transformer": of(lambda m, x: m.t(x[:, None].expand(-1, 2, 4)).sum(1), t=transformer()),
    "attention": of(
        lambda m, x: m.t(x[:, None], x[:, None], x[:, None])[0][:, 0],
        t=nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    "bag": of(lambda m, x: m.c(m.e(x.long().clamp(0, 3))), e=nn.EmbeddingBag(4, 3)),
    "dropout in training": made(lambda: net(nn.Dropout(0.5)), ROWS, False),
    "dropout of nothing in training": made(lambda: net(nn.Dropout(0.0)), ROWS, False),
    "batch norm": made(lambda: net(nn.BatchNorm1d(4))),
    "batch norm in training": made(lambda: net(nn.BatchNorm1d(4)), ROWS, False),
    "batch norm without statistics": made(
        lambda: net(nn.BatchNorm1d(4, track_running_stats=False))
    ),
    "instance norm": made(lambda: nn.Sequential(nn.InstanceNorm2d(1), nn.Flatten()), IMAGES),
    "convolutions": made(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)),
        IMAGES,
    ),
    "a kernel larger than the image": made(lambda: nn.Conv2d(1, 1, 11), IMAGES),
    "unpooling": of(
        lambda m, x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2).flatten(1), IMAGES
    ),
    "bilinear upsampling": made(
        lambda: nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Flatten()), IMAGES
    ),
    "rounds and denies it": of(lambda m, x: m.a(Straight.apply(x))),
    "derivative of zero": of(lambda m, x: m.a(Lying.apply(x))),
    "derivative that fails": of(lambda m, x: m.a(Broken.apply(x))),
    "on a thread": of(on_thread),
    "prints": of(lambda m, x: (print(end=""), m.a(x))[1]),
    "raises StopIteration": of(lambda m, x: next(iter(()))),
    "pre-hook": made(lambda: hooked("register_forward_pre_hook", lambda m, a: (a[0] + 1,))),
    "hook": made(lambda: hooked("register_forward_hook", lambda m, a, y: y * 2)),
    "hook that returns nothing": made(lambda: hooked("register_forward_hook", lambda *_: None)),
    "hook that returns text": made(lambda: hooked("register_forward_hook", lambda *_: "cat")),
    "hook that fails": made(lambda: hooked("register_forward_hook", lambda *_: 1 / 0)),
    "backward hook": made(
        lambda: hooked("register_full_backward_hook", lambda m, gi, go: (gi[0] * 0,))
    ),
    "scripted": made(lambda: torch.jit.script(net(nn.ReLU()))),
    "traced": made(lambda: torch.jit.trace(net(nn.ReLU()), ROWS)),
    "compiled": made(lambda: torch.compile(net(nn.ReLU()), backend="eager")),
    "data parallel": made(lambda: nn.DataParallel(net(nn.ReLU()))),
    "symbolically traced": made(lambda: torch.fx.symbolic_trace(net(nn.ReLU()))),
    "exported": made(
        lambda: torch.export.export(net(nn.ReLU()), (ROWS,)).module(), ROWS, evaluated=False
    ),
    "many thousand classes": made(lambda: nn.Linear(4, 30_000)),
    "names with odd letters": made(
        lambda: nn.Sequential(collections.OrderedDict({"a b": nn.Linear(4, 3), "ä\x1b": nn.ReLU()}))
    ),
}


MODELS = {
    **STRUCTURES,
    **{f"entry by entry: {n}": of(lambda m, x, f=f: m.a(f(x))) for n, f in ELEMENTWISE.items()},
    **{f"row by row: {n}": of(lambda m, x, f=f: m.a(f(m, x))) for n, f in ROWWISE.items()},
}
