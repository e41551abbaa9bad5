"""The words: they follow from the numbers and from nothing else."""

import re

import pytest

from holdfast.report import render, verdict


def test_the_verdict_is_one_sentence_of_shares_that_add_up(audit):
    audit["subjects"][1]["certificates"] |= {"verified_accuracy": 0.631, "clean_accuracy": 0.973}
    _, bounded = verdict.verdicts(audit)
    assert bounded.sentence == (
        "Within an l2 distance of 0.25, 63.1% of 360 test inputs provably keep the right answer; "
        "attacks change 16.3%; 17.9% are undecided and 2.7% are wrong to begin with."
    )
    assert sum(bounded.shares.values()) == pytest.approx(1.0)


def test_without_attacks_the_rest_is_undecided(audit):
    del audit["subjects"][1]["attacks"]
    _, bounded = verdict.verdicts(audit)
    assert set(bounded.shares) == {"proved", "undecided", "wrong"}
    assert bounded.sentence.endswith("23.0% are undecided and 3.9% are wrong to begin with.")
    assert "attacks" not in bounded.sentence


def test_without_certificates_the_verdict_says_so_and_falls_back_to_the_rate(audit):
    audit["subjects"][0]["certificates"] = {"refused": "no gain is known"}
    plain = verdict.verdicts(audit)[0]
    assert plain.shares is None
    assert plain.sentence == (
        "No distance is certified. The largest rate of change is at least 27.1 and at most 35.2 "
        "per unit of l2 distance."
    )


def test_without_epsilon_the_verdict_is_the_distance_of_half_of_the_inputs(audit):
    audit["epsilon"] = None
    plain, bounded = verdict.verdicts(audit)
    assert plain.sentence == (
        "Half of 360 test inputs provably keep the right answer up to an l2 distance of 0.0712; "
        "attacks change half of them within 0.210. Half way to the nearest input with another "
        "label is 1.00."
    )
    assert plain.figure == "0.0712" and plain.shares is None
    assert plain.fresh == "For half of all fresh inputs: 0.0677 to 0.0744, with 95% confidence."
    assert bounded.fresh == "For half of all fresh inputs: at least 0.371, with 95% confidence."


def test_where_less_than_half_is_proved_no_distance_is_named(audit):
    audit["epsilon"] = None
    audit["subjects"][0]["certificates"]["median_radius"] = 0.0
    told = verdict.verdicts(audit)[0].sentence
    assert told.startswith("Fewer than half of 360 test inputs provably keep the right answer at")


def test_shares_come_with_an_interval_for_fresh_inputs(audit):
    bounded = verdict.verdicts(audit)[1]
    assert bounded.fresh == "Of all fresh inputs: 69.0 to 77.1%, with 95% confidence."
    del audit["subjects"][0]["certificates"]["shares"]
    assert verdict.verdicts(audit)[0].fresh == ""


def test_inputs_are_test_inputs_only_where_the_user_said_so(audit):
    audit["data"]["held_out"] = False
    assert "of 360 inputs provably" in verdict.verdicts(audit)[0].sentence


def test_with_nothing_proved_the_verdict_names_the_reason(audit):
    for part in ("lipschitz", "certificates", "knowledge"):
        audit["subjects"][0][part] = {"refused": f"{part} stopped here"}
    assert verdict.verdicts(audit)[0].sentence == "Nothing was proved: lipschitz stopped here"
    audit["subjects"][0] |= {"lipschitz": None, "certificates": None, "knowledge": None}
    assert verdict.verdicts(audit)[0].sentence == "No distance is certified."


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"lower": 1.0, "upper": None}, "at least 1.00 per unit of l2 distance, with no proved"),
        ({"lower": 0.0, "upper": 2.001}, "at most 2.01 per unit"),
    ],
)
def test_open_brackets_in_words_are_rounded_outward(audit, bounds, words):
    assert verdict.rate(audit, bounds).startswith(words)


def test_the_comparison_names_gain_and_price(audit):
    shares, rates = verdict.comparison(audit)
    assert shares == (
        "digits-bounded proves 73.1% where digits-plain proves 0%, "
        "and gives up 1.39 points of clean accuracy for it."
    )
    assert "at most 1.46" in rates and "at least 27.1" in rates


def test_without_epsilon_the_distances_of_the_median_are_compared(audit):
    audit["epsilon"] = None
    assert verdict.comparison(audit)[0].startswith(
        "For half of the inputs digits-bounded proves a distance of 0.388 where digits-plain "
        "proves 0.0712, and gives up 1.39 points"
    )


def test_nothing_is_compared_where_nothing_follows(audit):
    audit["subjects"][1] = {**audit["subjects"][0], "name": "twin"}
    assert verdict.comparison(audit) == []
    audit["subjects"] = audit["subjects"][:1]
    assert verdict.comparison(audit) == []


def test_a_better_model_that_costs_nothing_is_said_to(audit):
    audit["subjects"][1]["certificates"]["clean_accuracy"] = 0.98
    assert "gives up no clean accuracy" in verdict.comparison(audit)[0]


def test_next_steps_start_with_the_judgement_and_name_a_reason_once(audit):
    steps = verdict.next_steps(audit)
    assert steps[0] == "digits-plain: What follows from vacuous radii."
    assert "upper ÷ lower is 1.30" in steps[1] and len(steps) == 2
    for subject in audit["subjects"]:
        subject["lipschitz"] = subject["knowledge"] = {"refused": "no rule for cumsum"}
    steps = verdict.next_steps(audit)
    assert len(steps) == 3
    assert steps[1] == (
        "digits-plain: no bracket on the rate of change and knowledge continuity: "
        "no rule for cumsum"
    )


@pytest.mark.parametrize("bounded", ["meaningful", "vacuous", "unbounded"])
def test_one_word_judges_a_model_and_advice_stands_once(audit, bounded):
    for subject in audit["subjects"]:
        subject["conditions"] |= {"bounded": bounded, "advice": "Do what helps."}
        # However little is proved at the user's distance, it is not judged a second time.
        subject["certificates"]["verified_accuracy"] = 0.0
    page = render(audit).split("<script")[0].split("</style>")[1]
    assert page.count(f"<strong>{bounded}</strong>") == 2
    page = re.sub(r"<[^>]*>", "", page)
    others = {"meaningful", "vacuous", "unbounded"} - {bounded}
    assert not any(other in page for other in others)
    assert page.count("Do what helps.") == (0 if bounded == "meaningful" else 1)


def test_columns_of_different_units_are_a_step_of_their_own(audit):
    audit["data"]["uneven"] = 1234.5
    assert "spread by up to a factor of 1,230" in verdict.next_steps(audit)[1]


def test_a_good_closed_audit_asks_for_nothing(audit):
    audit["subjects"] = audit["subjects"][1:]
    audit["subjects"][0]["lipschitz"]["outcome"] = "CLOSED"
    assert verdict.next_steps(audit) == []


@pytest.mark.parametrize(
    ("outcome", "ratio", "words"),
    [
        ("UNBOUNDED", None, "no finite constant"),
        ("EXHAUSTED", 40.0, "differ by a factor of 40.0"),
        ("BUDGET_SPENT", 1.2, "give it more seconds"),
    ],
)
def test_open_brackets_say_how_to_go_on(audit, outcome, ratio, words):
    audit["subjects"] = audit["subjects"][1:]
    audit["subjects"][0]["lipschitz"] |= {"outcome": outcome, "ratio": ratio}
    (step,) = verdict.next_steps(audit)
    assert words in step
