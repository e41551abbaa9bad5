"""The network: its operations as exact sparse matrices and scalar functions.

Values are flat vectors: value 0 is the input, value k the result of operation k. Operations are
`linear` (a matrix on every block of the vector, or groups of its rows in turn), `batch_norm`,
`diagonal` and `quotient` (a factor or divisor, and an offset, per entry), `take` (pick entries; -1
picks a zero), `add`, and scalar functions. A convolution is a `take` of all patches and a `linear`;
the larger of a and b is b + relu(a - b). `slope` is the one number that an operation may have: the
slope of `leaky_relu` below 0, alpha of `elu`, eps of `batch_norm`, the number of groups.

Numbers are rational or, from the root in `batch_norm` on, balls of Arb that hold the exact one:
what is computed from balls is a ball, and a comparison of balls is true if all in them say so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flint import arb, fmpq

from holdfast_check.files import Tensor, rational, require

Row = dict[int, Any]  # fmpq or arb
Tensors = Mapping[str, Tensor]
Scalar = tuple[fmpq, fmpq, Callable[[arb], arb]]  # least and largest slope, and the function
ONE, ZERO, MOST_ENTRIES = fmpq(1), fmpq(0), 2**24

_E9 = fmpq(1, 10**9)
_SCALAR: dict[str, Scalar] = {
    "relu": (ZERO, ONE, lambda x: x.max(arb(0))),
    "tanh": (ZERO, ONE, lambda x: x.tanh()),
    "atan": (ZERO, ONE, lambda x: x.atan()),
    "sin": (-ONE, ONE, lambda x: x.sin()),
    "cos": (-ONE, ONE, lambda x: x.cos()),
    "erf": (ZERO, 1128379168 * _E9, lambda x: x.erf()),
    "sigmoid": (ZERO, fmpq(1, 4), lambda x: 1 / (1 + (-x).exp())),
    "softplus": (ZERO, ONE, lambda x: x.exp().log1p()),
    "softsign": (ZERO, ONE, lambda x: x / (1 + abs(x))),
    "log1p_relu": (ZERO, ONE, lambda x: x.max(arb(0)).log1p()),
    "hardswish": (fmpq(-1, 2), fmpq(3, 2), lambda x: x * (x + 3).max(arb(0)).min(arb(6)) / 6),
    "silu": (-99839321 * _E9, 1099839321 * _E9, lambda x: x / (1 + (-x).exp())),
    "mish": (-112526123 * _E9, 1088498162 * _E9, lambda x: x * x.exp().log1p().tanh()),
    "gelu": (-128904146 * _E9, 1128904146 * _E9, lambda x: x * (-x / arb(2).sqrt()).erfc() / 2),
    "gelu_tanh": (-128993070 * _E9, 1128993070 * _E9, lambda x: x / (1 + _cubic(x).exp())),
}


def _cubic(x: arb) -> arb:
    return -(8 / arb.pi()).sqrt() * (x + fmpq(44715, 10**6) * x**3)


class Step(NamedTuple):
    """An operation on the values `of`: affine (`rows`, `bias`), or a scalar function."""

    of: Sequence[int]
    size: int
    rows: Sequence[Row] = ()
    bias: Sequence[Any] = ()
    scalar: Scalar | None = None


def read_graph(graph: Any, inputs: int, tensors: Tensors) -> list[Step]:
    """Return the steps of a graph; step 0 stands for the input."""
    steps = [Step((), inputs)]
    for k, op in enumerate(graph, 1):
        reads = all(0 <= i < k for i in op["of"]) and set(op["arrays"]) <= {"", *tensors}
        require(reads, f"operation {k} reads what there is not")
        arrays = [tensors[name] if name else None for name in op["arrays"]]
        step = _step(op, [steps[i].size for i in op["of"]], [*arrays, None, None, None, None][:4])
        require(0 < step.size <= MOST_ENTRIES, f"operation {k} is too large")
        steps.append(step)
    return steps


def _scalar(kind: str, number: fmpq, ends: list[fmpq]) -> Scalar | None:
    """Return a scalar function; None for another operation."""
    if kind == "leaky_relu":
        slopes = min(number, ONE), max(number, ONE)
        return *slopes, lambda x: x.max(arb(0)) + number * x.min(arb(0))
    if kind == "elu":
        alpha = number or ONE
        require(alpha > 0, "elu: alpha is negative")
        return ZERO, max(alpha, ONE), lambda x: x.max(arb(0)) + alpha * x.min(arb(0)).expm1()
    if kind == "clamp":
        require(len(ends) == 2 and ends[0] <= ends[1], "clamp: no ends")
        return ZERO, ONE, lambda x: x.max(arb(ends[0])).min(arb(ends[1]))
    return _SCALAR.get(kind)


def _step(op: Any, sizes: list[int], arrays: list[Any]) -> Step:
    """Return one step on values of these sizes."""
    kind, size, number = op["op"], sum(sizes), rational(op["slope"])
    first, second, third, fourth = (each.numbers() if each else [] for each in arrays)
    if scalar := _scalar(kind, number, first):
        return Step(op["of"], size, scalar=scalar)
    bias, rows = second or [ZERO], []
    if kind == "add":
        require(len(set(sizes)) == 1, "add: values of different sizes")
        rows = [dict.fromkeys(range(i, size, sizes[0]), ONE) for i in range(sizes[0])]
    elif kind in ("diagonal", "quotient", "batch_norm"):
        factors = first or [ONE]
        if kind == "quotient":
            require(all(factors), "quotient: a divisor is zero")
            factors = [1 / factor for factor in factors]
        elif kind == "batch_norm":  # variance, mean, w, b: w / sqrt(variance + eps) (x - mean) + b
            n = len(first)
            fits = n and {len(second), len(third) or n, len(fourth) or n} == {n}
            require(fits and min(first) + number > 0, "batch_norm: odd sizes or variances")
            scales = zip(third or [ONE] * n, first, strict=True)
            factors = [w / arb(v + number).sqrt() for w, v in scales]
            shifts = zip(fourth or [ZERO] * n, factors, second, strict=True)
            bias = [b - factor * mean for b, factor, mean in shifts]
        rows = [{i: factor} for i, factor in enumerate(factors * (size // len(factors)))]
        require(len(rows) == size, f"{kind}: the factors do not fit")
    elif kind == "take":
        require(arrays[0] and arrays[0].dtype == "I64", "take: no places")
        require(all(-1 <= place < size for place in first), "take: outside of its values")
        rows = [{int(place.p): ONE} if place >= 0 else {} for place in first]
    else:
        require(kind == "linear" and first, f"unknown operation {kind}")
        height, groups = [*arrays[0].shape, 1][0], max(int(number.p), 1)
        width, each = len(first) // height, height // groups
        blocks = size // width
        fits = size % width == height % groups == blocks % groups == 0 and number.q == 1
        require(fits and blocks * each * width <= MOST_ENTRIES, "linear: the matrix does not fit")
        parts = [first[start : start + width] for start in range(0, len(first), width)]
        for block in range(blocks):
            group = parts[block % groups * each :][:each]
            rows += [dict(enumerate(part, block * width)) for part in group]
    bias *= len(rows) // max(len(bias), 1)
    require(len(bias) == len(rows), "offsets do not fit")
    return Step(op["of"], len(rows), [nonzero(row) for row in rows], bias)


def logits(steps: Sequence[Step], rows: Sequence[Sequence[fmpq]]) -> list[list[arb]]:
    """Return balls that hold the exact outputs of every row of inputs."""
    values = [[[arb(entry) for entry in row] for row in rows]]
    for step in steps[1:]:
        joined = [[x for i in step.of for x in values[i][k]] for k in range(len(rows))]
        results = [list(map(step.scalar[2], x)) if step.scalar else [] for x in joined]
        for i, row in enumerate(step.rows):
            terms = [(j, arb(a)) for j, a in row.items()]
            for x, result in zip(joined, results, strict=True):
                result.append(sum((a * x[j] for j, a in terms), arb(step.bias[i])))
        values.append(results)
    return values[-1]


class Form(NamedTuple):
    """Differences of two inputs x, through units u with u_i = t_i z_i for some 0 <= t_i <= 1.

    `units[i]` is the row of z_i and `outputs` are those of the output, over the coordinates
    (x_0, ..., x_(inputs - 1), u_0, u_1, ...); a unit reads only units before it.
    """

    inputs: int
    units: list[Row]
    outputs: list[Row]


def weighted(row: Row, vectors: Sequence[Row]) -> Row:
    """Return a sum of sparse vectors, each times its weight."""
    total: Row = {}
    for j, weight in row.items():
        for i, value in vectors[j].items():
            total[i] = total.get(i, ZERO) + weight * value
    return nonzero(total)


def nonzero(row: Row) -> Row:
    """Leave out what is exactly 0, not a ball that may be (`!=` means: surely different)."""
    return {j: entry for j, entry in row.items() if not entry == 0}  # noqa: SIM201


def normal_form(steps: Sequence[Step], first: int, last: int) -> Form:
    """Return the form of the steps that lead from value `first` to value `last`."""
    inputs, units = steps[first].size, []
    signals: dict[int, list[Row]] = {first: [{j: ONE} for j in range(inputs)]}
    for k in range(first + 1, last + 1):
        require(all(i in signals for i in steps[k].of), "a part reads a value before its cut")
        source = [row for i in steps[k].of for row in signals[i]]
        signals[k] = [weighted(row, source) for row in steps[k].rows]
        low, high, _ = steps[k].scalar or (ZERO, ZERO, None)
        for z in source if steps[k].scalar else ():  # it moves by low z + (high - low) u
            u = {inputs + len(units): ONE} if z else {}
            units += [z] if z else []
            signals[k].append(weighted({0: low, 1: high - low}, [z, u]))
    return Form(inputs, units, signals[last])
