"""What every answer can do: show itself as text, in a notebook, as a table and as a chart."""

import importlib
from typing import Any


class Result:
    """An answer that shows itself: `repr` in ten lines at most, and as HTML in notebooks."""

    def __repr__(self) -> str:
        return _view("text").text(self)

    def _repr_html_(self) -> str:
        return _view("notebook").html(self)

    def to_pandas(self) -> Any:
        """Return the numbers as a table: one line for each row, layer, cell or step.

        Returns:
            A `pandas.DataFrame`.

        Raises:
            MissingExtra: When pandas is not installed.
        """
        return _view("tables").frame(self)


class ChartedResult(Result):
    """An answer that has a chart, too."""

    def plot(self) -> Any:
        """Return the chart of the answer, drawn as on the page of an audit.

        Returns:
            An Altair chart, to be shown, changed or saved.

        Raises:
            MissingExtra: When Altair is not installed.
            Unsupported: When there is nothing to draw, such as radii where labels are targets.
        """
        return _view("charts").plot(self)


def _view(name: str) -> Any:
    """Return a module of `holdfast.views`.

    Views know every kind of result and so stand above all of them: they are called by name, and
    only once something is to be shown.
    """
    return importlib.import_module(f"holdfast.views.{name}")
