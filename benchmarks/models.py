"""The models people have: verification files of the field, and everyday PyTorch models.

    python -m benchmarks.models [FOLDER] [--most N]

Run with `make bench-models`. FOLDER, or HOLDFAST_MODELS, holds one folder per family with ONNX
files in it, as the VNN-COMP benchmarks (2021 to 2024) have them; --most takes so many of each.
Every model is loaded, held against onnxruntime where it is a file, bracketed on a box of radius
0.01 around a sample, and certified on a ball around it, each in a process of its own that may spend
MOST_CPU seconds and MOST_BYTES. Beside the radius stands whether plain interval arithmetic proves
the answer on a ball of radius 1e-6: where it does and no radius is found, something is wrong.
"""

import argparse
import dataclasses
import json
import math
import os
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from benchmarks.everyday import EVERYDAY
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import holdfast
from holdfast.bounds.interval import interval_bounds
from holdfast.graph.single import two_logits, with_two_logits
from holdfast.sources.models import default_dtype
from holdfast.types import Ball, Box

MOST_CPU = 60
MOST_BYTES = 10 * 2**30


@dataclasses.dataclass
class Found:
    """What is known of one model, as far as its process came.

    Attributes:
        ended: What stopped it: "done", a refusal, the budget or a crash.
        error: Largest difference from onnxruntime, relative to the outputs; None without a file.
        ratio: Upper over lower bound on the box; None without a bracket.
        radius: Certified in linf; None without.
        plain: Whether interval arithmetic proves the answer close to the sample.
        refused: Every refusal as "verb: operation: reason".
        cpu: Seconds.
        mib: Most memory.
    """

    ended: str = "loading"
    error: float | None = None
    ratio: float | None = None
    radius: float | None = None
    plain: bool | None = None
    refused: list[str] = dataclasses.field(default_factory=list)
    cpu: float = 0.0
    mib: float = 0.0


Load = Callable[[], tuple[nn.Module, Tensor, Callable[[Tensor], Tensor] | None]]
"""A model in eval mode, one row for it, and what another runtime makes of rows."""


def from_file(path: Path) -> Load:
    """Return how to load an ONNX file."""

    def load() -> tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]:
        import onnxruntime

        loaded = holdfast.load_model(f"onnx:{path}")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        entry, first = session.get_inputs()[0], session.get_outputs()[0].name
        shape = [size if isinstance(size, int) else 1 for size in entry.shape]
        dtype, draw = default_dtype(loaded.model), torch.Generator().manual_seed(0)
        row = torch.rand(1, *(loaded.shape or ()), generator=draw, dtype=dtype)

        def truth(rows: Tensor) -> Tensor:
            return torch.from_numpy(
                session.run([first], {entry.name: rows.reshape(shape).numpy()})[0]
            )

        return loaded.model, row, truth

    return load


def measure(load: Load, verb: str, found: Found, report: Callable[[], None]) -> None:
    """Load a model, hold it against another runtime, and ask one verb about it."""
    model, row, truth = load()
    with torch.no_grad():
        answer = model(row)
    if truth is not None:
        theirs = truth(row).reshape(answer.shape)
        found.error = float((answer - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    found.ended = verb
    report()
    if verb == "lipschitz":
        box = Box(row[0] - 0.01, row[0] + 0.01)
        found.ratio = holdfast.lipschitz(model, row, 2, box, seconds=10.0).ratio
    else:
        label = two_logits(answer).argmax(1)
        found.plain = plainly_proved(model, row, int(label))
        found.radius = float(holdfast.certify(model, row, label, math.inf, "local").radius[0])
    found.ended = "done"


def plainly_proved(model: nn.Module, row: Tensor, label: int) -> bool:
    """Return whether interval arithmetic alone proves the answer close to a row."""
    try:
        graph = with_two_logits(holdfast.capture(model, row).with_row_output())
        bounds = interval_bounds(graph, Ball(row[0].double(), 1e-6, math.inf))[graph.output]
    except holdfast.HoldfastError:
        return False
    others = bounds.high[0].clone()
    others[label] = -math.inf
    return bool(bounds.low[0, label] > others.max())


def alone(load: Load) -> Found:
    """Ask both verbs, each in a process of its own, which a budget ends."""
    first, second = (_in_process(load, verb) for verb in ("lipschitz", "certify"))
    refused = [*first.refused, *(said for said in second.refused if said not in first.refused)]
    endings = (first.ended, second.ended)
    worst = next((end for end in ("crash", "loading", "budget") if end in endings), "done")
    return dataclasses.replace(
        first, ended=worst, refused=refused, radius=second.radius, plain=second.plain,
        cpu=first.cpu + second.cpu, mib=max(first.mib, second.mib),
    )  # fmt: skip


def _in_process(load: Load, verb: str) -> Found:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _in_child(load, verb, writing)
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = lines.read().splitlines()
    _, status, used = os.wait4(child, 0)
    found = Found(**json.loads(told[-1])) if told else Found()
    if status and found.ended != "crash":
        found.refused.append(f"{found.ended}: no end within {MOST_CPU} CPU s or the memory")
        found.ended = "budget"
    found.cpu, found.mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return found


def _in_child(load: Load, verb: str, writing: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU, MOST_CPU))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    warnings.simplefilter("ignore")
    found, code = Found(), 0

    def report() -> None:
        os.write(writing, (json.dumps(dataclasses.asdict(found)) + "\n").encode())

    try:
        measure(load, verb, found, report)
    except holdfast.Unsupported as refusal:
        asked = "load" if found.ended == "loading" else verb
        found.refused = [f"{asked}: {each.op}: {each.why}" for each in refusal.obstacles]
    except MemoryError:
        code = 1
    except BaseException as problem:  # every other ending is what this benchmark looks for
        found.ended, code = "crash", 1
        found.refused.append(f"CRASH {type(problem).__name__}: {str(problem)[:200]}")
    report()
    os._exit(code)


def families(folder: Path | None, most: int) -> Iterator[tuple[str, str, Load]]:
    """Yield family, name and how to load, of everyday models and of the files in a folder."""
    for name, load in EVERYDAY.items():
        yield "everyday", name, load
    for family in sorted(folder.iterdir()) if folder else []:
        files = sorted(family.glob("*.onnx"), key=lambda path: (path.stat().st_size, path.name))
        step = max(1, -(-len(files) // most))
        for path in files[::step]:
            yield family.name, path.stem, from_file(path)


def main() -> None:
    """Print one row per model, one per family, and the operations that stand in the way."""
    parser = argparse.ArgumentParser(description="What Holdfast makes of the models people have.")
    parser.add_argument("folder", nargs="?", default=os.environ.get("HOLDFAST_MODELS"))
    parser.add_argument("--most", type=int, default=1000, help="files of each family")
    parser.add_argument("--only", default="", help="families whose name has this in it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160)
    folder = Path(given.folder) if given.folder else None
    if folder is None or not folder.is_dir():
        console.print(f"no files: {folder or 'HOLDFAST_MODELS is not set'}, wanted FAMILY/*.onnx")
        folder = None
    every: dict[str, list[Found]] = {}
    for family, name, load in families(folder, given.most):
        if given.only not in family:
            continue
        found = alone(load)
        every.setdefault(family, []).append(found)
        console.print(f"{family} {name}: {line(found)}", highlight=False, markup=False)
        sys.stdout.flush()
    console.print(table(every))
    console.print(refusals(every))


def line(found: Found) -> str:
    """Return one model in one line."""
    parts = [found.ended, f"error {show(found.error)}", f"ratio {show(found.ratio)}"]
    parts += [f"radius {show(found.radius)}", f"plain {found.plain}"]
    parts += [f"{found.cpu:.1f} CPU s", f"{found.mib:.0f} MiB", *found.refused[:3]]
    return ", ".join(parts)


def show(number: float | None) -> str:
    """Return a number, short."""
    return "-" if number is None else f"{number:.3g}"


def table(every: dict[str, list[Found]]) -> Table:
    """Return one row per family."""
    drawn = Table(
        "family", "models", "loaded", "agree", "bracket (worst ratio)", "radius > 0", "plainly",
        "CPU s (most)", "MiB (most)", "crashes",
    )  # fmt: skip
    for family, results in every.items():
        errors = [each.error for each in results if each.error is not None]
        ratios = [each.ratio for each in results if each.ratio is not None]
        drawn.add_row(
            family,
            str(len(results)),
            str(sum(each.ended != "loading" for each in results)),
            f"{sum(error <= 1e-5 for error in errors)}/{len(errors)}",
            f"{sum(map(math.isfinite, ratios))} ({show(max(ratios, default=None))})",
            str(sum(bool(each.radius) for each in results)),
            str(sum(bool(each.plain) for each in results)),
            f"{max(each.cpu for each in results):.0f}",
            f"{max(each.mib for each in results):.0f}",
            str(sum(each.ended == "crash" for each in results)),
        )
    return drawn


def refusals(every: dict[str, list[Found]]) -> Table:
    """Return one row per operation and reason, by the number of models."""
    drawn = Table("refused", "models", "families")
    count: Counter[str] = Counter()
    where: dict[str, set[str]] = {}
    for family, results in every.items():
        for each in results:
            for said in {*each.refused}:
                count[said] += 1
                where.setdefault(said, set()).add(family)
    for said, models in count.most_common(60):
        drawn.add_row(said[:100], str(models), ", ".join(sorted(where[said])))
    return drawn


if __name__ == "__main__":
    main()
