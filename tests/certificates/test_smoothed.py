"""Certificates of smoothed models: where the truth is known, from files, and what is refused."""

import json
import math
import random
from typing import Any

import pytest
import torch
from scipy import special
from torch import nn

import holdfast
import holdfast_check
from holdfast import Certificates, Deletion, Gaussian, InvalidInput, Uniform, Unsupported
from holdfast.attacks.agreement import check_agreement
from holdfast.certificates.claim import smoothed_guarantee
from holdfast.documents import digest
from holdfast.smoothing.options import SmoothingOptions

WORDS = ["good", "bad", "film", "plot", "cast", "end"]


def says(texts):
    """Return 1 for a text with more good than bad in it."""
    return [int(text.split().count("good") > text.split().count("bad")) for text in texts]


def texts_of(n, seed=0):
    """Return texts of known words, with what they say."""
    draw = random.Random(seed)
    found = [" ".join(draw.choices(WORDS, k=draw.randint(6, 30))) for _ in range(n)]
    return found, torch.tensor(says(found))


def smoothed(model, inputs, labels, noise, **options):
    return holdfast.certify(model, inputs, labels, method="smoothing", noise=noise, **options)


@pytest.fixture(scope="module")
def edits():
    """Certificates of texts that were asked about one edit."""
    texts, labels = texts_of(30)
    return smoothed(says, texts, labels, Deletion(0.7), epsilon=1, samples=2000, seed=1)


def linear(norm, rows=60):
    """Return a linear classifier, rows, what it says and how far each may move in the norm."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(4, 1).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 4, generator=generator))
        model.bias.fill_(0.1)
        inputs = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
        logits = model(inputs).flatten()
    dual = {1.0: math.inf, 2.0: 2.0}[norm]
    truth = logits.abs() / torch.linalg.vector_norm(model.weight.detach(), ord=dual)
    return model, inputs, (logits > 0).long(), truth


@pytest.mark.parametrize("epsilon", [None, 0.3])
def test_no_radius_is_above_the_truth_of_a_linear_model(epsilon):
    model, inputs, labels, truth = linear(2.0)
    options = {"epsilon": epsilon, "samples": 1000, "confidence": 0.99999}
    found = smoothed(model, inputs, labels, Gaussian(0.5), **options)
    assert (found.radius <= truth).all() and found.norm == 2.0
    # The probability of the label is Phi(truth / sigma), and its lower bound comes near.
    p = torch.from_numpy(special.ndtr((truth / 0.5).numpy()))
    assert (found.smoothing.p_lower <= p).all()
    far = (truth > 0.6) & (truth < 1.2)
    assert (found.radius[far] > 0.5 * truth[far]).all() or epsilon is not None
    assert found.verified_accuracy(0.3) == pytest.approx(
        float((truth > 0.4).double().mean()), abs=0.1
    )


def test_uniform_noise_never_exceeds_the_truth_in_l1():
    model, inputs, labels, truth = linear(1.0)
    found = smoothed(model, inputs, labels, Uniform(0.8), samples=500, confidence=0.9999)
    assert (found.radius <= truth).all() and found.norm == 1.0 and found.radius.max() > 0.5


def test_rows_that_are_easy_take_few_samples():
    model, inputs, labels, truth = linear(2.0)
    found = smoothed(model, inputs, labels, Gaussian(0.5), epsilon=0.3, samples=5000)
    drawn = found.smoothing.drawn
    assert drawn[truth > 0.8].max() <= 250 and drawn.max() > 1000


def test_edits_of_a_text_are_certified_and_counted(edits):
    assert edits.norm == 0.0 and edits.semantics == "smoothed"
    assert {*edits.method} == {"smoothing"} and edits.counts()["certified"] > 5
    assert edits.verified_accuracy(1) == float((edits.radius >= 1).double().mean()) > 0
    assert edits.verified_accuracy([0, 2]) == [float((edits.margin > 0).double().mean()), 0.0]
    distances, shares = edits.curve()
    assert distances.tolist() == [0.0, 1.0, 2.0]
    assert shares.tolist() == edits.verified_accuracy([0, 1, 2])
    votes = edits.smoothing
    assert (votes.deletions >= edits.radius).all() and (votes.insertions >= edits.radius).all()
    assert "edits of a text" in edits.guarantee and "0.999" in edits.guarantee
    assert "edit radii" in repr(edits)


def test_the_guarantee_never_rounds_a_confidence_up():
    options = SmoothingOptions(Deletion(0.8), confidence=0.9999999, samples=1000)
    said = smoothed_guarantee(options, ["certified"])
    assert "a confidence of 0.9999999 for each row" in said


def test_how_far_losses_move_within_edits_is_not_known(edits):
    assert edits.loss_change(1.0).tolist() == [math.inf] * len(edits)


def test_rows_do_not_depend_on_their_order_or_on_the_others(edits):
    texts, labels = texts_of(30)
    again = smoothed(
        says, texts[::-1][:7], labels.flip(0)[:7], Deletion(0.7), epsilon=1, samples=2000, seed=1
    )
    last = edits[[*range(29, 22, -1)]]
    for name in ("votes", "drawn", "seeds"):
        assert torch.equal(getattr(again.smoothing, name), getattr(last.smoothing, name))
    other = smoothed(says, texts[:7], labels[:7], Deletion(0.7), epsilon=1, samples=2000, seed=2)
    assert not torch.equal(other.smoothing.votes, edits[:7].smoothing.votes)


def test_a_file_gives_the_radii_again_from_its_counts(edits, tmp_path):
    edits.save(tmp_path / "c.json")
    again = Certificates.load(tmp_path / "c.json")
    assert torch.equal(again.radius, edits.radius) and again.reason == edits.reason
    report = holdfast_check.check(tmp_path / "c.json")
    assert report[:4] == (30, int((edits.radius > 0).sum()), 0, 0)
    assert again.smoothing.options == edits.smoothing.options
    alpha = again.smoothing.options.alpha
    for votes, drawn, radius in zip(
        again.smoothing.votes.tolist(), again.smoothing.drawn.tolist(), again.radius, strict=True
    ):
        p_lower = again.smoothing.options.lower(votes, drawn, alpha) if drawn else 0.0
        assert radius == (Deletion(0.7).radius(p_lower) if p_lower > 0.5 else 0)


@pytest.mark.parametrize(
    "change", ["radius", "votes", "confidence", "margin", "norm", "semantics", "noise"]
)
def test_a_file_that_claims_more_than_its_counts_is_refused(edits, tmp_path, change):
    edits.save(tmp_path / "c.json")
    document = json.loads((tmp_path / "c.json").read_text())
    row = edits.reason.index("certified")
    if change == "radius":
        document["radius"][row] = (3.0).hex()
    elif change == "votes":
        document["smoothing"]["votes"][row] = document["smoothing"]["drawn"][row] // 2
    elif change == "confidence":
        document["smoothing"]["options"]["confidence"] = (1 - 1e-12).hex()
    elif change == "margin":
        document["margin"][row] = (1 - 1e-9).hex()
    elif change == "noise":
        document["smoothing"]["options"]["noise"]["lam"] = (1.0).hex()
    else:
        document[change] = {"norm": "inf", "semantics": "real"}[change]
    document["digest"] = digest(document)
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match="contradict" if change != "noise" else "path"):
        Certificates.load(tmp_path / "c.json")
    with pytest.raises(holdfast_check.Rejected):
        holdfast_check.check(tmp_path / "c.json")


@pytest.mark.parametrize("epsilon", [None, 0.3])
@pytest.mark.parametrize("noise", [Gaussian(0.5), Uniform(0.8)])
def test_the_independent_checker_finds_the_same_radii_in_the_votes(noise, epsilon, tmp_path):
    model, inputs, labels, _ = linear(noise.norm, rows=20)
    found = smoothed(model, inputs, labels, noise, epsilon=epsilon, samples=400)
    found.save(tmp_path / "c.json")
    report = holdfast_check.check(tmp_path / "c.json")
    assert report[:4] == (20, int((found.radius > 0).sum()), 0, 0)
    document = json.loads((tmp_path / "c.json").read_text())
    row = int(found.radius.argmax())
    document["radius"][row] = (float(found.radius[row]) * (1 + 1e-8)).hex()
    document["digest"] = digest(document)
    (tmp_path / "c.json").write_text(json.dumps(document))
    with pytest.raises(holdfast_check.Rejected, match=f"row {row}: the votes do not show"):
        holdfast_check.check(tmp_path / "c.json")


def test_a_fixed_number_of_samples_is_drawn_of_every_row_that_is_right():
    texts, labels = texts_of(6)
    labels[0] = 1 - labels[0]
    found = smoothed(says, texts, labels, Deletion(0.7), samples=300)
    right = found.predicted == labels
    assert found.smoothing.drawn.tolist() == [300 if one else 0 for one in right.tolist()]
    assert found.reason[0] == "misclassified" and not right[0]


def test_rows_that_are_not_finite_and_answers_that_tie_have_their_reason():
    model, inputs, labels, _ = linear(2.0, rows=3)
    inputs[1, 0] = math.nan
    found = smoothed(model, inputs, labels, Gaussian(0.1), samples=100)
    assert found.reason[1] == "not_finite" and found.predicted[1] == -1 and found.radius[1] == 0
    tied = smoothed(lambda texts: torch.zeros(len(texts), 3), ["a"], [0], Deletion(0.6), samples=99)
    assert tied.reason == ("tie",) and tied.classes == 3


def test_ctrl_c_keeps_the_rows_that_are_done():
    texts, labels = texts_of(400)
    calls = 0

    def stopping(some):
        nonlocal calls
        calls += 1
        if calls > 250:
            raise KeyboardInterrupt
        return says(some)

    with pytest.warns(holdfast.HoldfastWarning, match="stopped: .* of 400 rows"):
        found = smoothed(stopping, texts, labels, Deletion(0.7), epsilon=1, samples=1000)
    assert found.counts()["stopped"] >= 144 and found.counts()["certified"] > 20
    assert found.coherent()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"samples": 9, "epsilon": None}, "samples: got 9, wanted at least 10,"),
        ({"samples": 99, "epsilon": 1}, "samples: got 99, wanted at least 111,"),
        ({"epsilon": 2}, "epsilon: got 2, more than any row can have with Deletion"),
        ({"epsilon": 0}, "epsilon: got 0"),
        ({"confidence": 1.0}, "confidence: got"),
        ({"norm": 1}, "norm: got 1"),
        ({"semantics": "float32"}, "semantics: got"),
        ({"noise": None}, "noise: got None"),
        ({"method": "auto"}, "method: got 'auto'"),
        ({"free": [0]}, "free, scale, onehot"),
    ],
)
def test_bad_options_are_refused_by_name(options, match):
    given = {"noise": Deletion(0.6), "method": "smoothing", "epsilon": 1, "samples": 999}
    with pytest.raises(InvalidInput, match=match):
        holdfast.certify(says, ["good film"], [1], **(given | options))


def test_models_that_have_no_answer_of_their_own_are_refused():
    model, inputs, labels, _ = linear(2.0, rows=4)
    dropping = nn.Sequential(model, nn.Dropout(0.5)).train()
    with pytest.raises(Unsupported, match="training mode"):
        smoothed(dropping, inputs, labels, Gaussian(0.1), samples=100)
    draw = random.Random(0)
    with pytest.raises(Unsupported, match="another order got other classes"):
        smoothed(lambda some: [draw.randint(0, 1) for _ in some], ["a"], [0], Deletion(0.6))
    with pytest.raises(Unsupported, match="another order got other classes"):
        text = "a b c d e f g h"
        smoothed(lambda some: [k % 2 for k in range(len(some))], [text], [0], Deletion(0.6))


@pytest.mark.parametrize(
    ("answer", "inputs", "match"),
    [
        (lambda some: [0], ["a", "b"], "model: got an output of shape"),
        (lambda some: "none", ["a"], "model: got words such as 'none'"),
        (lambda some: some.nothing, ["a"], "model: got <lambda> that fails"),
        (says, "a text", "inputs: got 'a text', wanted a list of texts"),
        (says, [], "inputs: got no text"),
        (says, ["a", 3], "inputs: got 3 among them"),
        (says, torch.zeros(2, 2), "inputs: got Tensor"),
        (3, ["a"], "model: got 3"),
    ],
)  # fmt: skip
def test_what_is_no_model_of_texts_or_no_text_is_refused(answer, inputs, match):
    with pytest.raises(InvalidInput, match=match):
        smoothed(answer, inputs, [0] * max(1, len(inputs)), Deletion(0.6), samples=100)


def test_labels_must_be_classes_of_the_model():
    with pytest.raises(InvalidInput, match="labels: got values from 5 to 5, wanted 0 to 1"):
        smoothed(lambda some: torch.ones(len(some), 2), ["a"], [5], Deletion(0.6), samples=100)
    with pytest.raises(InvalidInput, match="labels: got"):
        smoothed(says, ["a"], [0.5], Deletion(0.6), samples=100)


def test_noise_that_certifies_no_edit_says_so():
    with pytest.warns(holdfast.HoldfastWarning, match="certifies no edit"):
        smoothed(says, ["good " * 20], [1], Deletion(0.4), samples=100)


def test_smoothed_radii_are_not_held_against_attacks_of_the_model_itself():
    model, inputs, labels, _ = linear(2.0, rows=4)
    found = smoothed(model, inputs, labels, Gaussian(0.1), samples=100)
    nothing: Any = None  # neither the graph nor the attacks are looked at
    with pytest.raises(InvalidInput, match="certificates: got those of a smoothed model"):
        check_agreement(nothing, found, nothing)
