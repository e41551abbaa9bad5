"""Rows that arrive in batches: kept in memory, beyond a limit in files that are mapped."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import InvalidInput


@dataclass
class Store:
    """Matrices that grow by rows, with one limit on the memory of all.

    Attributes:
        folder: Where files go.
        limit: Bytes in memory.
    """

    folder: Path
    limit: int
    held: int = 0
    matrices: list["GrowingRows"] = field(default_factory=list)

    def rows(self) -> "GrowingRows":
        """Return an empty matrix."""
        self.matrices.append(GrowingRows(self, self.folder / str(len(self.matrices))))
        return self.matrices[-1]

    def grow(self, size: int) -> None:
        """Count bytes that are held, and move everything to the files where that is too much."""
        self.held += size
        if self.held > self.limit:
            for matrix in self.matrices:
                matrix.write()
            self.held = 0


@dataclass
class GrowingRows:
    """A matrix that grows by rows.

    Attributes:
        store: Whose memory is used.
        path: The file for what does not fit.
    """

    store: Store
    path: Path
    parts: list[Tensor] = field(default_factory=list)
    kind: torch.dtype | None = None
    width: int = 0
    rows: int = 0

    def add(self, part: Tensor) -> None:
        """Append rows [b, d].

        Raises:
            InvalidInput: If they are not as wide as those before, or of another type.
        """
        if self.kind is None:
            self.kind, self.width = part.dtype, part.shape[1]
        if (part.dtype, part.shape[1]) != (self.kind, self.width):
            got = f"states of {self.width} and of {part.shape[1]} entries"
            raise InvalidInput("data", got, "rows with states of one size (or a mapping, pooled)")
        self.parts.append(part)
        self.rows += len(part)
        self.store.grow(part.numel() * part.element_size())

    def write(self) -> None:
        """Move what is in memory to the end of the file."""
        with self.path.open("ab") as file:
            for part in self.parts:
                file.write(part.contiguous().numpy().tobytes())
        self.parts.clear()

    def whole(self) -> Tensor:
        """Return all rows as one matrix, mapped if they are in the file."""
        if not self.path.exists() or not self.rows * self.width:
            return torch.cat(self.parts)
        self.write()
        kind = str(self.kind).removeprefix("torch.")
        return torch.from_numpy(np.memmap(self.path, kind, "r+", shape=(self.rows, self.width)))


@contextmanager
def open_store(limit: int = 2**30) -> Iterator[Store]:
    """Open a store whose files are gone at the end; matrices are not to be used after it.

    Args:
        limit: Bytes in memory.

    Yields:
        The store.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:
        yield Store(Path(folder), limit)
