"""The knowledge penalty in a real Hugging Face `Trainer`, and across two real processes."""

import pytest
import torch
from tests.train.ranks import LABELS, ROWS, on_rank, send_from_rank, small
from torch.nn import functional

from holdfast.errors import InvalidInput
from holdfast.train import KnowledgePenalty

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

BLOCKS = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
WEIGHT, RATE = 0.5, 0.1


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny classifier without dropout, in a folder as users have it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=12, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def loaded(folder):
    return transformers.BertForSequenceClassification.from_pretrained(folder, local_files_only=True)


def sentences(n=8):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 30, (n, 10), generator=generator)
    lengths = torch.randint(3, 11, (n, 1), generator=generator)
    mask = (torch.arange(10) < lengths).long()
    labels = torch.randint(3, (n,), generator=generator)
    return [
        {"input_ids": i, "attention_mask": m, "labels": y}
        for i, m, y in zip(ids, mask, labels, strict=True)
    ]


def together(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("accumulated", [1, 2])
def test_one_step_of_trainer_is_one_step_by_hand(saved, tmp_path, accumulated):
    rows, size = sentences(), 8 // accumulated
    model = loaded(saved)
    penalty = KnowledgePenalty(model, BLOCKS, WEIGHT, seed=3)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated, optim="sgd", learning_rate=RATE,
        lr_scheduler_type="constant", max_grad_norm=0.0, use_cpu=True, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
        train_sampling_strategy="sequential", dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.Trainer(
        model, arguments, train_dataset=rows, compute_loss_func=penalty.compute_loss,
        data_collator=together,
    ).train()  # fmt: skip

    own = loaded(saved).train()
    by_hand = KnowledgePenalty(own, BLOCKS, WEIGHT, seed=3)
    for start in range(0, 8, size):
        batch = together(rows[start : start + size])
        labels = batch.pop("labels")
        logits = own(**batch).logits
        loss = functional.cross_entropy(logits, labels) + by_hand(logits, labels)
        (loss / accumulated).backward()
    moved = 0.0
    for mine, theirs in zip(own.parameters(), model.parameters(), strict=True):
        if mine.grad is not None:
            moved = max(moved, float(mine.grad.abs().max()))
            assert torch.allclose(mine - RATE * mine.grad, theirs, atol=1e-6)
    assert moved > 0.01


def test_labels_that_are_missing_are_told(saved):
    model = loaded(saved)
    penalty = KnowledgePenalty(model, BLOCKS)
    batch = together(sentences())
    del batch["labels"]
    with pytest.raises(InvalidInput, match="labels"):
        penalty.compute_loss(model(**batch), None)


def test_two_processes_give_the_value_and_gradient_of_one(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    address = str(tmp_path / "meet")
    other = context.Process(target=send_from_rank, args=(1, address, queue), daemon=True)
    other.start()
    found = [on_rank(0, address), queue.get(timeout=120)]
    other.join(60)
    assert other.exitcode == 0
    model = small()
    value = KnowledgePenalty(model, ["1"], weight=1.0)(model(ROWS), LABELS)
    value.backward()
    for theirs, grads in found:
        assert theirs == pytest.approx(value.item(), rel=1e-5)
        for grad, p in zip(grads, model.parameters(), strict=True):
            assert torch.allclose(torch.tensor(grad), p.grad, atol=1e-6)
