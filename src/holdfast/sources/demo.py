"""The built-in demo: two small nets on scikit-learn's digits, one plain and one bounded.

Both read the same 8x8 scans of handwritten digits, have the same widths and are accurate. The
plain net's global Lipschitz constant is so large that its certificates say next to nothing; the
bounded net was trained with a constant of 1 up to its last layer, and its certificates are useful.
`scripts/train_demo.py` trains both and writes the files that this module reads.
"""

import gzip
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from holdfast.arguments import look_up
from holdfast.errors import InvalidInput, MissingExtra

DEMO_MODELS: dict[str, str] = {
    "digits-plain": "A ReLU net (64-112-112-112-10) trained for accuracy alone on 8x8 digits.",
    "digits-bounded": (
        "A GroupSort net (64-112-112-112-10) on 8x8 digits with orthogonal hidden layers, "
        "trained for margin."
    ),
}
"""Name of every built-in model and one sentence about it."""

DEMO_DATA: dict[str, str] = {
    "digits": (
        "1797 scans of handwritten digits, 8x8 pixels in [0, 1], ten classes "
        "(Alpaydin and Kaynak, UCI 1998; the copy in scikit-learn)."
    ),
}
"""Name of every built-in data set and one sentence about it."""


class GroupSort(nn.Module):
    """Sort the last dimension within groups of neighbours, ascending.

    Anil, Lucas, Grosse, "Sorting out Lipschitz function approximation" (2019), section 4.1.
    Each group is permuted, so the map is 1-Lipschitz in l1, l2 and linf, and it preserves norms;
    with groups of two it is also called MaxMin.

    >>> GroupSort()(torch.tensor([3.0, 1.0, 2.0, 5.0]))
    tensor([1., 3., 2., 5.])

    Args:
        group: Size of each group, at least 2; the last dimension must be a multiple of it.

    Raises:
        InvalidInput: If `group` is below 2.
    """

    def __init__(self, group: int = 2) -> None:
        super().__init__()
        if group < 2:
            raise InvalidInput("group", group, "a group size of at least 2")
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of shape [..., n], sorted within groups; the shape stays.

        Raises:
            InvalidInput: If n is not a multiple of the group size.
        """
        if x.shape[-1] % self.group:
            raise InvalidInput("x", tuple(x.shape), f"last dimension a multiple of {self.group}")
        grouped = x.reshape(*x.shape[:-1], -1, self.group)
        return grouped.sort(-1).values.reshape(x.shape)

    def extra_repr(self) -> str:
        """Return what `repr` shows between the parentheses."""
        return f"group={self.group}"


def demo_architecture(name: str) -> nn.Sequential:
    """Return the untrained net behind `demo_model`, with PyTorch's default initial weights.

    Args:
        name: One of `DEMO_MODELS`.

    Returns:
        `nn.Linear` layers with an activation between them, [N, 64] pixels to [N, 10] logits.

    Raises:
        InvalidInput: If there is no such model.
    """
    look_up("model", name, DEMO_MODELS)
    activation = nn.ReLU if name == "digits-plain" else GroupSort
    layers: list[nn.Module] = []
    for fan_in in (64, 112, 112):
        layers += [nn.Linear(fan_in, 112), activation()]
    return nn.Sequential(*layers, nn.Linear(112, 10))


def demo_model(name: str) -> nn.Module:
    """Load a built-in net with its trained weights, float32 on the CPU and in eval mode.

    Every weight is a plain matrix. In "digits-bounded" the hidden layers have spectral norm 1 up
    to float32 rounding and the rows of the last layer have l2 length 1, so the net without its
    last layer is 1-Lipschitz in l2. Loading leaves PyTorch's random state as it was.

    >>> demo_model("digits-plain")(torch.zeros(1, 64)).shape
    torch.Size([1, 10])

    Args:
        name: One of `DEMO_MODELS`.

    Returns:
        A net from [N, 64] pixels in [0, 1] to [N, 10] logits.

    Raises:
        InvalidInput: If there is no such model.
    """
    look_up("model", name, DEMO_MODELS)
    with torch.device("meta"):
        model = demo_architecture(name)
    stored = files("holdfast.sources").joinpath("demo_nets", f"{name}.safetensors")
    model.load_state_dict(load(stored.read_bytes()), assign=True)
    return model.eval()


def demo_data(name: str = "digits", split: str = "test") -> tuple[Tensor, Tensor]:
    """Return one split of a built-in data set, in the data set's own order.

    The digits are the 1797 scans of E. Alpaydin and C. Kaynak, "Optical Recognition of
    Handwritten Digits" (UCI, 1998, CC BY 4.0) that ship with scikit-learn. Rows are ordered by
    class and, within a class, by a key drawn from NumPy's PCG64 bit stream with seed 0; every
    fifth row of that order is test. So 1437 rows train and 360 test, and a class's share of the
    test split is a fifth to within one row. The raw bit stream is used because NumPy keeps it
    fixed from release to release, which it does not promise for `Generator.permutation`.

    Args:
        name: One of `DEMO_DATA`.
        split: "train" or "test".

    Returns:
        Pixels, float32 [N, 64] in [0, 1] (grey level / 16, rows of the image in turn), and
        labels, int64 [N] in 0..9.

    Raises:
        InvalidInput: If there is no such data set or split.
        MissingExtra: If scikit-learn is not installed.
    """
    look_up("data", name, DEMO_DATA)
    look_up("split", split, dict.fromkeys(("train", "test")))
    pixels, labels = _digits()
    keys = np.random.PCG64(0).random_raw(len(labels))
    in_test = np.zeros(len(labels), dtype=bool)
    in_test[np.lexsort((keys, labels))[::5]] = True
    rows = in_test if split == "test" else ~in_test
    inputs = torch.from_numpy((pixels[rows] / 16).astype(np.float32))
    return inputs, torch.from_numpy(labels[rows].astype(np.int64))


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return all pixels [1797, 64] and labels [1797] of scikit-learn's digits.

    Its table is read beside the library: importing that takes a second, which is longer than
    anything else that is done to load the demo.

    Raises:
        MissingExtra: If scikit-learn is not installed.
    """
    found = find_spec("sklearn")
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            with gzip.open(path, "rt", encoding="ascii") as table:
                values = np.loadtxt(table, delimiter=",")
            return values[:, :-1], values[:, -1]
    try:  # a version that keeps its tables elsewhere
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "demo", "the built-in demo") from error
    bunch: Any = load_digits()
    return bunch.data, bunch.target


def demo_image_shape(name: str = "digits") -> tuple[int, int]:
    """Return height and width in pixels of a flat row of `demo_data(name)`.

    >>> demo_image_shape("digits")
    (8, 8)

    Args:
        name: One of `DEMO_DATA`.

    Returns:
        Height and width; their product is the number of features.

    Raises:
        InvalidInput: If there is no such data set.
    """
    look_up("data", name, DEMO_DATA)
    return (8, 8)
