"""Certificates of a smoothed model: it answers what a model says most often under noise."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_classes,
    check_inputs,
    check_labels,
    check_model,
    check_tensor,
    fit_inputs,
    shown,
)
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.claim import smoothed_guarantee
from holdfast.certificates.misleading import warn_of
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import training_modes, weights_hash
from holdfast.graph.forward import logits_in, run_function, run_model
from holdfast.graph.single import two_logits
from holdfast.rounding import next_down
from holdfast.smoothing.noise import EDITS, Deletion
from holdfast.smoothing.options import SmoothingOptions
from holdfast.smoothing.sampling import Plan, Tally, row_seed, tally
from holdfast.smoothing.votes import Votes
from holdfast.types import Report, silent


def certify_smoothed(
    model: nn.Module | Callable[[list[str]], Any],
    inputs: Tensor | Sequence[str],
    labels: Tensor,
    options: SmoothingOptions,
    threshold: float = 0.0,
    report: Report = silent,
) -> Certificates:
    """Return certificates of a smoothed model; see `holdfast.certify`.

    Args:
        model: A classifier in eval mode; for texts a function from a list of them to their class
            numbers [n], or to logits [n, classes].
        inputs: [N, ...]; or N texts.
        labels: [N], class numbers.
        options: Noise, distance, samples, confidence and seed.
        threshold: For a model of one logit, which is class 1 above it.
        report: Called with the progress.

    Warns:
        HoldfastWarning: When the noise certifies no edit at all, or Ctrl-C ended it before all rows
            were done.

    Raises:
        Unsupported: When the model is in training mode, or its answers depend on chance or on the
            rows beside them.
        InvalidInput: When an argument is not usable.
    """
    texts = isinstance(options.noise, Deletion)
    if texts:
        rows, contents, finite = _texts(inputs)
        answers = _Answers(_function(model), threshold)
        size = 256
    else:
        module = check_model(model)
        if obstacles := training_modes(module):
            raise Unsupported("smoothing", obstacles)
        tensor, finite = _rows(inputs, module)
        rows, contents = [*tensor], [_content(row) for row in tensor]
        answers = _Answers(_module(module), threshold)
        # So many samples at once take 64 MB, and leave the caches to small rows.
        size = max(1, min(1024, 2**23 // tensor[0].numel()))
    classes = check_classes(check_labels(labels, len(rows)), len(rows), 2**62)
    answers(rows[:1])  # says how many classes there are
    if answers.classes:
        check_classes(classes, len(rows), answers.classes)
    seeds = [row_seed(options.seed, content) for content in contents]
    decided = None if options.epsilon is None else options.decided
    plan = Plan(options.noise.draw, 100, options.samples, decided, size)
    # No class is right for a row that is not finite, so that nothing is counted.
    wanted = torch.where(finite, classes, -2).tolist()
    found = tally(rows, seeds, wanted, answers, plan, report)
    votes = Votes(options, found.votes, found.drawn, torch.tensor(seeds))
    _warn(options, found)
    known = answers.classes or 1 + int(torch.maximum(found.chosen, classes).max())
    fields = _fields(found, votes, classes, finite)
    return Certificates(
        **fields,
        labels=classes,
        method=("smoothing",) * len(rows),
        norm=options.noise.norm,
        semantics="smoothed",
        guarantee=smoothed_guarantee(options, fields["reason"]),
        fingerprint=weights_hash(model) if isinstance(model, nn.Module) else "",
        constant=math.inf,
        classes=known,
        threshold=threshold,
        units=torch.empty(0, dtype=torch.float64),
        onehot=(),
        smoothing=votes,
    )


def _fields(found: Tally, votes: Votes, labels: Tensor, finite: Tensor) -> dict[str, Any]:
    """Return radii, margins, predicted classes and reasons."""
    p_lower, radius = votes.p_lower, votes.radius
    reasons = []
    for k, label in enumerate(labels.tolist()):
        chosen = int(found.chosen[k])
        if not finite[k]:
            reason = "not_finite"
        elif not found.finished[k] and not radius[k] > 0:
            reason = "stopped"
        elif chosen != label:
            reason = "misclassified" if chosen >= 0 else "tie"
        elif radius[k] > 0:
            reason = "certified"
        else:
            reason = "under_one_edit" if p_lower[k] > 0.5 else "abstained"
        reasons.append(reason)
    margin = next_down(2.0 * p_lower - 1.0).clamp(min=-1.0)
    return {
        "radius": radius,
        "margin": margin,
        "predicted": torch.where(finite, found.chosen, -1),
        "reason": tuple(reasons),
    }


def _warn(options: SmoothingOptions, found: Tally) -> None:
    if options.noise.norm == EDITS and options.noise.needed(1) >= 1.0:
        warn_of([f"noise: {options.noise} certifies no edit, of any text: p must be above 1/2"], 5)
    if not all(found.finished):
        left = found.finished.count(False)
        done = f"stopped: {len(found.finished) - left} of {len(found.finished)} rows"
        warn_of([f"{done}; the others have the radius that their samples show by now, or 0"], 5)


def _texts(inputs: object) -> tuple[list[str], list[bytes], Tensor]:
    """Return texts, their bytes, and that each can be run.

    Raises:
        InvalidInput: When they are no texts, or none.
    """
    wanted = "a list of texts, for holdfast.Deletion"
    if not isinstance(inputs, Sequence | Tensor) and hasattr(inputs, "tolist"):
        inputs = inputs.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(inputs, str | Tensor) or not isinstance(inputs, Sequence):
        raise InvalidInput("inputs", shown(inputs), wanted)
    odd = [text for text in inputs if not isinstance(text, str)]
    if odd or not inputs:
        raise InvalidInput("inputs", f"{shown(odd[0])} among them" if odd else "no text", wanted)
    texts = [str(text) for text in inputs]
    contents = [text.encode("utf-8", "surrogatepass") for text in texts]
    return texts, contents, torch.ones(len(texts), dtype=torch.bool)


def _rows(inputs: object, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return rows of numbers, on the CPU, and whether each is finite; zeros where it is not."""
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], str):
        raise InvalidInput("inputs", "texts", "numbers, or holdfast.Deletion as the noise")
    rows = fit_inputs(check_inputs(inputs), model).cpu()
    if not rows.is_floating_point():
        raise InvalidInput("inputs", f"{rows.dtype} values", "floating-point values")
    finite = rows.isfinite().reshape(len(rows), -1).all(1)
    return rows.nan_to_num(0.0, 0.0, 0.0), finite


def _content(row: Tensor) -> bytes:
    head = f"{row.dtype} {tuple(row.shape)} ".encode()
    return head + row.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class _Answers:
    """Classes of samples, by what runs the model.

    Attributes:
        classes: How many there are; 0 where the model answers class numbers alone.
    """

    def __init__(self, run: Callable[[list[Any]], Tensor], threshold: float) -> None:
        self.run, self.threshold, self.classes = run, threshold, 0

    def __call__(self, samples: list[Any]) -> Tensor:
        """Return classes, int64 [n]; -1 where logits tie for the largest or are not finite.

        Raises:
            InvalidInput: When the model does not answer one class, or one row of logits, to each.
        """
        found, count = self.run(samples), len(samples)
        wanted = f"{count} class numbers, or logits [{count}, classes]"
        if found.shape[:1] != (count,) or found.dim() > 2 or found.shape[1:] == (0,):
            got = f"an output of shape {tuple(found.shape)} for {count} rows"
            raise InvalidInput("model", got, wanted)
        if not found.is_floating_point():
            if found.dtype == torch.bool or found.shape[1:] not in ((), (1,)):
                got = f"{found.dtype} values of shape {tuple(found.shape)}"
                raise InvalidInput("model", got, wanted)
            return found.reshape(-1).long().clamp(min=-1)
        logits = two_logits(found.double(), self.threshold)
        self.classes = logits.shape[1]
        most, predicted = logits.max(1)
        clear = logits.isfinite().all(1) & ((logits == most[:, None]).sum(1) == 1)
        return torch.where(clear, predicted, -1)


def _module(model: nn.Module) -> Callable[[list[Tensor]], Tensor]:
    """Return what runs a module on rows."""
    first = next(model.parameters(), None)
    device = torch.device("cpu") if first is None else first.device

    def run(samples: list[Tensor]) -> Tensor:
        with torch.no_grad():
            found = logits_in(run_model(model, torch.stack(samples).to(device)))
        if not found.is_floating_point():
            raise InvalidInput("model", f"{found.dtype} values as output", "logits")
        return found.cpu()

    return run


def _function(model: object) -> Callable[[list[str]], Tensor]:
    """Return what runs a function on texts.

    Raises:
        InvalidInput: When it is no function of texts.
        Unsupported: When it is a module in training mode.
    """
    if not callable(model):
        raise InvalidInput("model", shown(model), "a function from a list of texts to classes")
    if isinstance(model, nn.Module) and (obstacles := training_modes(model)):
        raise Unsupported("smoothing", obstacles)

    def run(samples: list[str]) -> Tensor:
        # Of a short text the same words are left again and again: each is asked about once.
        places = {text: k for k, text in enumerate(dict.fromkeys(samples))}
        with torch.no_grad():
            found = run_function("model", model, [*places])
        wanted = f"{len(places)} class numbers, or logits [{len(places)}, classes]"
        found = check_tensor("model", getattr(found, "logits", found), wanted).cpu()
        if found.shape[:1] != (len(places),):
            raise InvalidInput("model", f"an output of shape {tuple(found.shape)}", wanted)
        return found[[places[text] for text in samples]]

    return run
