"""The command line: parse, call, print."""

import contextlib
import errno
import functools
import io
import math
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import cyclopts
from cyclopts import Parameter
from rich.console import Console

import holdfast
from holdfast.errors import HoldfastError, HoldfastWarning, InternalError, InvalidInput
from holdfast.run.folder import FolderInUse

if TYPE_CHECKING:
    from holdfast.sources.data import LoadedData
    from holdfast.sources.models import LoadedModel

    _Loaded = tuple[list[LoadedModel], LoadedData]

INTERNAL, BAD_INPUT, IN_USE, EXHAUSTED = 1, 2, 3, 5
INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 128 + signal.SIGPIPE

app = cyclopts.App(
    name="holdfast",
    help="How far may something move before a network's answer may change, and how do we know?",
    version=holdfast.__version__,
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


Model = Annotated[str, Parameter(help="demo:NAME or module:package.file:factory[?weights=FILE]")]
DataName = Annotated[str, Parameter(help="demo:digits or npz:FILE")]
NormName = Annotated[str, Parameter(help="1, 2 or inf")]
Json = Annotated[
    bool, Parameter(name="--json", negative=(), help="print one JSON document and nothing else")
]


@verb
def audit(  # noqa: PLR0913 - the options of the main job
    model: Model | None = None,
    data: DataName = "demo:digits",
    *,
    out: Annotated[Path, Parameter(help="folder for audit.json and report.html")] = Path(
        "runs/demo"
    ),
    norm: NormName = "2",
    epsilon: Annotated[float | None, Parameter(help="distance of the headline")] = None,
    seconds: Annotated[float, Parameter(help="time for each bracket")] = 5.0,
    as_json: Json = False,
) -> Answer:
    """Audit a model, or the two built-in ones: certificates, knowledge and a page."""
    from holdfast.auditing.job import STEPS, Settings, run_audit
    from holdfast.sources.demo import DEMO_MODELS
    from holdfast.terminal import Steps, audit_summary

    if epsilon is not None and not 0 < epsilon < math.inf:
        raise InvalidInput("epsilon", epsilon, "a finite distance above 0")
    models, rows = _load([model] if model else [f"demo:{name}" for name in DEMO_MODELS], data)
    asked = {"model": model, "data": data, "norm": norm, "epsilon": epsilon, "seconds": seconds}
    command = _command("audit", asked | {"out": out})
    settings = Settings(_norm(norm), epsilon, seconds, command)
    with _stopping_at_once(), Steps(len(models) * len(STEPS) + 1) as steps:
        report = run_audit(models, rows, out, settings, steps.begin)
    return Answer(report.document, lambda: audit_summary(report), as_json)


def _command(name: str, options: Mapping[str, object]) -> str:
    """Return the command that repeats a run."""
    given = [(f"--{key}", str(value)) for key, value in options.items() if value is not None]
    return shlex.join(["holdfast", name, *(word for pair in given for word in pair)])


@contextlib.contextmanager
def _stopping_at_once() -> Iterator[None]:
    """Let Ctrl-C end the whole of a run of several steps."""

    def stop(*_: object) -> NoReturn:
        raise Stopped

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load(models: Sequence[str], data: str) -> "_Loaded":
    """Return models, and rows in the type that the models compute in."""
    from holdfast.sources.data import load_data
    from holdfast.sources.models import check_fits, default_dtype, load_model

    loaded = [load_model(spec) for spec in models]
    rows = load_data(data).to(default_dtype(loaded[0].model))
    for each in loaded:
        check_fits(each.model, rows.inputs)
    return loaded, rows


@verb
def lipschitz(
    model: Model,
    data: DataName | None = None,
    *,
    norm: NormName = "2",
    seconds: Annotated[float, Parameter(help="time to spend")] = 10.0,
    tolerance: Annotated[float, Parameter(help="stop at upper / lower <= 1 + this")] = 1e-3,
    as_json: Json = False,
) -> Answer:
    """Bracket the Lipschitz constant of a model from both sides."""
    from holdfast.auditing.parts import bracket_part
    from holdfast.brackets.search import Search
    from holdfast.graph.capture import check_unchanged
    from holdfast.terminal import ClosingBracket, bracket_table
    from holdfast.types import Outcome

    (loaded,), rows = _load([model], _data_of(model, data))
    with ClosingBracket() as watched:
        graph = holdfast.capture(loaded.model, rows.inputs[:1])
        search = Search(graph, _norm(norm), None, seconds, tolerance, watched.take)
        bracket = search.run(rows.inputs)
        check_unchanged(graph, loaded.model)
    code = INTERRUPTED if bracket.outcome is Outcome.INTERRUPTED else 0
    document = {"model": model} | bracket_part(bracket)
    return Answer(document, lambda: bracket_table(bracket), as_json, code)


def _data_of(model: str, data: str | None) -> str:
    """Return the data to use: the built-in nets bring their own."""
    if data is None and not model.startswith("demo:"):
        wanted = "DATA, which gives the input's shape and the points to search from"
        raise InvalidInput("data", "nothing", wanted)
    return data or "demo:digits"


@verb
def certify(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    norm: NormName = "2",
    method: Annotated[str, Parameter(help="global or auto")] = "auto",
    epsilon: Annotated[float, Parameter(help="distance to count certified rows at")] = 0.0,
    out: Annotated[Path | None, Parameter(help="file for the certificates")] = None,
    as_json: Json = False,
) -> Answer:
    """Certify how far each input can move before its class may change."""
    from holdfast.documents import plain
    from holdfast.terminal import certificates_table, working

    if not 0 <= epsilon < math.inf:
        raise InvalidInput("epsilon", epsilon, "a finite distance, at least 0")
    _check_writable(out)
    (loaded,), rows = _load([model], data)
    with working("certificates"):
        certificates = holdfast.certify(loaded.model, rows.inputs, rows.labels, _norm(norm), method)
    if out is not None:
        certificates.save(out)
    document = {
        "model": model,
        "data": data,
        "epsilon": epsilon,
        "clean_accuracy": certificates.clean_accuracy,
        "verified_accuracy": certificates.verified_accuracy(epsilon),
        **plain(certificates),
    }
    return Answer(document, lambda: certificates_table(certificates, epsilon), as_json)


@verb
def knowledge(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    layer: Annotated[
        list[str] | None, Parameter(negative=(), help="module path; give it again for more")
    ] = None,
    loss: Annotated[str, Parameter(help="cross_entropy, zero_one, brier or margin")] = (
        "cross_entropy"
    ),
    distance: Annotated[str, Parameter(help="euclidean, manhattan, chebyshev or angular")] = (
        "euclidean"
    ),
    out: Annotated[Path | None, Parameter(help="file for all values, row by row")] = None,
    as_json: Json = False,
) -> Answer:
    """Measure how steady a model's knowledge is, layer by layer."""
    from holdfast.terminal import knowledge_table, working

    _check_writable(out)
    (loaded,), rows = _load([model], data)
    with working("knowledge continuity"):
        result = holdfast.knowledge(loaded.model, (rows.inputs, rows.labels), layer, loss, distance)
    if out is not None:
        result.save(out)
    document = {"model": model, "data": data, **result.summary()}
    return Answer(document, lambda: knowledge_table(result), as_json)


@verb
def report(
    audit_json: Annotated[Path, Parameter(help="an audit.json")],
    *,
    out: Annotated[Path | None, Parameter(help="page to write; beside audit.json by default")] = (
        None
    ),
    as_json: Json = False,
) -> Answer:
    """Draw the page of an audit again from its audit.json."""
    from holdfast.documents import read_json
    from holdfast.report.page import write_page

    target = out or audit_json.parent / "report.html"
    _check_writable(target)
    document = read_json(audit_json, "audit_json")
    try:
        write_page(document, target)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        got = f"{str(audit_json)!r} ({type(problem).__name__}: {problem})"
        raise InvalidInput("audit_json", got, "a file that `holdfast audit` wrote") from problem
    return Answer({"page": str(target)}, lambda: f"page: {target}", as_json)


@verb
def doctor(*, as_json: Json = False) -> Answer:
    """Say what is installed and whether the main job would run here."""
    from holdfast.terminal import doctor_table
    from holdfast.versions import diagnosis

    found = diagnosis()
    return Answer(found, lambda: doctor_table(found), as_json)


def _norm(text: str) -> float:
    """Return a norm from its name on the command line."""
    known = {"1": 1.0, "2": 2.0, "inf": float("inf")}
    if text not in known:
        raise InvalidInput("norm", repr(text), "1, 2 or inf")
    return known[text]


def _check_writable(out: Path | None) -> None:
    """Refuse a file that cannot be written before the work, not after it."""
    if out is not None and (out.is_dir() or not os.access(out.parent, os.W_OK | os.X_OK)):
        raise InvalidInput("out", repr(str(out)), "a file in a folder that can be written to")


def show(answer: Answer) -> None:
    """Print one JSON document, or what people read."""
    if sys.stdout is None:  # closed by whoever started us
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    if answer.as_json:
        from holdfast.documents import to_json

        sys.stdout.write(to_json(answer.document))
    else:
        Console(markup=False, highlight=False, emoji=False).print(answer.drawing())
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with the exit code that says how it ended."""
    with warnings.catch_warnings():
        # Our own warnings are one line each; those of libraries are not the user's business.
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", HoldfastWarning)
        warnings.showwarning = _print_warning
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run one command; every way to end has its code, and one line says why."""
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs) or 0
    except (Exception, KeyboardInterrupt, SystemExit, Stopped) as problem:
        code, message = _ending(problem)
    if message:
        sys.stderr.write(f"holdfast: {_one_line(message)}\n")
    return code


def _ending(problem: BaseException) -> tuple[int, str]:  # noqa: PLR0911 - one for every way
    """Return the exit code and the line for a way to end."""
    match problem:
        case cyclopts.CycloptsError():
            return BAD_INPUT, f"{str(problem).rstrip('.')}; see holdfast --help"
        case FolderInUse():
            return IN_USE, str(problem)
        case InternalError():
            return INTERNAL, f"{problem}; please report it"
        case HoldfastError():
            return BAD_INPUT, str(problem)
        case BrokenPipeError() | SystemExit(__context__=BrokenPipeError()):
            return BROKEN_PIPE, _abandon_stdout()
        case SystemExit():
            return BAD_INPUT, f"model: got code that ends Python ({problem.code}), wanted a model"
        case KeyboardInterrupt() | Stopped():
            return INTERRUPTED, "interrupted; nothing half-written is left"
        case MemoryError():
            return EXHAUSTED, f"out of memory: {problem}"
        case RuntimeError() if "allocate memory" in str(problem):
            return EXHAUSTED, f"out of memory: {problem}"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = problem.filename or f"standard output{_abandon_stdout()}"
            return EXHAUSTED, f"the disk is full: {where}"
    place = traceback.extract_tb(problem.__traceback__)[-1]
    what = f"{type(problem).__name__}: {problem} ({place.filename}:{place.lineno})"
    return INTERNAL, f"a mistake in Holdfast, please report it: {what}"


def _abandon_stdout() -> str:
    """Give up on an output that takes nothing more, so that Python does not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    """Print a warning as one line."""
    sys.stderr.write(f"holdfast: warning: {_one_line(str(message))}\n")


if __name__ == "__main__":
    main()
