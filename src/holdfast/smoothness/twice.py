"""Whether PyTorch can differentiate a gradient once more, where it would silently return 0."""

from collections.abc import Iterable

from torch import Tensor


def check_twice(slopes: Iterable[Tensor]) -> None:
    """Refuse gradients whose graph holds a function that can be differentiated only once.

    The node of such a function has no way on to the parameters, so that a second derivative would
    come out as 0 instead of failing.

    Args:
        slopes: Gradients that were computed with their graph.

    Raises:
        RuntimeError: When there is one.
    """
    ahead = [slope.grad_fn for slope in slopes if slope.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if type(node).__name__ == "Error":  # PyTorch's node for `once_differentiable`
            raise RuntimeError("a once_differentiable function has no second derivative")
        fresh = {follower for follower, _ in node.next_functions if follower is not None} - seen
        seen |= fresh
        ahead += fresh
