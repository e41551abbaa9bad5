"""`holdfast substitutions`."""

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import holdfast
from holdfast.cli.app import (
    BELOW,
    Answer,
    DataName,
    FailUnder,
    Json,
    Model,
    check_share,
    check_writable,
    load,
    verb,
)
from holdfast.errors import InvalidInput


@verb
def substitutions(  # noqa: PLR0913 - the options of the verb
    model: Model,
    data: DataName,
    *,
    words: Annotated[
        str, Parameter(help="which may stand for each other: json:FILE or wordnet:FOLDER")
    ],
    budget: Annotated[int, Parameter(help="words that may be replaced at once")] = 1,
    deletions: Annotated[bool, Parameter(negative=(), help="words may also be left out")] = False,
    seconds: Annotated[float, Parameter(help="time for all texts")] = math.inf,
    resume: Annotated[Path | None, Parameter(help="file of --out: what it decided is kept")] = None,
    out: Annotated[Path | None, Parameter(help="file for the answers, text by text")] = None,
    fail_under: FailUnder = None,
    as_json: Json = False,
) -> Answer:
    """Find out for each sentence whether replacing words can change its answer."""
    import torch

    from holdfast.cli.spoken import said_by
    from holdfast.progress import show_progress
    from holdfast.sources.data import LoadedData
    from holdfast.sources.tokens import read_tokenizer
    from holdfast.terminal import answer_table

    check_writable(out)
    check_share(fail_under)
    table = holdfast.load_substitutions(words)
    before = None if resume is None else holdfast.SubstitutionCertificates.load(resume)
    (loaded,), rows = load([model], data)
    if isinstance(rows, LoadedData) or loaded.folder is None or not rows.texts:
        raise InvalidInput("data", repr(data), "sentences, for a model hf:FOLDER")
    tokenizer = read_tokenizer(loaded.folder)
    tokenizer.model_max_length = rows.most or tokenizer.model_max_length
    with show_progress("substitutions") as report:
        result = holdfast.certify_substitutions(
            loaded.model, tokenizer, rows.texts,
            torch.cat([labels for _, labels in rows.batches]), table, budget, deletions=deletions,
            seconds=seconds, resume=before, report=report,
        )  # fmt: skip
    if out is not None:
        result.save(out)
    stopped = f"{result.reached} of {len(result)} texts" * (result.reached < len(result))
    share = result.certified_accuracy
    document = {
        "model": model,
        "data": data,
        "words": words,
        "clean_accuracy": result.clean_accuracy,
    }
    document |= {"certified_accuracy": share, **rows.treatment, **said_by(result, "finished")}
    code = BELOW if fail_under is not None and share < fail_under else 0
    return Answer(document, lambda: answer_table(result), as_json, code, stopped)
