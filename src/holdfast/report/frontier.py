"""What is promised about fresh data: the map of every layer, cell by cell."""

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.report.brittle import most_brittle, shown_layers, typical
from holdfast.report.formats import number, percent_at_most
from holdfast.report.reading import Finding, Record


@dataclass(frozen=True)
class MapCell:
    """One cell of a map.

    Attributes:
        words: What the statement of the map says here, by the names in its braces.
        shares: Bounds that it happens, of all examples and of those that land near.
        short: Both as they stand in the cell, in percent and rounded up.
        vacuous: Why it says nothing; empty where it says something.
    """

    words: Mapping[str, str]
    shares: tuple[float, float]
    short: tuple[str, str]
    vacuous: str


@dataclass(frozen=True)
class Map:
    """The map of one layer.

    Attributes:
        layer: Its path.
        etas: Loss changes, as words.
        rows: Of each distance, its words and its cells.
        statement: What a cell says, with names in braces.
        chosen: Distance and loss change of the cell that says most, as places.
    """

    layer: str
    etas: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MapCell, ...]], ...]
    statement: str
    chosen: tuple[int, int]

    @property
    def said(self) -> str:
        """What the chosen cell says."""
        return fill(self.statement, self.rows[self.chosen[0]][1][self.chosen[1]])


@dataclass(frozen=True)
class Headline:
    """The cell of a model at which nearness says most.

    Attributes:
        layer: Module path.
        delta: Distance, as words.
        eta: Loss change, as words.
        conditional: Bound on the share of fresh examples within delta whose loss differs by more.
        anywhere: The same bound at any distance.
        typical: Mean distance in the layer, as words; empty where it is not known.
        anchors: How many there are.
        confidence: Of all bounds at once.
    """

    layer: str
    delta: str
    eta: str
    conditional: float
    anywhere: float
    typical: str
    anchors: int
    confidence: float


def maps(finding: Finding) -> list[Map]:
    """Return the maps of the layers that the page shows.

    Args:
        finding: The knowledge of one model.

    Returns:
        One map for each layer that has a frontier.
    """
    known = finding.part.get("frontier") or {}
    return [_map(layer, known[layer]) for layer in shown_layers(finding) if layer in known]


def opened(finding: Finding) -> str:
    """Return the layer whose map is open at first: the headline's, else the most brittle one."""
    best = headline(finding)
    return most_brittle(finding) if best is None else best.layer


def fill(statement: str, cell: MapCell) -> str:
    """Return what a cell says, in full."""
    for name, words in cell.words.items():
        statement = statement.replace(f"{{{name}}}", words)
    return f"Says nothing: {cell.vacuous}. {statement}" if cell.vacuous else statement


def headline(finding: Finding) -> Headline | None:
    """Return the cell at which nearness says most, of all layers.

    Args:
        finding: The knowledge of one model.

    Returns:
        The cell whose bound is the smallest part of the bound at any distance; None where nothing
        is proved that does not hold at any distance.
    """
    best, found = 1.0, None
    for layer, part in (finding.part.get("frontier") or {}).items():
        share, (row, column) = _telling(part)
        if share < best:
            best, found = share, Headline(
                layer, number(part["deltas"][row]), number(part["etas"][column]),
                part["conditional"][row][column], part["conditional"][-1][column],
                _typical(finding, layer), part["anchors"], part["confidence"],
            )  # fmt: skip
    return found


def _typical(finding: Finding, layer: str) -> str:
    known = typical(finding, layer)
    return "" if known is None else number(known)


def _telling(part: Record) -> tuple[float, tuple[int, int]]:
    """Return the smallest bound as a part of the bound at any distance, and where it stands."""
    last = len(part["deltas"]) - 1
    shares = [
        (part["conditional"][row][column] / part["conditional"][-1][column], (row, column))
        for row in range(last)
        for column in range(len(part["etas"]))
        if not part["vacuous"][row][column]
    ]
    return min(shares, default=(1.0, (last, len(part["etas"]) - 1)))


def _map(layer: str, part: Record) -> Map:
    rows = tuple(
        (
            "any" if delta is None else number(delta),
            tuple(_cell(part, row, column) for column in range(len(part["etas"]))),
        )
        for row, delta in enumerate(part["deltas"])
    )
    etas = tuple(map(number, part["etas"]))
    return Map(layer, etas, rows, part["statement"], _telling(part)[1])


def _cell(part: Record, row: int, column: int) -> MapCell:
    shares = part["probability"][row][column], part["conditional"][row][column]
    words = {
        "delta": _edge(part["deltas"][row]),
        "eta": _edge(part["etas"][column]),
        "probability": percent_at_most(shares[0], 4),
        "conditional": percent_at_most(shares[1], 4),
        "near": str(part["near"][row]),
        "observed": str(part["observed"][row][column]),
    }
    why = "; ".join(part["why"][row][column])
    return MapCell(words, shares, (_short(shares[0]), _short(shares[1])), why)


def _edge(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.6g}"


def _short(share: float) -> str:
    """Return a percentage without its sign, of at most three characters, rounded up."""
    return percent_at_most(share, 2 if share > 0.0099 else 1).removesuffix("%")
