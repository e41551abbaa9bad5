"""The words: they follow from the numbers and from nothing else."""

import pytest

from holdfast.report import verdict


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


def test_without_epsilon_the_verdict_is_the_median_radius(audit):
    audit["epsilon"] = None
    assert "within an l2 distance of 0.0712" in verdict.verdicts(audit)[0].sentence


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


def test_nothing_is_compared_where_nothing_follows(audit):
    audit["subjects"][1] = {**audit["subjects"][0], "name": "twin"}
    assert verdict.comparison(audit) == []
    audit["subjects"] = audit["subjects"][:1]
    assert verdict.comparison(audit) == []


def test_a_better_model_that_costs_nothing_is_said_to(audit):
    audit["subjects"][1]["certificates"]["clean_accuracy"] = 0.98
    assert "gives up no clean accuracy" in verdict.comparison(audit)[0]


def test_next_steps_start_with_the_vacuous_constant_and_end_at_three(audit):
    steps = verdict.next_steps(audit)
    assert steps[0].startswith("digits-plain: the constant is vacuous at this distance")
    assert "upper ÷ lower is 1.30" in steps[1] and len(steps) == 2
    for subject in audit["subjects"]:
        subject["lipschitz"] = subject["knowledge"] = {"refused": "no rule for cumsum"}
    steps = verdict.next_steps(audit)
    assert len(steps) == 3
    assert steps[1] == "digits-plain: no bracket on the rate of change: no rule for cumsum"


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
