"""The largest eigenvalue of a symmetric map that is only known through its products: Lanczos.

Source: Lanczos, "An iteration method for the solution of the eigenvalue problem of linear
differential and integral operators" (1950), restarted as in Lehoucq, Sorensen, Yang, "ARPACK Users'
Guide" (1998), by SciPy.
"""

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from holdfast.errors import InvalidInput, Obstacle, Unsupported
from holdfast.smoothness.objective import Product

TOLERANCE = 1e-7
"""Residual of the eigenpair relative to the eigenvalue: the value is at least as accurate."""

DENSE = 40
"""Up to so many parameters the whole matrix costs no more than the iteration."""


def top_eigenvalue(product: Product, like: Tensor) -> float:
    """Return the algebraically largest eigenvalue of a symmetric map.

    Args:
        product: Takes a vector [n] to the map's value [n].
        like: A vector of the same size, type and device.

    Returns:
        The eigenvalue; it is within `TOLERANCE` of one, relatively.

    Raises:
        InvalidInput: When a product is not finite.
        Unsupported: When the iteration does not settle.
    """

    def checked(direction: Tensor) -> Tensor:
        value = product(direction)
        if not bool(torch.isfinite(value).all()):
            wanted = "finite second derivatives (sqrt and norms have none at 0)"
            raise InvalidInput("loss", "second derivatives that are not finite", wanted)
        return value

    size = len(like)
    if size <= DENSE:
        columns = [checked(row) for row in torch.eye(size, dtype=like.dtype, device=like.device)]
        matrix = torch.stack(columns)
        return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    restarts = 200  # a gap of one in ten thousand to the next eigenvalue needs about as many
    start = np.random.default_rng(0).normal(size=size)
    if not bool(checked(_tensor(start, like)).any()):
        return 0.0  # a random vector lies in the kernel of no other map

    def times(vector: np.ndarray) -> np.ndarray:
        return checked(_tensor(vector.reshape(-1), like)).cpu().numpy()

    # SciPy's types know only subclasses of it.
    operator = LinearOperator((size, size), matvec=times, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    try:
        values = eigsh(
            operator,
            k=1,
            which="LA",
            v0=start,
            tol=TOLERANCE,  # pyright: ignore[reportArgumentType]
            maxiter=restarts,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as problem:
        why = f"no eigenvalue within {TOLERANCE:g} after {restarts} restarts"
        raise Unsupported("curvature of the loss", [Obstacle("", "Lanczos", why)]) from problem
    return float(values[-1])


def _tensor(vector: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(vector).to(like)
