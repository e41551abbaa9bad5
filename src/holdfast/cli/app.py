"""What every verb shares: how it is registered, its options, and how its answer is shown."""

import contextlib
import functools
import inspect
import io
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.segment import Segment, Segments

from holdfast.errors import HoldfastWarning, InvalidInput, Stopped, visible
from holdfast.versions import VERSION

if TYPE_CHECKING:
    from types import FrameType

    from holdfast.sources.data import LoadedData
    from holdfast.sources.models import LoadedModel
    from holdfast.sources.tokens import LoadedTokens
    from holdfast.types import Progress, Report

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
        stopped: How far it came, where the user stopped it before its end.
    """

    document: Any
    drawing: Callable[[], object]
    as_json: bool
    code: int = 0
    stopped: str = ""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


Quiet = Annotated[
    bool, Parameter(negative=(), help="no progress and no warnings; errors are still said")
]
Threads = Annotated[
    int | None, Parameter(help="threads of the CPU to use; all of its cores by default")
]


def verb(function: Callable[..., Answer]) -> Callable[..., int]:
    """Register a verb, which takes `--quiet` and `--threads` with all others.

    Its stdout is for its answer: what a model prints goes to stderr.

    Returns:
        What is called with the options, and returns the exit code.
    """

    def run(*args: Any, quiet: Quiet = False, threads: Threads = None, **kwargs: Any) -> int:
        begun = time.perf_counter()
        with contextlib.ExitStack() as stack:
            if quiet:
                unseen = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stderr(unseen))
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            _use_threads(threads)
            answer = function(*args, **kwargs)
        show(answer, function.__name__, time.perf_counter() - begun)
        if answer.stopped:
            sys.stderr.write(f"holdfast: stopped: {answer.stopped}\n")
        return INTERRUPTED if answer.stopped else answer.code

    own, more = (inspect.signature(each).parameters for each in (function, run))
    common = [more["quiet"], more["threads"]]
    functools.update_wrapper(run, function)
    run.__annotations__ = function.__annotations__ | {each.name: each.annotation for each in common}
    run.__signature__ = inspect.Signature([*own.values(), *common], return_annotation=int)  # pyright: ignore[reportFunctionMemberAccess]
    return app.command(run)


BELOW, IN_PART, INTERRUPTED = 1, 4, 128 + signal.SIGINT
"""Exit codes: less is verified than `--fail-under` asks for; some parts were refused; stopped."""


def _use_threads(threads: int | None) -> None:
    """Let torch use so many threads.

    Raises:
        InvalidInput: When there is none.
    """
    if threads is None:
        return
    if threads < 1:
        raise InvalidInput("threads", threads, "a whole number of at least 1")
    import torch

    torch.set_num_threads(threads)


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

Seed = Annotated[int, Parameter(help="of all random choices: the same gives the same result")]

Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="print one JSON document and nothing else")
]


FailUnder = Annotated[
    float | None,
    Parameter(help="exit code 1 where the verified accuracy is below this share, such as 0.6"),
]


def check_share(fail_under: float | None) -> None:
    """Refuse what is no share, before the work.

    Raises:
        InvalidInput: When it is not from 0 to 1.
    """
    if fail_under is not None and not 0 <= fail_under <= 1:
        raise InvalidInput("fail-under", fail_under, "a share of the rows, from 0 to 1")


def check_classes_asked(data: str, asked: str, wanted: str) -> None:
    """Refuse targets where something asks for classes, before anything is loaded.

    Args:
        data: As the user wrote it.
        asked: The argument that asks for classes.
        wanted: What will do.

    Raises:
        InvalidInput: When the data's labels are targets.
    """
    # `?target=` alone makes labels targets: without it the loaders refuse what is no class.
    options = data.partition("?")[2].split("&")
    if any(option.startswith("target=") for option in options):
        raise InvalidInput(asked, f"targets in {data!r}", wanted)


def repeat_command(name: str, options: Mapping[str, object]) -> str:
    """Return the command that repeats a run."""
    given = [
        (f"--{key}",) if value is True else (f"--{key}", str(value))
        for key, value in options.items()
        if value is not None
    ]
    return shlex.join(["holdfast", name, *(word for pair in given for word in pair)])


@contextlib.contextmanager
def stopping_at_once() -> "Iterator[Callable[[Report], Report]]":
    """Let Ctrl-C and SIGTERM end the whole of a run of several steps.

    Yields:
        What watches a report: an exception that a library swallows comes again with the next step.
    """
    asked = False

    def stop(number: int, frame: "FrameType | None") -> NoReturn:
        nonlocal asked
        asked = True
        if callable(own := before[signal.Signals(number)]):
            with contextlib.suppress(KeyboardInterrupt):
                own(number, frame)
        raise Stopped

    def watching(report: "Report") -> "Report":
        def take(progress: "Progress") -> None:
            if asked:
                raise Stopped
            report(progress)

        return take

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield watching
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


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
    if rows.scale is not None:  # the user's word, for the length of this command
        warnings.filterwarnings("ignore", "inputs: whole numbers", HoldfastWarning)
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


def show(answer: Answer, name: str, seconds: float) -> None:
    """Print one JSON document, or what people read.

    Args:
        answer: Of a verb.
        name: Of the verb.
        seconds: How long it took.
    """
    if sys.stdout is None:  # closed by whoever started us
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if answer.as_json:
        from holdfast.cli.spoken import spoken
        from holdfast.files import to_json

        told = {"holdfast": VERSION, "verb": name, "seconds": seconds} | spoken(answer.document)
        told |= {"stopped": answer.stopped} if answer.stopped else {}
        sys.stdout.write(to_json(told))
    else:
        console = Console(markup=False, highlight=False, emoji=False)
        console.print(_only_shown(console, answer.drawing()))
    sys.stdout.flush()
