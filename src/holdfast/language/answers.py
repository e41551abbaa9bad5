"""What a model answers to texts: each as it would be alone, many at a time."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.arguments import check_model, check_tensor, shown, user_code
from holdfast.errors import InvalidInput, Unsupported
from holdfast.graph.capture import training_modes
from holdfast.graph.forward import logits_in, run_function, run_model
from holdfast.graph.single import two_logits


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answers to n texts.

    Attributes:
        predicted: [n] int64, the class with the largest logit; -1 where logits are not finite or
            two classes share the largest.
        logits: [n, classes] float64; None for a function that answers class numbers.
        room: [n] float64, how far a margin must be above 0 so that the texts that were run beside
            a text did not decide on its answer: the square root of the precision, times the
            largest logit of all the texts (where terms cancel, those of one text may be small).
    """

    predicted: Tensor
    logits: Tensor | None
    room: Tensor

    @classmethod
    def of(cls, found: Tensor, eps: float = 0.0) -> "Answers":
        """Return what logits [n, classes] say.

        Args:
            found: The logits.
            eps: Precision of what made them, where it may be coarser than theirs.
        """
        logits = found.double()
        most, predicted = logits.max(1)
        clear = logits.isfinite().all(1) & ((logits == most[:, None]).sum(1) == 1)
        largest = logits.nan_to_num(0.0, 0.0, 0.0).abs().max()
        room = max(eps, torch.finfo(found.dtype).eps) ** 0.5 * largest
        return cls(torch.where(clear, predicted, -1), logits, room.expand(len(logits)))

    def margins(self, label: int) -> Tensor:
        """Return how far the logit of a class is above every other one, [n].

        Returns:
            Without logits inf where the answer is this class, else -inf; where they are not
            finite, -inf.
        """
        right = self.predicted == label
        if self.logits is None:
            return torch.where(right, torch.inf, -torch.inf).double()
        others = self.logits.clone()
        others[:, label] = -torch.inf
        margins = self.logits[:, label] - others.amax(1)
        return torch.where(self.logits.isfinite().all(1), margins, -torch.inf)

    def losses(self, label: int) -> Tensor:
        """Return the cross entropy of a class, [n], in nats; without logits 1 where it is wrong."""
        if self.logits is None:
            return (self.predicted != label).double()
        return -self.logits.log_softmax(1)[:, label]


class TextModel(ABC):
    """A classifier of texts."""

    def answers(self, texts: Sequence[str], alone: bool = False) -> Answers:
        """Return what the model answers to texts.

        Args:
            texts: At least one.
            alone: Run each by itself, not beside others.
        """
        parts = [self._run(texts[k : k + 1]) for k in range(len(texts))] if alone else None
        return _joined(parts) if parts else self._run(texts)

    def is_cut(self, text: str) -> bool:
        """Return whether the model leaves out the end of a text."""
        return not isinstance(text, str)

    def is_blank(self, text: str) -> bool:
        """Return whether the model is given nothing of a text."""
        return not isinstance(text, str)

    @abstractmethod
    def keys(self, texts: Sequence[str]) -> Sequence[Hashable]:
        """Return what the model reads of texts: where two are equal, so are its answers."""

    @abstractmethod
    def _run(self, texts: Sequence[str]) -> Answers: ...


class TokenModel(TextModel):
    """A module that reads token ids, as those of Hugging Face transformers do.

    Texts of one length are run together, so that none is padded.

    Args:
        model: In eval mode; called with what the tokenizer gives, by keyword.
        tokenizer: As those of transformers; longer texts are cut to what it and the model allow.

    Raises:
        InvalidInput: When the model is no module.
        Unsupported: When it is in training mode.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model, self.tokenizer = check_model(model), tokenizer
        if obstacles := [*training_modes(self.model)]:
            raise Unsupported("an answer to a text", obstacles)
        parameter = next(self.model.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        # What runs in bfloat16 often returns its logits in float32.
        kinds = {each.dtype for each in self.model.parameters() if each.is_floating_point()}
        self.eps = max((torch.finfo(kind).eps for kind in kinds), default=0.0)
        places = getattr(getattr(model, "config", None), "max_position_embeddings", 2**31)
        limit = getattr(tokenizer, "model_max_length", 512)
        self.limit = min(limit, places, 2**20)

    def is_cut(self, text: str) -> bool:
        """Return whether the model leaves out the end of a text."""
        return len(self._tokens([text], cut=False)["input_ids"][0]) > self.limit

    def is_blank(self, text: str) -> bool:
        """Return whether the tokenizer makes nothing of a text."""
        return not self._tokens([text])["input_ids"][0]

    def keys(self, texts: Sequence[str]) -> Sequence[Hashable]:
        """Return the tokens of each text, and whatever else the tokenizer makes of it."""
        return [*zip(*(map(_hashable, each) for each in self._tokens(texts).values()), strict=True)]

    def _tokens(self, texts: Sequence[str], cut: bool = True) -> dict[str, list[list[int]]]:
        wanted = "a tokenizer as those of transformers: tokenizer([text])['input_ids']"
        with user_code("tokenizer", "texts on which it fails", wanted):
            options = {"truncation": True, "max_length": self.limit} if cut else {}
            found = self.tokenizer([*texts], verbose=False, **options)
            return {name: [*found[name]] for name in found}

    def _run(self, texts: Sequence[str]) -> Answers:
        tokens = self._tokens(texts)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        if 0 in lengths:
            empty = texts[lengths.index(0)]
            got = f"{shown(empty)}, of which the tokenizer makes nothing"
            raise InvalidInput("texts", got, "texts with a token in each")
        order, found = [], []
        for places in _of_one_length(lengths):
            rows = {k: torch.tensor([v[p] for p in places]) for k, v in tokens.items()}
            rows = {name: row.to(self.device) for name, row in rows.items()}
            with torch.no_grad():
                logits = two_logits(logits_in(run_model(self.model, rows, "texts")))
            if logits.ndim != 2 or len(logits) != len(places) or not logits.is_floating_point():
                got = f"an output of shape {tuple(logits.shape)} for {len(places)} texts"
                raise InvalidInput("model", got, "one row of logits for each")
            found.append(logits.cpu())
            order += places
        back = torch.tensor(order).argsort()
        return Answers.of(torch.cat(found)[back], self.eps)


def _hashable(part: Any) -> Hashable:
    """Return what a tokenizer made of a text, with lists in it as tuples."""
    part = part.tolist() if hasattr(part, "tolist") else part
    return tuple(map(_hashable, part)) if isinstance(part, list | tuple) else part


def _of_one_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield places of equal lengths, so many at a time that one run stays in the caches."""
    by_length: dict[int, list[int]] = {}
    for place, length in enumerate(lengths):
        by_length.setdefault(length, []).append(place)
    for length, places in by_length.items():
        most = max(1, min(64, 2048 // length))
        for start in range(0, len(places), most):
            yield places[start : start + most]


class FunctionModel(TextModel):
    """A function from a list of texts to their classes, or to logits: an API, for example.

    Args:
        function: Its answer to a text must not depend on the texts beside it.
    """

    def __init__(self, function: Callable[[list[str]], Any]) -> None:
        self.function = function

    def keys(self, texts: Sequence[str]) -> Sequence[Hashable]:
        """Return the texts as they are."""
        return texts

    def _run(self, texts: Sequence[str]) -> Answers:
        found = []
        for start in range(0, len(texts), 64):
            some = [*texts[start : start + 64]]
            wanted = f"{len(some)} class numbers, or logits [{len(some)}, classes]"
            answer = run_function("model", self.function, some)
            answer = check_tensor("model", getattr(answer, "logits", answer), wanted)
            if answer.shape[:1] != (len(some),) or answer.ndim > 2:
                raise InvalidInput("model", f"an answer of shape {tuple(answer.shape)}", wanted)
            found.append(_answered(answer.detach().cpu(), wanted))
        return _joined(found)


def _answered(answer: Tensor, wanted: str) -> Answers:
    if answer.is_floating_point():
        return Answers.of(two_logits(answer))
    if answer.ndim == 2 and answer.shape[1] != 1:
        raise InvalidInput("model", f"whole numbers of shape {tuple(answer.shape)}", wanted)
    return Answers(answer.reshape(-1).long(), None, torch.zeros(len(answer), dtype=torch.float64))


def _joined(parts: Sequence[Answers]) -> Answers:
    logits = [part.logits for part in parts if part.logits is not None]
    return Answers(
        torch.cat([part.predicted for part in parts]),
        torch.cat(logits) if logits else None,
        torch.cat([part.room for part in parts]),
    )


def text_model(model: Any, tokenizer: Any) -> TextModel:
    """Return a classifier of texts.

    Args:
        model: A module that reads token ids, or any function of a list of texts.
        tokenizer: Of the module; None for a function.

    Raises:
        InvalidInput: When one of them is missing, or neither is usable.
        Unsupported: When a module is in training mode.
    """
    if isinstance(model, nn.Module) and tokenizer is not None:
        if not callable(tokenizer):
            raise InvalidInput("tokenizer", shown(tokenizer), "one as those of transformers")
        return TokenModel(model, tokenizer)
    if isinstance(model, nn.Module):
        raise InvalidInput("tokenizer", "None", "the tokenizer of the model")
    if not callable(model):
        wanted = "a module and its tokenizer, or a function from a list of texts to their answers"
        raise InvalidInput("model", shown(model), wanted)
    if tokenizer is not None:
        raise InvalidInput("tokenizer", shown(tokenizer), "None, where the model is a function")
    return FunctionModel(model)
