"""What every verb shares: how it is registered, its options, and how its answer is shown."""

import contextlib
import functools
import io
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.segment import Segment, Segments

from holdfast.errors import InvalidInput, visible
from holdfast.versions import VERSION

if TYPE_CHECKING:
    from holdfast.sources.data import LoadedData
    from holdfast.sources.models import LoadedModel
    from holdfast.sources.tokens import LoadedTokens

    _Models = list[LoadedModel]

app = cyclopts.App(
    name="holdfast",
    help="How far may something move before a network's answer may change, and how do we know?",
    version=VERSION,
    help_format="plaintext",
)


@dataclass(frozen=True)
class Answer:
    """What a verb found.

    Attributes:
        document: For `--json`.
        drawing: Draws it for people.
        as_json: Which of the two is wanted.
        code: Exit code.
    """

    document: Any
    drawing: Callable[[], object]
    as_json: bool
    code: int = 0


class Stopped(BaseException):
    """Ctrl-C where a search must not take it as its own end and go on with the next step."""


def verb(function: Callable[..., Answer]) -> Callable[..., int]:
    """Register a verb; stdout is for its answer, so what a model prints goes to stderr."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        with contextlib.redirect_stdout(sys.stderr):
            answer = function(*args, **kwargs)
        show(answer)
        return answer.code

    return app.command(run)


Model = Annotated[
    str,
    Parameter(
        help="demo:NAME, onnx:FILE, torch:FILE, hf:FOLDER or "
        "module:package.file:factory[?weights=FILE]; a bare FILE by its ending"
    ),
]
DataName = Annotated[
    str,
    Parameter(
        help="demo:digits, npz:FILE, csv:FILE, parquet:FILE, a bare FILE by its ending, or "
        "normal:3x8x8; "
        "for hf:FOLDER, sentences: csv:FILE or parquet:FILE[?text=COLUMN&labels=COLUMN]"
    ),
]
NormName = Annotated[str, Parameter(help="1, 2 or inf (or l1, l2, linf)")]
Threshold = Annotated[
    float, Parameter(help="for a model of one logit: it is class 1 above this, class 0 below")
]


def _distance(_: object, tokens: "Sequence[cyclopts.Token]") -> float:
    """Return a distance as people type it: 0.1 or 2/255."""
    from holdfast.arguments import check_distance

    return check_distance("epsilon", tokens[0].value)


DISTANCE = Parameter(converter=_distance)
"""Marks an option that is a distance: a number, or a fraction such as 2/255."""

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="print one JSON document and nothing else")
]


def repeat_command(name: str, options: Mapping[str, object]) -> str:
    """Return the command that repeats a run."""
    given = [
        (f"--{key}",) if value is True else (f"--{key}", str(value))
        for key, value in options.items()
        if value is not None
    ]
    return shlex.join(["holdfast", name, *(word for pair in given for word in pair)])


@contextlib.contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let Ctrl-C end the whole of a run of several steps."""

    def stop(*_: object) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def load(
    models: Sequence[str], data: str, labelled: bool = True
) -> "tuple[_Models, LoadedData | LoadedTokens]":
    """Return models, and rows as they take them: sentences for a model with a tokenizer.

    Raises:
        InvalidInput: When the rows have no labels, and the verb needs them.
    """
    from holdfast.sources.data import load_data
    from holdfast.sources.models import check_fits, default_dtype, load_model
    from holdfast.sources.names import full_data_name
    from holdfast.sources.tables import READERS
    from holdfast.sources.tokens import load_sentences

    if labelled and data.startswith("normal:"):
        wanted = "rows with labels: random ones are for holdfast lipschitz"
        raise InvalidInput("data", repr(data), wanted)
    kind = full_data_name(data).partition(":")[0]
    loaded = [load_model(spec) for spec in models]
    if loaded[0].folder is not None and kind in READERS:
        tokens = load_sentences(data, loaded[0])
        check_fits(loaded[0].model, tokens.batches[0][0])
        return loaded, tokens
    dtype = default_dtype(loaded[0].model)
    rows = load_data(data, dtype, labelled).to(dtype).shaped(loaded[0].shape)
    for each in loaded:
        check_fits(each.model, rows.inputs)
    return loaded, rows


def load_numbers(
    models: Sequence[str], data: str, labelled: bool = True
) -> "tuple[_Models, LoadedData]":
    """Return models, and rows in the type and the shape that the models take.

    Raises:
        InvalidInput: When the rows are sentences.
    """
    from holdfast.sources.data import LoadedData

    loaded, rows = load(models, data, labelled)
    if not isinstance(rows, LoadedData):
        wanted = "rows of numbers: sentences have no distance (see knowledge, conditions, audit)"
        raise InvalidInput("data", f"sentences in {data!r}", wanted)
    return loaded, rows


def norm_of(text: str) -> float:
    """Return a norm from its name on the command line."""
    from holdfast.arguments import check_norm

    return check_norm(text)


def check_writable(out: Path | None) -> None:
    """Refuse a file that cannot be written before the work, not after it."""
    from holdfast.files import check_new_name, check_replaceable

    if out is not None and (out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK)):
        raise InvalidInput("out", repr(str(out)), "a file in a folder that can be written to")
    if out is not None:
        check_new_name(out)
        check_replaceable(out)


def _only_shown(console: Console, drawing: Any) -> Segments:
    """Draw, with words that only show: names out of files may hold a terminal's commands."""
    return Segments(
        Segment(part.text if part.control else visible(part.text), part.style, part.control)
        for part in console.render(drawing)
    )


def show(answer: Answer) -> None:
    """Print one JSON document, or what people read."""
    if sys.stdout is None:  # closed by whoever started us
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if answer.as_json:
        from holdfast.files import to_json

        sys.stdout.write(to_json(answer.document))
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        console.print(_only_shown(console, answer.drawing()))
    sys.stdout.flush()
