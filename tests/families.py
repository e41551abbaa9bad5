"""Transformers of several families with small random weights, on embeddings or images."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

SMALL = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


class OnEmbeddings(nn.Module):
    """A classifier of sentences that are given as embeddings."""

    def __init__(self, body: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(inputs_embeds=x).last_hidden_state.mean(1))


class OnImages(nn.Module):
    """A classifier of images by a vision transformer."""

    def __init__(self, body: nn.Module, width: int = 16) -> None:
        super().__init__()
        self.body, self.head = body, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(pixel_values=x).last_hidden_state[:, 0])


class OfTorch(nn.Module):
    """A layer of torch's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))


def _bert(t: Any, **settings: Any) -> nn.Module:
    config = t.BertConfig(hidden_size=16, intermediate_size=32, **SMALL, **settings)
    return OnEmbeddings(t.BertModel(config))


def _roberta(t: Any) -> nn.Module:
    config = t.RobertaConfig(
        hidden_size=16, intermediate_size=32, max_position_embeddings=40, **SMALL
    )
    return OnEmbeddings(t.RobertaModel(config))


def _distilbert(t: Any) -> nn.Module:
    config = t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=50)
    return OnEmbeddings(t.DistilBertModel(config))


def _gpt2(t: Any) -> nn.Module:
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    config = t.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32, use_cache=False, **ends
    )
    return OnEmbeddings(t.GPT2Model(config))


def _llama(t: Any) -> nn.Module:
    config = t.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_key_value_heads=1, use_cache=False, **SMALL
    )
    return OnEmbeddings(t.LlamaModel(config))


def _t5(t: Any) -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    return OnEmbeddings(t.T5EncoderModel(t.T5Config(vocab_size=50, use_cache=False, **sizes)))


def _vit(t: Any) -> nn.Module:
    sizes = {"image_size": 8, "patch_size": 4, "num_channels": 1, "intermediate_size": 32}
    config = t.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **sizes)
    return OnImages(t.ViTModel(config, add_pooling_layer=False))


FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "BERT": _bert,
    "BERT, eager": lambda t: _bert(t, attn_implementation="eager"),
    "RoBERTa": _roberta,
    "DistilBERT": _distilbert,
    "GPT-2": _gpt2,
    "Llama": _llama,
    "T5 encoder": _t5,
    "ViT": _vit,
    "torch": lambda t: OfTorch(),
}
