"""The sentences about training steps."""

import pytest
from tests.report.conftest import run, step

from holdfast.report.training import descent_sentence, run_sentence

SENTENCES = {
    "holds": (
        {},
        "A step of 0.01 lowers the loss by 0.0255; the descent lemma promised at least 0.0250. "
        "The step is 0.0588 of the largest safe step, 0.170.",
    ),
    "less": (
        {"holds": False, "actual_change": -0.001},
        "A step of 0.01 lowers the loss by 0.00100, where the descent lemma promised a fall of "
        "0.0250: within the step the gradient changes faster than at its ends.",
    ),
    "worse": (
        {"holds": False, "improved": False, "actual_change": 0.3},
        "A step of 0.01 raises the loss by 0.300, where the descent lemma promised a fall of "
        "0.0250: within the step the gradient changes faster than at its ends.",
    ),
    "too long": (
        {"holds": False, "improved": False, "actual_change": 2.0, "predicted_change": 3.0}
        | {"step": 0.34},
        "A step of 0.34 raises the loss by 2.00; the descent lemma promises nothing beyond 2 ÷ L. "
        "The step is 2.00 of the largest safe step, 0.170.",
    ),
    "straight": (
        {"largest_safe_step": None, "safe_along_step": None},
        "A step of 0.01 lowers the loss by 0.0255; the descent lemma promised at least 0.0250. "
        "The gradient does not change: every step is safe.",
    ),
    "steeper on the way": (
        {"safe_along_step": 0.1},
        "A step of 0.01 lowers the loss by 0.0255; the descent lemma promised at least 0.0250. "
        "The step is 0.0588 of the largest safe step, 0.170; along this step the gradient changes "
        "faster, and 0.100 is safe.",
    ),
    "bent downward": (
        {"largest_safe_step": None, "safe_along_step": 0.1},
        "A step of 0.01 lowers the loss by 0.0255; the descent lemma promised at least 0.0250. "
        "Nothing bends upward here; along this step 0.100 is safe.",
    ),
    "minimum": ({"gradient_norm": 0.0}, "The gradient is zero: no step changes the loss."),
}


@pytest.mark.parametrize(("changes", "said"), SENTENCES.values(), ids=SENTENCES)
def test_a_step_in_words(changes, said):
    assert descent_sentence(step(0.17, 0.113) | changes) == said


def test_a_run_in_words():
    told = run_sentence(run())
    assert told.startswith("90.0% of 30 measured steps lowered the loss; 12 of them were as long")
    calm = run()
    for one in calm["measurements"]:
        one["ratio"] /= 4
    assert "none was as long as the largest safe step. The last one was 0.273" in run_sentence(calm)
    for one in calm["measurements"]:
        one["ratio"] = None
    assert run_sentence(calm).endswith("no curvature was seen.")
