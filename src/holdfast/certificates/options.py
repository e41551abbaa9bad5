"""How rows are certified: norm, method, semantics, and what may move."""

from dataclasses import dataclass

from torch import Tensor, nn

from holdfast.arguments import check_choice, check_norm, check_threshold
from holdfast.certificates.float32 import check_float32
from holdfast.moves import EVERYTHING, Moves


@dataclass(frozen=True)
class CertifyOptions:
    """How rows are certified.

    Attributes:
        norm: 1, 2 or inf.
        method: `auto`, `global` or `local`.
        semantics: `real` or `float32`.
        threshold: As for `certify`.
        moves: What may move, in which units.

    Raises:
        InvalidInput: When one of them is something else.
    """

    norm: float = 2.0
    method: str = "auto"
    semantics: str = "real"
    threshold: float = 0.0
    moves: Moves = EVERYTHING

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", check_threshold(self.threshold))
        object.__setattr__(self, "norm", check_norm(self.norm))
        check_choice("method", self.method, ("auto", "global", "local"))
        check_choice("semantics", self.semantics, ("real", "float32"))

    def check_execution(self, model: nn.Module, inputs: Tensor) -> None:
        """Refuse a model that is not executed in the way that the claim is about.

        Args:
            model: The model.
            inputs: [N, ...].

        Raises:
            Unsupported: With all the reasons.
            InvalidInput: When the inputs are not of the type that the claim is about.
        """
        if self.semantics == "float32":
            check_float32(model, inputs)
