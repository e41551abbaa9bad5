"""Certified radii: from one global Lipschitz constant and the margin of each row, or local bounds.

Tsuzuku, Sato, Sugiyama, "Lipschitz-margin training" (2018), pair by pair of classes: where
f_y - f_j moves by at most K_yj r within distance r, the class holds within margin / K_yj.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_classes,
    check_inputs,
    check_labels,
    check_model,
    check_norm,
    check_targets,
    check_threshold,
    fit_inputs,
    shown,
)
from holdfast.bounds.float32 import FLOAT32
from holdfast.brackets.gain import gain_upper
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.change import Changes
from holdfast.certificates.claim import guarantee
from holdfast.certificates.local import Balls
from holdfast.certificates.misleading import misleading, uneven, uneven_advice, warn_of
from holdfast.certificates.onehot import over_corners
from holdfast.certificates.options import CertifyOptions
from holdfast.certificates.radii import evaluated, global_rates, radii_of
from holdfast.certificates.smoothed import certify_smoothed
from holdfast.corners import nearest_first
from holdfast.errors import InvalidInput, Unsupported
from holdfast.gradients import with_gradients
from holdfast.graph.capture import captured, example_row
from holdfast.graph.ir import Graph
from holdfast.graph.running import Approximate
from holdfast.graph.single import with_two_logits
from holdfast.graph.units import in_units
from holdfast.graph.walk import check_covered
from holdfast.moves import Entries, Groups, Moves, Units, recorded
from holdfast.rounding import coarse_up
from holdfast.smoothing.noise import Noise
from holdfast.smoothing.options import SmoothingOptions
from holdfast.types import Progress, Report, silent


def certify(  # noqa: PLR0913 - the signature is the contract's
    model: nn.Module | Callable[[list[str]], Any],
    inputs: Tensor | Sequence[str],
    labels: Tensor,
    norm: float = 2,
    method: str = "auto",
    semantics: str = "real",
    *,
    threshold: float = 0.0,
    free: Entries = None,
    scale: Units = None,
    onehot: Groups = (),
    noise: Noise | None = None,
    epsilon: float | None = None,
    samples: int = 100_000,
    confidence: float = 0.999,
    seed: int = 0,
    report: Report = silent,
) -> Certificates:
    """Certify, row by row, how far an input can move before the predicted class may change.

    Args:
        model: A classifier in eval mode: [N, ...] to [N, classes], or to one logit, [N] or [N, 1];
            or any model with one row of outputs, where labels are targets. For texts a function
            from a list of them to class numbers [n], or to logits [n, classes].
        inputs: [N, ...], floating point; each row is taken as the exact centre of its ball. Rows
            in another precision than the weights are taken in that of the weights, with a warning
            where that rounds them. Or a list of texts.
        labels: [N] or [N, 1], class numbers, as a tensor, array or list; or floating-point targets,
            [N] or [N, outputs], for which only `output_change` and `loss_change` promise something.
        norm: Norm of the distance between inputs: 1, 2 or inf; or "l1", "l2", "linf".
        method: `global` (one constant for all rows), `local` (bounds on a ball around each row)
            or `auto`, the larger radius of the two, row by row. `smoothing` is about another model:
            what this one says most often under noise, with a confidence.
        semantics: What the claim is about. `real`: the exact real function of the stored weights.
            `float32`: the network as executed in float32, on float32 inputs, in whatever order
            sums are taken.
        threshold: For a model of one logit: class 1 is where it is above this, class 0 below.
        free: Which entries of a row may move, as truth values of its shape or numbers of entries;
            the others are taken to keep their values.
        scale: Units of the entries, of a row's shape: distances are ||(x' - x) / scale||.
        onehot: Groups of entries of the flattened row, by their numbers, as [[0, 1, 2], [5, 6]]: in
            each one entry is 1 and the others are 0, in rows that moved too. Every change of
            categories within reach is certified by itself, up to 4096 of them a row.
        noise: For smoothing: `holdfast.Deletion(p)` for edits of texts, `Gaussian(sigma)` for the
            l2 distance of numbers, `Uniform(lam)` for l1; the distance is the noise's own.
        epsilon: For smoothing: the distance that is asked about; a row is done when its samples say
            whether it is certified there, often after few of them. None for all samples of every
            row, as in the literature, with somewhat larger radii.
        samples: For smoothing: how many samples of a row are counted at most.
        confidence: For smoothing: of the claim about each row.
        seed: For smoothing: of the draws; with it, a row's samples depend on its content alone.
        report: Called with the progress.

    Returns:
        One radius per row, in input order and input units, rounded down; 0 with its reason where
        nothing is certified. Radii do not depend on batch size, threads or row order. Where the
        user interrupts, rows that are done keep their radii, and the others have 0 and the reason
        `stopped`.

    Warns:
        HoldfastWarning: Where the user interrupts, and where results would mislead: the model ends
            in softmax or sigmoid, rows look like pixels from 0 to 255, labels or answers are all
            one class, or columns are spread more than a hundred times differently without units.

    Raises:
        Unsupported: When the model cannot be captured or bounded, with all the reasons, or its
            weights change meanwhile.
        InvalidInput: When an argument is not usable.

    >>> import torch, holdfast
    >>> model = torch.nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    >>> inputs, labels = torch.tensor([[3.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 0])
    >>> certificates = holdfast.certify(model, inputs, labels)
    >>> [f"{radius:.5f}" for radius in certificates.radius.tolist()]  # 2 / sqrt(2), rounded down
    ['1.41421', '0.00000']
    >>> certificates.reason
    ('certified', 'tie')
    """
    moves = Moves(free, scale, onehot)
    if method == "smoothing" or noise is not None:
        how = SmoothingOptions(noise, epsilon, samples, confidence, seed)  # pyright: ignore[reportArgumentType]
        _check_plain(how, norm, method, semantics, moves)
        return certify_smoothed(model, inputs, labels, how, check_threshold(threshold), report)
    model = check_model(model)
    options = CertifyOptions(norm, method, semantics, threshold, moves)
    with with_gradients():
        inputs = fit_inputs(check_inputs(inputs), model)
        labels = check_labels(labels, len(inputs))
        options.check_execution(model, inputs)
        with captured(model, example_row(inputs)) as graph:
            found = certify_graph(graph, inputs, labels, options, report)
            if found.reached < len(found):
                stopped = f"stopped: {found.reached} of {len(found)} rows"
                warn_of([f"{stopped}; the others have radius 0 and the reason 'stopped'"])
            warn_of(misleading(graph, (inputs, labels), options.threshold, moves))
            warn_of(uneven_advice(uneven(inputs, moves)))
            return found


def _check_plain(
    how: SmoothingOptions, norm: object, method: str, semantics: str, moves: Moves
) -> None:
    """Refuse what smoothing does not do.

    Raises:
        InvalidInput: When the norm is not the noise's, or another option is given.
    """
    if method != "smoothing":
        raise InvalidInput("method", shown(method), "'smoothing', where there is noise")
    if check_norm(norm) not in (2.0, how.noise.norm):
        wanted = f"the distance of {how.noise} (linf radii are l2 radii by the root of the entries)"
        raise InvalidInput("norm", shown(norm), wanted)
    if semantics != "real":
        raise InvalidInput("semantics", shown(semantics), "none, for smoothing")
    if moves.free is not None or moves.scale is not None or moves.onehot:
        raise InvalidInput("free, scale, onehot", "some", "none, for smoothing")


def certify_graph(
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    options: CertifyOptions,
    report: Report = silent,
) -> Certificates:
    """Return certificates for rows of a captured model; see `certify`.

    Args:
        graph: The model, one that `CertifyOptions.check_execution` lets pass.
        inputs: [N, ...].
        labels: [N] classes, or targets.
        options: Norm, method and semantics.
        report: Called with the progress.

    Returns:
        One certificate per row, also when the user interrupts the search for radii.

    Raises:
        Unsupported: When the output is not one row of outputs, or cannot be bounded.
        InvalidInput: When labels do not fit.
    """
    graph, threshold = graph.with_row_output(), 0.0
    if not labels.is_floating_point() and graph[graph.output].shape == (1,):
        threshold = options.threshold
        graph = with_two_logits(graph, threshold)
    output = graph[graph.output]
    classes = output.shape[0] if len(output.shape) == 1 else 0
    if not classes:
        why = f"an output of shape {output.shape} per row, wanted one row of logits"
        raise Unsupported("certification", [output.obstacle(why)])
    if classes > 20_000 and not labels.is_floating_point():
        # There is a number for every pair of classes: 3 GB are enough.
        why = f"{classes} classes, wanted at most 20000: every pair of them has its own constant"
        raise Unsupported("certification", [output.obstacle(why, "certify some of the outputs")])
    if labels.is_floating_point():
        labels = check_targets(labels, len(inputs), classes)
    else:
        labels = check_classes(labels, len(inputs), classes)
    if options.semantics == "float32":
        check_covered(graph, FLOAT32)
    moves = options.moves
    units = moves.units(inputs.shape[1:])
    moves.check_rows(inputs)
    report(Progress("certificates"))
    finite = torch.isfinite(inputs.reshape(len(inputs), -1)).all(1)
    # Rows that are not finite are evaluated as zeros and reported apart.
    safe = torch.where(finite.reshape(-1, *[1] * (inputs.dim() - 1)), inputs, 0.0)
    if labels.is_floating_point():
        logits = evaluated(graph, safe)
        known = finite & torch.isfinite(logits.value).all(1)
        fields = _no_radii(in_units(graph, units), known, options)
    else:
        logits, fields = _radii(graph, (safe, labels, finite), options, report)
    semantics = "" if labels.is_floating_point() else options.semantics
    return Certificates(
        **fields,
        labels=labels,
        norm=options.norm,
        semantics=options.semantics,
        guarantee=guarantee(options.norm, semantics, moves, fields["reason"]),
        fingerprint=graph.fingerprint,
        classes=classes,
        threshold=threshold,
        units=recorded(units),
        onehot=moves.groups,
        changes=Changes(graph, inputs.detach().clone(), labels, logits, options.norm, units),
    )


def _radii(
    graph: Graph,
    rows: tuple[Tensor, Tensor, Tensor],
    options: CertifyOptions,
    report: Report,
) -> tuple[Approximate, dict[str, Any]]:
    """Return the logits of rows, and what is proved of them; see `radii_of`.

    Args:
        graph: A classifier.
        rows: Inputs [N, ...], finite, labels [N], and whether the inputs were so as given, [N].
        options: Norm, method, semantics and what may move.
        report: Called with the progress.
    """
    (inputs, labels, finite), moves = rows, options.moves
    units = moves.numeric_units(inputs.shape[1:])
    fixed = units is not None and not bool(units.any())
    rates = None if fixed else global_rates(in_units(graph, units), options)

    def fields_of(inputs: Tensor, labels: Tensor, finite: Tensor) -> tuple[Approximate, dict]:
        logits = evaluated(graph, inputs)
        known = finite & torch.isfinite(logits.value).all(1)
        balls = Balls(graph, inputs, labels, options.norm, units)
        return logits, radii_of(balls, (logits, known), options, rates, report)

    def radii(inputs: Tensor, labels: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        _, found = fields_of(inputs, labels, torch.ones_like(labels, dtype=torch.bool))
        if "stopped" in found["reason"]:
            raise KeyboardInterrupt  # a radius of 0 would say something about the corner
        return found["radius"], found["method"]

    logits, fields = fields_of(inputs, labels, finite)
    every = moves.units(inputs.shape[1:])
    if every is None or not moves.groups:
        return logits, fields
    walk = partial(nearest_first, groups=moves.groups, units=every.flatten(), norm=options.norm)
    fields = over_corners(fields, (inputs, labels), walk, options.norm, radii)
    # The constant is that of all rows, between the corners too.
    return logits, fields | {"constant": _constant(in_units(graph, every), options)}


def _no_radii(graph: Graph, known: Tensor, options: CertifyOptions) -> dict[str, Any]:
    """Return what takes the place of radii where labels are targets: there is no class.

    Args:
        graph: The model.
        known: Whether rows and outputs were finite, [N].
        options: Norm and method.
    """
    count = len(known)
    nothing = torch.zeros(count, dtype=torch.float64)
    return {
        "radius": nothing,
        "margin": nothing,
        "predicted": torch.full((count,), -1),
        "reason": tuple("no_class" if finite else "not_finite" for finite in known.tolist()),
        "method": (options.method,) * count,
        "constant": _constant(graph, options),
    }


def _constant(graph: Graph, options: CertifyOptions) -> float:
    """Return a global constant, infinite where none is known, or asked for."""
    if options.method != "local":
        with contextlib.suppress(Unsupported):
            return coarse_up(gain_upper(graph, options.norm))
    return math.inf
