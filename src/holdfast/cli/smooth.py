"""`holdfast smooth`."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from holdfast.cli.app import (
    BELOW,
    DISTANCE,
    Answer,
    DataName,
    FailUnder,
    Json,
    Model,
    Seed,
    Threshold,
    check_share,
    check_writable,
    load,
    verb,
)
from holdfast.errors import InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.smoothing.noise import Noise
    from holdfast.sources.models import LoadedModel
    from holdfast.sources.tokens import LoadedTokens


@verb
def smooth(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    noise: Annotated[
        str, Parameter(help="deletion:P of words, gaussian:SIGMA (l2) or uniform:LAM (l1)")
    ],
    epsilon: Annotated[
        float | None,
        Parameter(help="distance, or edits, to certify: rows end once that is known"),
        DISTANCE,
    ] = None,
    samples: Annotated[int, Parameter(help="samples of a row at most")] = 10_000,
    confidence: Annotated[float, Parameter(help="of the claim about each row")] = 0.999,
    seed: Seed = 0,
    threshold: Threshold = 0.0,
    out: Annotated[Path | None, Parameter(help="file for the certificates and counts")] = None,
    fail_under: FailUnder = None,
    as_json: Json = False,
) -> Answer:
    """Certify, with a confidence, what a model says most often to randomly disturbed inputs."""
    from holdfast.certificates.smoothed import certify_smoothed
    from holdfast.cli.spoken import said_by
    from holdfast.graph.capture import weights_hash
    from holdfast.progress import show_progress
    from holdfast.smoothing.noise import EDITS
    from holdfast.smoothing.options import SmoothingOptions
    from holdfast.sources.data import LoadedData
    from holdfast.terminal import certificates_table

    options = SmoothingOptions(_noise(noise), epsilon, samples, confidence, seed)
    check_writable(out)
    check_share(fail_under)
    (loaded,), rows = load([model], data)
    about: Mapping[str, Any] = rows.treatment
    if isinstance(rows, LoadedData):
        about = {**about, "normalisation": dict(loaded.units)}
        run, inputs, labels = loaded.model, rows.inputs, rows.labels
    elif options.noise.norm != EDITS:
        wanted = "deletion:P: sentences have no other distance"
        raise InvalidInput("noise", options.noise, wanted)
    else:
        run, inputs, labels = _texts(loaded, rows)
    with show_progress("samples") as report:
        found = certify_smoothed(run, inputs, labels, options, threshold, report)
    found = dataclasses.replace(found, fingerprint=weights_hash(loaded.model))
    if out is not None:
        found.save(out)
    reach = epsilon or 0.0
    verified = found.verified_accuracy(reach)
    document = {
        "model": model,
        "data": data,
        "epsilon": epsilon,
        "clean_accuracy": found.clean_accuracy,
        "verified_accuracy": verified,
        **about,
        **said_by(found),
    }
    code = BELOW if fail_under is not None and verified < fail_under else 0
    stopped = f"{found.reached} of {len(found)} rows" * (found.reached < len(found))
    return Answer(document, lambda: certificates_table(found, reach), as_json, code, stopped)


def _noise(text: str) -> "Noise":
    """Return a noise from its name.

    Raises:
        InvalidInput: When there is no such noise.
    """
    from holdfast.arguments import check_number, look_up
    from holdfast.smoothing.noise import Deletion, Gaussian, Uniform

    kind, _, size = text.partition(":")
    known: dict[str, Callable[[float], Noise]] = {
        "deletion": Deletion, "gaussian": Gaussian, "uniform": Uniform
    }  # fmt: skip
    noise = look_up("noise", kind, known)
    wanted = f"{kind}:NUMBER, such as {kind}:0.8"
    return noise(check_number("noise", size, math.isfinite, wanted))


def _texts(
    loaded: "LoadedModel", rows: "LoadedTokens"
) -> "tuple[Callable[[list[str]], Tensor], list[str], Tensor]":
    """Return what answers to texts, the texts and their labels.

    Raises:
        InvalidInput: When the rows came as token ids.
    """
    import torch

    from holdfast.language.answers import text_model
    from holdfast.sources.tokens import read_tokenizer

    if not rows.texts or loaded.folder is None:
        raise InvalidInput("data", repr(rows.name), "sentences, for deletions of words")
    reader = text_model(loaded.model, read_tokenizer(loaded.folder))
    # Where a tokenizer makes nothing of an empty text, it has no class.
    blank = reader.is_blank("")

    def answer(texts: list[str]) -> "Tensor":
        found = torch.full((len(texts),), -1)
        places = [k for k, text in enumerate(texts) if text or not blank]
        if places:
            found[places] = reader.answers([texts[k] for k in places]).predicted
        return found

    labels = torch.cat([labels for _, labels in rows.batches])
    return answer, [*rows.texts], labels
