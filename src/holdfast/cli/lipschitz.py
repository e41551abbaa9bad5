"""`holdfast lipschitz`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    Answer,
    DataName,
    Json,
    Model,
    NormName,
    Seed,
    load_numbers,
    norm_of,
    verb,
)
from holdfast.cli.moves import Free, NoOnehot, Scale, moves_of
from holdfast.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.types import Box


@verb
def lipschitz(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName | None = None,
    *,
    norm: NormName = "2",
    box: Annotated[
        tuple[float, float] | None,
        Parameter(negative=(), help="only inputs between these two numbers"),
    ] = None,
    seconds: Annotated[float, Parameter(help="time to spend")] = 10.0,
    tolerance: Annotated[float, Parameter(help="stop at upper / lower <= 1 + this")] = 1e-3,
    free: Free = None,
    scale: Scale = None,
    onehot: NoOnehot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> Answer:
    """Bracket the Lipschitz constant of a model from both sides."""
    from holdfast.audits.parts import bracket_facts
    from holdfast.progress import closing_bracket
    from holdfast.terminal import bracket_table
    from holdfast.types import Outcome

    (loaded,), rows = load_numbers([model], _data_of(model, data), labelled=False)
    region = None if box is None else _box(box, rows.inputs[0])
    moves = moves_of(free, scale, rows, onehot)
    moves.check_no_groups("lipschitz")
    with closing_bracket() as report:
        bracket = holdfast.lipschitz(
            loaded.model, rows.inputs, norm_of(norm), region, seconds, tolerance,
            free=moves.free, scale=moves.scale, seed=seed, report=report,
        )  # fmt: skip
    stopped = "the best so far" * (bracket.outcome is Outcome.INTERRUPTED)
    document = {"model": model, "seed": seed} | bracket_facts(bracket)
    return Answer(document, lambda: bracket_table(bracket), as_json, stopped=stopped)


def _box(ends: tuple[float, float], row: "Tensor") -> "Box":
    """Return the inputs whose entries all lie between two numbers."""
    from holdfast.types import Box

    low, high = (row.double().new_full(row.shape, end) for end in ends)
    return Box(low, high)


def _data_of(model: str, data: str | None) -> str:
    """Return the data to use: the built-in nets bring their own."""
    if data is None and not model.startswith("demo:"):
        wanted = "DATA, which gives the input's shape and the points to search from"
        raise InvalidInput("data", "nothing", wanted)
    return data or "demo:digits"
