"""Every part of an audit on one model: what was found, or why the model does not allow it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from holdfast.arguments import (
    check_norm,
    check_number,
    check_seed,
    check_threshold,
    check_whole,
)
from holdfast.attacks.agreement import check_agreement
from holdfast.attacks.attack import AttackOptions, attack_graph
from holdfast.attacks.result import Attacks
from holdfast.audits.flips import answers, flips_part
from holdfast.audits.link import Links
from holdfast.audits.parts import bracket_part, conditions_part, descent_part, knowledge_part
from holdfast.audits.replaced import substitutions_part
from holdfast.brackets.bracket import Bracket
from holdfast.brackets.lipschitz import LipschitzOptions, lipschitz_graph
from holdfast.certificates.certificate import Certificates
from holdfast.certificates.certify import certify_graph
from holdfast.certificates.conditions import ConditionsOptions, conditions, conditions_of
from holdfast.certificates.misleading import misleading
from holdfast.certificates.options import CertifyOptions
from holdfast.errors import HoldfastError, InvalidInput, Unsupported
from holdfast.files import StrPath, plain
from holdfast.graph.capture import captured, weights_hash
from holdfast.graph.ir import Graph
from holdfast.graph.single import two_logits
from holdfast.graph.walk import run
from holdfast.knowledge_continuity.knowledge import knowledge
from holdfast.knowledge_continuity.result import Knowledge
from holdfast.moves import EVERYTHING, Moves
from holdfast.smoothness.descent import check_step, descent
from holdfast.smoothness.records import read_measurements
from holdfast.sources.data import LoadedData
from holdfast.sources.models import LoadedModel, parameters
from holdfast.sources.tokens import LoadedTokens
from holdfast.types import Outcome, Progress, Report

T = TypeVar("T")

MOST_ROWS = 2000
"""Knowledge continuity and a training step are measured on the first so many rows: pairs grow with
the square of the rows, and the curvature takes dozens of passes."""


@dataclass(frozen=True)
class AuditOptions:
    """How a model is audited.

    Attributes:
        norm: Norm of the distance between inputs: 1, 2 or inf.
        epsilon: Distance of the headline, in input units; without one the headline is the distance
            that half of the rows are certified to.
        seconds: Time for each model's bracket, and for its attacks.
        step: Learning rate of the training step that is measured.
        threshold: A model of one logit means class 1 where it is above this.
        training: A `DescentMonitor`'s file about the training of the model, which must be one.
        command: The command that reproduces the run, for the page.
        moves: What may move in a row, in which units.
        seed: Of all random choices.
        held_out: Whether you vouch that no row was trained on: the page calls them test inputs.
        substitutions: For sentences, which words may stand for each other: `json:FILE` or
            `wordnet:FOLDER`.
        budget: How many words may be replaced at once.

    Raises:
        InvalidInput: When one of them is not usable.
        Unsupported: When there are one-hot groups.
    """

    norm: float = 2.0
    epsilon: float | None = None
    seconds: float = 5.0
    step: float = 0.01
    threshold: float = 0.0
    training: StrPath | None = None
    command: str = "holdfast.audit(model, data)"
    moves: Moves = EVERYTHING
    held_out: bool = False
    seed: int = 0
    substitutions: str | None = None
    budget: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", check_norm(self.norm))
        object.__setattr__(self, "step", check_step(self.step))
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        check_seed(self.seed)
        check_whole("budget", self.budget, "a whole number, at least 1", least=1)
        self.moves.check_no_groups("audit")
        if self.epsilon is not None:
            wanted = "a finite distance above 0"
            epsilon = check_number("epsilon", self.epsilon, lambda e: 0 < e < math.inf, wanted)
            object.__setattr__(self, "epsilon", epsilon)


def steps_of(data: LoadedData | LoadedTokens, options: AuditOptions) -> tuple[str, ...]:
    """Return what is done for every model on such data, in order."""
    if isinstance(data, LoadedTokens):
        more = () if options.substitutions is None else ("substitutions",)
        return ("knowledge continuity", *more)
    parts = ("Lipschitz bracket", "certificates", "attacks")
    return ("capture", *parts, "knowledge continuity", "training step")


@dataclass
class Steps:
    """Counts the steps of an audit, and passes the progress of the verbs on.

    Attributes:
        report: Takes the progress.
        total: Number of steps of the whole audit.
        done: Steps that have ended.
        part: The present step.
    """

    report: Report
    total: int
    done: int = -1
    part: str = "starting"

    def begin(self, part: str) -> None:
        """Begin a step, which ends the one before."""
        self.done, self.part = self.done + 1, part
        self.report(Progress(part, self.done, self.total))

    def take(self, progress: Progress) -> None:
        """Report the progress of a verb as that of the present step."""
        part = f"{self.part}, {progress}"
        self.report(Progress(part, self.done, self.total, progress.improvement, progress))


@dataclass
class Study:
    """One model while it is audited: its document, its operations, its certificates and attacks.

    Attributes:
        subject: Its part of the document.
        ops: Its operations.
        warnings: What would mislead a reader of the results.
        certificates: Of the rows; None where they were refused.
        attacks: As `certificates`.
    """

    subject: dict[str, Any] = field(default_factory=dict)
    ops: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    certificates: Certificates | None = None
    attacks: Attacks | None = None


def study(
    loaded: LoadedModel,
    data: LoadedData | LoadedTokens,
    options: AuditOptions,
    steps: Steps,
    one: Study,
) -> None:
    """Run every part that makes sense for the data on one model.

    Args:
        loaded: The model.
        data: The rows.
        options: What is asked for.
        steps: Takes the progress.
        one: Takes each part as soon as it is done.
    """
    if isinstance(data, LoadedTokens):
        _study_tokens(loaded, data, options, steps, one)
        return
    steps.begin(f"{loaded.name}: capture")
    with captured(loaded.model, data.inputs[:1]) as graph:
        one.ops |= {node.op for node in graph.nodes}
        _study_graph(graph, loaded, data, options, steps, one)


def _study_graph(
    graph: Graph,
    loaded: LoadedModel,
    data: LoadedData,
    options: AuditOptions,
    steps: Steps,
    one: Study,
) -> None:
    """Run every part on a captured model."""
    rows, subject = (data.inputs, data.labels), one.subject
    predicted = _predicted(graph, data, options.threshold)
    subject |= _subject(loaded, graph.fingerprint)
    subject["accuracy"] = float((predicted == data.labels).double().mean())
    scaled = data.scale is not None
    one.warnings += misleading(graph, rows, options.threshold, options.moves, loaded.name, scaled)
    steps.begin(f"{loaded.name}: Lipschitz bracket")
    bracket, why = _or_why(lambda: _bracket(graph, data, options, steps.take), Unsupported)
    subject["lipschitz"] = why if bracket is None else bracket_part(bracket)
    steps.begin(f"{loaded.name}: certificates")
    asked = {"threshold": options.threshold, "moves": options.moves}
    certify = CertifyOptions(options.norm, **asked)
    certificates, why = _or_why(
        lambda: certify_graph(graph, *rows, certify, steps.take), Unsupported
    )
    if certificates is not None and certificates.reached < len(certificates):
        raise KeyboardInterrupt  # some of the rows do not stand for all
    one.certificates, subject["certificates"] = certificates, why
    steps.begin(f"{loaded.name}: attacks")
    attack = AttackOptions(options.norm, seconds=options.seconds, seed=options.seed, **asked)
    attacks, why = _or_why(
        lambda: attack_graph(graph, loaded.model, rows, attack, steps.take), Unsupported
    )
    if attacks is not None and attacks.stopped:
        raise KeyboardInterrupt
    if certificates is not None and attacks is not None:
        check_agreement(graph, certificates, attacks)
    one.attacks, subject["attacks"] = attacks, why
    ratio = math.inf if bracket is None else bracket.ratio
    how = ConditionsOptions(options.norm, moves=options.moves, columns=False)
    verdict = conditions_of(rows, how, certificates, ratio)
    subject["conditions"] = conditions_part(verdict)
    steps.begin(f"{loaded.name}: knowledge continuity")
    # Refused as bad input are one row, or no layer: there is nothing to compare.
    found, why = _or_why(
        lambda: _knowledge(graph, loaded.model, data, options, predicted),
        Unsupported,
        InvalidInput,
    )
    subject["knowledge"] = found or why
    steps.begin(f"{loaded.name}: training step")
    # Refused as bad input are a model with nothing to train, and labels that do not fit.
    found, why = _or_why(lambda: _descent(loaded, data, options), Unsupported, InvalidInput)
    subject["descent"] = found or why


def _study_tokens(
    loaded: LoadedModel, data: LoadedTokens, options: AuditOptions, steps: Steps, one: Study
) -> None:
    """Run what needs no distance between inputs; the model need not be one that can be captured."""
    steps.begin(f"{loaded.name}: knowledge continuity")
    verdict = conditions(loaded.model, *data.batches[0], options.norm)
    subject = one.subject
    subject |= _subject(loaded, weights_hash(loaded.model))
    subject |= {"accuracy": None, "conditions": conditions_part(verdict)}
    rows = data.first(MOST_ROWS)
    how = {"perturbations": rows.perturbations, "seed": options.seed}
    measured, why = _or_why(
        lambda: _whole(knowledge(loaded.model, rows.batches, **how)),
        Unsupported,
        InvalidInput,
    )
    subject["knowledge"] = why
    if measured is not None:
        predicted = answers(loaded.model, rows.batches) if measured.accuracy is not None else None
        known = knowledge_part(measured, data, predicted)
        subject |= {"accuracy": measured.accuracy, "knowledge": known}
        if predicted is not None and rows.perturbations is not None:
            subject["flips"] = flips_part(rows, predicted, loaded.model)
    if options.substitutions is not None and measured is not None:
        steps.begin(f"{loaded.name}: substitutions")
        words = options.substitutions, options.budget
        part, why = _or_why(
            lambda: substitutions_part(loaded, data, *words, steps.take), Unsupported
        )
        subject["substitutions"] = why if part is None else part


def _or_why(
    part: Callable[[], T], *refusals: type[HoldfastError]
) -> tuple[T | None, dict[str, Any]]:
    """Return what a part found, or None and why it was refused, as it stands in the document."""
    try:
        return part(), {}
    except refusals as refusal:
        return None, {"refused": str(refusal)}


def _subject(loaded: LoadedModel, fingerprint: str) -> dict[str, Any]:
    return {
        "name": loaded.name,
        "description": loaded.description,
        "model": loaded.spec,
        "parameters": parameters(loaded.model),
        "fingerprint": fingerprint,
    }


def _predicted(graph: Graph, data: LoadedData, threshold: float) -> Tensor:
    """Return the class with the largest logit of each row, [N]."""
    with torch.no_grad():
        parts = [two_logits(run(graph, part), threshold) for part in data.inputs.split(256)]
    return torch.cat(parts).argmax(-1)


def _bracket(graph: Graph, data: LoadedData, options: AuditOptions, report: Report) -> Bracket:
    how = {"seconds": options.seconds, "moves": options.moves, "seed": options.seed}
    asked = LipschitzOptions(options.norm, **how)
    bracket = lipschitz_graph(graph, data.inputs, asked, report)
    if bracket.outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt  # the search kept it to return its best; here it ends the audit
    return bracket


def _knowledge(
    graph: Graph, model: nn.Module, data: LoadedData, options: AuditOptions, predicted: Tensor
) -> dict[str, Any]:
    """Measure knowledge continuity, and hold it against the Lipschitz constants of the layers."""
    inputs, labels = data.inputs[:MOST_ROWS], data.labels[:MOST_ROWS]
    how = {"threshold": options.threshold, "seed": options.seed}
    measured = _whole(knowledge(model, (inputs, labels), **how))
    links = Links(graph, measured, inputs, labels)
    found = {}
    for layer in measured.layers:
        # Refused are a skip connection round the layer, attention, ...
        one, why = _or_why(lambda layer=layer: links.at(layer), Unsupported, InvalidInput)
        found[layer] = why if one is None else plain(one)
    return knowledge_part(measured, data, predicted) | {"links": found}


def _whole(measured: Knowledge) -> Knowledge:
    """Return what was measured of all layers.

    Raises:
        KeyboardInterrupt: When the user interrupted, and some are missing.
    """
    if measured.stopped:
        raise KeyboardInterrupt
    return measured


def _descent(loaded: LoadedModel, data: LoadedData, options: AuditOptions) -> dict[str, Any]:
    rows = data.inputs[:MOST_ROWS], data.labels[:MOST_ROWS]
    found = descent(loaded.model, "cross_entropy", *rows, step=options.step)
    training = None if options.training is None else read_measurements(options.training)
    return descent_part(found, training)
