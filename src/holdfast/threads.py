"""Running a computation on one thread, whatever the user has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread inside: the same digits on every machine, and no waiting for busy cores.

    Small Cholesky factorisations on several threads are many times slower when other work keeps
    the cores busy.

    Yields:
        Once.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
