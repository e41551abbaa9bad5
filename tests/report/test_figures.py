"""The figures: what they show, in which order, and that names are only ever data."""

import json

import altair
import pytest

from holdfast.report import brittle, distances, marks, training
from holdfast.report import figures as fig
from holdfast.report.reading import finished


def layers_of(spec):
    return spec["layer"]


def rows_of(spec):
    """Every row of every data set of a specification."""
    found = [row for rows in spec.get("datasets", {}).values() for row in rows]

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("data"), dict):
                found.extend(node["data"].get("values", ()))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(spec)
    return found


def test_every_figure_is_drawn_responsive_and_described(audit):
    specs = fig.figures(audit)
    assert list(specs) == [
        "conditions", "bracket", "gains", "reach", "volatility", "descent", "stability",
    ]  # fmt: skip
    for name, spec in specs.items():
        assert spec["width"] == "container"
        assert "digits-plain" in spec["description"]
        assert "digits-bounded" in spec["description"] or name == "stability"
        json.dumps(spec, allow_nan=False)


def test_every_figure_follows_the_schema(audit):
    for draw in (
        distances.conditions, fig.bracket, fig.gains, distances.reach, brittle.volatility,
        training.descent, training.stability,
    ):  # fmt: skip
        altair.LayerChart.from_dict(draw(audit), validate=True)
    with pytest.raises(Exception, match="Wrong"):
        altair.LayerChart.from_dict(fig.bracket(audit) | {"width": "Wrong"}, validate=True)


def test_specs_hold_no_colours_and_no_addresses(audit):
    text = json.dumps([{**s, "$schema": ""} for s in fig.figures(audit).values()])
    assert "http" not in text and "#" not in text and "scheme" not in text


def test_every_model_has_its_colour_and_its_marker_in_every_figure(audit):
    for spec in fig.figures(audit).values():
        encodings = [layer["encoding"] for layer in layers_of(spec)]
        shapes = [e["shape"] for e in encodings if "shape" in e]
        colours = [e["color"] for e in encodings if "color" in e]
        assert {tuple(c["scale"]["domain"]) for c in (*shapes, *colours)} == {("s0", "s1")}
        assert all(shape["scale"]["range"][:2] == ["circle", "square"] for shape in shapes)


def test_a_model_keeps_its_key_when_another_one_was_refused(audit):
    audit["subjects"][0]["certificates"] = {"refused": "no gain is known"}
    rows = rows_of(fig.reach(audit))
    assert {row["series"] for row in rows if "series" in row} == {"s1"}


def test_bracket_is_monotone_and_ends_at_the_final_bounds(audit):
    rows = [row for row in fig._bracket_rows(finished(audit, "lipschitz")[0])]
    uppers = [row["upper"] for row in rows if row["upper"]]
    lowers = [row["lower"] for row in rows if row["lower"]]
    assert uppers == sorted(uppers, reverse=True) and lowers == sorted(lowers)
    assert (rows[-1]["lower"], rows[-1]["upper"], rows[-1]["last"]) == (27.1, 35.2, True)
    assert "1.30" in " ".join(fig.bracket(audit)["title"]["subtitle"])


def test_bracket_without_an_upper_bound_is_still_drawn(audit):
    for subject in audit["subjects"]:
        subject["lipschitz"] |= {"upper": None, "ratio": None, "trace": []}
    assert {row["upper"] for row in rows_of(fig.bracket(audit))} == {None}


def test_a_lower_end_that_comes_late_still_has_a_band(audit):
    part = audit["subjects"][0]["lipschitz"]
    part["trace"] = [step for step in part["trace"] if step["side"] == "upper"]
    part["trace"].append({"seconds": 3.1, "side": "lower", "value": 27.1, "method": "ascent"})
    spec = fig.bracket(audit)
    rows = [row for row in spec["data"]["values"] if row["series"] == "s0"]
    low = spec["layer"][0]["encoding"]["y"]["scale"]["domain"][0]
    assert [row["from"] for row in rows] == [low, low, low, 27.1, 27.1]
    assert all(row["to"] == row["upper"] for row in rows)


def test_the_users_step_is_marked_where_it_is_in_sight(audit):
    spec = training.descent(audit)
    (marked,) = [
        layer["data"]["values"] for layer in spec["layer"]
        if layer["mark"].get("style") == "own"
    ]  # fmt: skip
    plain = audit["subjects"][0]["descent"]
    assert marked[0]["share"] == plain["step"] / plain["largest_safe_step"]
    assert [row["told"] for row in marked] == ["your step, 0.01", ""]
    for subject in audit["subjects"]:
        subject["descent"]["step"] = 7.0
    assert not any(
        layer["data"]["values"] for layer in training.descent(audit)["layer"]
        if layer["mark"].get("style") == "own"
    )  # fmt: skip


def test_repeated_layers_get_names_of_their_own(audit):
    part = audit["subjects"][0]["lipschitz"]
    part["layers"] = [{"path": "", "op": "relu", "gain": 1.0}] * 2
    names = [row["layer"] for row in fig.gain_rows(finished(audit, "lipschitz")[0])]
    assert names == ["(model) · relu", "(model) · relu (2)"]


def test_many_layers_are_cut_to_those_with_the_largest_effect(audit):
    part = audit["subjects"][0]["lipschitz"]
    part["layers"] = [{"path": f"m.{i}", "op": "linear", "gain": 1.01**i} for i in range(200)]
    rows = fig.gain_rows(finished(audit, "lipschitz")[0])
    assert [row["path"] for row in rows] == [f"m.{i}" for i in range(160, 200)]


def test_a_layer_of_gain_zero_is_listed_and_not_drawn_on_the_log_axis(audit):
    audit["subjects"][0]["lipschitz"]["layers"][1]["gain"] = 0.0
    assert fig.gain_rows(finished(audit, "lipschitz")[0])[1]["text"] == "0"
    assert all(row["gain"] > 0 for row in rows_of(fig.gains(audit)) if "gain" in row)


def test_reach_passes_through_the_verdict_and_carries_counts(audit):
    rows = [row for row in rows_of(fig.reach(audit)) if row.get("series") == "s1"]
    at_epsilon = [row for row in rows if row["radius"] == audit["epsilon"]]
    assert [row["proved"] for row in at_epsilon] == [0.7306]
    assert at_epsilon[0]["proved_text"] == "263 of 360 (73.1%)"
    assert all(row["proved"] <= row["surviving"] for row in rows)


def test_reach_never_shows_more_than_is_proved_between_two_radii(audit):
    lines = [
        layer["mark"]
        for layer in layers_of(fig.reach(audit))
        if layer["mark"].get("style") == "curve"
    ]
    assert [line["interpolate"] for line in lines] == ["step-before"]


def test_the_band_lies_between_what_is_proved_and_what_survives(audit):
    rows = [row for row in rows_of(fig.reach(audit)) if "surviving" in row]
    assert rows and all(row["proved"] <= row["surviving"] for row in rows)
    for index in ("s0", "s1"):
        own = [row for row in rows if row["series"] == index]
        for name in ("radius", "proved", "surviving"):
            values = [row[name] for row in own]
            assert values == sorted(values, reverse=name != "radius")
    styles = [layer["mark"].get("style") for layer in layers_of(fig.reach(audit))]
    assert "attacked" in styles


def test_curves_are_read_so_that_nothing_is_claimed_between_their_points():
    proved = [{"radius": 0.0, "proved": 0.9}, {"radius": 1.0, "proved": 0.4}]
    assert [distances._proved_at(proved, r) for r in (0.0, 0.5, 1.0, 2.0)] == [0.9, 0.4, 0.4, 0.0]
    left = [{"radius": 0.0, "surviving": 0.9}, {"radius": 1.0, "surviving": 0.4}]
    read = [distances._surviving_at(left, r, 0.95) for r in (0.0, 0.5, 1.0, 2.0)]
    assert read == [0.9, 0.9, 0.4, 0.4] and distances._surviving_at([], 1.0, 0.95) == 0.95


def test_without_attacks_the_band_reaches_up_to_what_is_right(audit):
    for subject in audit["subjects"]:
        del subject["attacks"]
    rows = [row for row in rows_of(fig.reach(audit)) if "surviving" in row]
    assert {row["surviving"] for row in rows} == {0.975, 0.9611}
    assert {row["attacked_text"] for row in rows} == {"not run"}


def test_conditions_show_what_is_known_and_no_zero_on_a_log_axis(audit):
    audit["subjects"][0]["conditions"] |= {"median_radius": 0.0, "quantisation": None}
    rows = [row for row in rows_of(fig.conditions(audit)) if "distance" in row]
    assert all(row["distance"] > 0 for row in rows)
    assert {row["text"] for row in rows} == {
        "half way to a neighbour", "≤ 0.210", "≥ 0.388", "≤ 0.620"
    }  # fmt: skip


def test_volatility_is_scale_free_by_default_and_switchable(audit):
    spec = brittle.volatility(audit)
    (param,) = spec["params"]
    assert (param["name"], param["value"]) == ("scale", "normalised")
    assert {row["kind"] for row in rows_of(spec)} == {"normalised", "volatility", "near"}
    found = finished(audit, "knowledge")
    assert [brittle.most_brittle(f) for f in found] == ["2", "2"]
    assert [kind for kind, _ in brittle.kinds(found)] == ["normalised", "volatility", "near"]
    part = audit["subjects"][1]["knowledge"]
    part["near"], part["perturbed"] = dict.fromkeys(part["near"]), part["normalised"]
    assert [kind for kind, _ in brittle.kinds(found[1:])] == [
        "normalised",
        "volatility",
        "perturbed",
    ]
    assert {row["kind"] for row in rows_of(brittle.volatility(audit))} >= {"near", "perturbed"}


def test_of_many_layers_the_most_volatile_are_shown_in_their_order(audit):
    (found, _) = finished(audit, "knowledge")
    assert brittle.shown_layers(found) == found.part["layers"]
    names = [str(layer) for layer in range(100)]
    values = {name: {"value": float(-abs(int(name) - 50))} for name in names}
    found.part.update(layers=names, normalised=values)
    assert (
        brittle.shown_layers(found) == names[31:71] or brittle.shown_layers(found) == names[38:62]
    )


def test_class_means_stand_inside_their_plot(audit):
    (found, _) = finished(audit, "knowledge")
    rows = brittle.class_rows(found, "2")
    assert [row["label"] for row in rows] == ["0", "1", "2"]
    assert max(row["left"] + row["width"] for row in rows) == pytest.approx(100, abs=0.02)
    assert all(row["left"] < row["place"] < row["left"] + row["width"] for row in rows)
    found.part["by_class"]["2"]["1"] |= {"low": 0.0, "high": None}  # a single row
    assert brittle.class_rows(found, "2")[1]["interval"] == "0 to ∞"
    del found.part["by_class"]
    assert brittle.class_rows(found, "2") == []


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("conditions", {"conditions"}),
        ("lipschitz", {"bracket", "gains"}),
        ("certificates", {"reach"}),
        ("knowledge", {"volatility"}),
    ],
)
@pytest.mark.parametrize(
    "absence", [{"refused": "for a reason"}, "absent", pytest.param(None, marks=pytest.mark.slow)]
)
def test_figures_of_absent_parts_are_absent(audit, part, missing, absence):
    for subject in audit["subjects"]:
        if absence == "absent":
            del subject[part]
        else:
            subject[part] = absence
    assert {"conditions", "bracket", "gains", "reach", "volatility"} - set(
        fig.figures(audit)
    ) == missing


@pytest.mark.parametrize(
    ("low", "high"), [(0.9, 1.9), (1.0, 45.0), (1e-9, 1e9), (27.0, 55.0), (3e-5, 2.0)]
)
def test_log_ticks_are_few_round_and_inside(low, high):
    ticks = marks.log_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
