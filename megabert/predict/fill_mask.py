"""The best words for the masks of a text, by a pretrained model's masked-language-model head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.packed_batch import PackedBatch
from megabert.config.model import ModelConfig
from megabert.model.head_registry import Head
from megabert.model.heads import MASKED_LM, PRETRAINING, BertForPreTraining
from megabert.parallel.layers import TensorParallel
from megabert.tasks.base import ItemFormat
from megabert.tasks.batches import pad_rows
from megabert.tasks.files.rows import Rows

if TYPE_CHECKING:
    from megabert.data.tokenizers.base import Tokenizer


SHOWN_WORDS = 5
"""Words listed for each mask, where ``--top-k`` is not given."""


@dataclass(frozen=True)
class MaskedTexts:
    """Texts with masks; :class:`megabert.tasks.base.Features` of inputs.

    ``masks``: of each text the places of its masks in its row.
    """

    texts: list[str]
    rows: Rows
    masks: list[np.ndarray]
    tokenizer: Tokenizer

    @property
    def lengths(self) -> np.ndarray:
        """Real tokens of each row, int64 [F]."""
        return self.rows.lengths

    def batch(self, rows: np.ndarray, max_length: int) -> PackedBatch[np.ndarray]:
        """The rows, and ``mask_places`` int64 [B, M], 0 after a row's last mask, with M the masks of the
        text that has most.
        """
        most = max(map(len, self.masks))
        places = pad_rows([self.masks[row] for row in rows], most, 0)
        return self.rows.batch(rows, max_length, {"mask_places": places})

    def describe(self) -> str:
        """One line: texts, masks, tokens."""
        sizes = self.sizes()
        return f"{sizes['texts']:,} texts, {sizes['masks']:,} masks, {sizes['tokens']:,} tokens"

    def sizes(self) -> dict[str, int]:
        """The same as numbers."""
        return {
            "texts": len(self.texts),
            "masks": sum(map(len, self.masks)),
            "tokens": int(self.lengths.sum()),
        }


class FillMask:
    """What :mod:`megabert.predict.command` asks of a task, for models with a masked-language-model head.

    Args:
        max_length: tokens per text at most.
        head: one of :attr:`heads`.
        top_k: words for each mask; None: ``SHOWN_WORDS``.
    """

    name = "fill-mask"
    heads = (PRETRAINING, MASKED_LM)
    input_fields: tuple[tuple[str, ...], ...] = (("text",),)
    item_format: ItemFormat | None = None
    ranks_answers = True

    def __init__(self, max_length: int, head: Head, top_k: int | None) -> None:
        self.max_length, self.head, self.top_k = max_length, head, top_k or SHOWN_WORDS

    @classmethod
    def used_settings(cls) -> frozenset[str]:
        """None: settings are for fine-tuned tasks."""
        return frozenset()

    def build_model(self, config: ModelConfig) -> torch.nn.Module:
        """Encoder and head, weights not yet loaded."""
        return BertForPreTraining(config, TensorParallel(), sentence_task=self.head is PRETRAINING)

    def item_features(self, items: list[dict[str, Any]], tokenizer: Tokenizer) -> MaskedTexts:
        """Rows of items with a ``text`` that holds the tokenizer's mask, as ``[MASK]``, once or more.

        Raises:
            UserError: no text, no mask in it, or it is too long; the message names the item from 1.
        """
        mask, special = tokenizer.special_tokens["mask"], tokenizer.special
        texts, ids, places = [], [], []
        for number, item in enumerate(items, start=1):
            text = item.get("text")
            if not isinstance(text, str):
                raise UserError(f"item {number}: 'text' is missing or not a text")
            parts = text.split(mask)
            if len(parts) == 1:
                raise UserError(f"item {number}: it has no {mask} to fill: {text[:60]!r}")
            pieces = [encoded.ids for encoded in tokenizer.encode_sentences(parts)]
            row = [np.asarray([special.cls])]
            found = []
            for piece in pieces[:-1]:
                row += [piece, np.asarray([special.mask])]
                found.append(sum(map(len, row)) - 1)
            row += [pieces[-1], np.asarray([special.sep])]
            ids.append(np.concatenate(row))
            if len(ids[-1]) > self.max_length:
                raise UserError(
                    f"item {number}: {len(ids[-1])} tokens with [CLS] and [SEP], but the model takes "
                    f"{self.max_length}; cut the text"
                )
            texts.append(text)
            places.append(np.asarray(found, np.int64))
        rows = Rows.joined(ids, [np.zeros(len(row), np.int8) for row in ids])
        return MaskedTexts(texts, rows, places, tokenizer)

    def predict(
        self, model: torch.nn.Module, batch: PackedBatch[torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The best ``words`` int32 [B, M, K] for each mask and their ``probabilities``, float32."""
        assert isinstance(model, BertForPreTraining)
        places = batch.labels["mask_places"]
        selected_positions = (batch.first_tokens[:, None] + places).flatten().long()
        hidden = model.bert(batch, selected_positions)
        logits = model.mlm(hidden, model.bert.embeddings.word_embeddings.weight)  # [B*M, Vp]
        probabilities = logits[:, : model.config.vocab_size].float().softmax(dim=-1)
        best, words = probabilities.topk(min(self.top_k, probabilities.size(1)))
        return {
            "words": words.to(torch.int32).unflatten(0, places.shape),
            "probabilities": best.unflatten(0, places.shape),
        }

    def answers(
        self, features: MaskedTexts, outputs: dict[str, np.ndarray]
    ) -> list[dict[str, Any]]:
        """``filled``, the text with the best word for each mask, and ``masks``, for each the best
        ``word``s with their ``score`` and id, ``token``.
        """
        tokenizer = features.tokenizer
        mask = tokenizer.special_tokens["mask"]
        result = []
        for row, text in enumerate(features.texts):
            listed = []
            for place in range(len(features.masks[row])):
                ids = outputs["words"][row, place].tolist()
                scores = outputs["probabilities"][row, place].tolist()
                listed.append(
                    [
                        {"word": word, "score": score, "token": token}
                        for word, score, token in zip(tokenizer.tokens(ids), scores, ids)
                    ]
                )
            parts = text.split(mask)
            filled = parts[0]
            for words, part in zip(listed, parts[1:]):
                filled = _joined(filled, str(words[0]["word"])) + part
            result.append({"filled": filled, "masks": listed})
        return result


def _joined(text: str, word: str) -> str:
    """``text`` followed by a vocabulary entry; a continuation ("##s") joins the word before it."""
    if word.startswith("##"):
        return text.rstrip() + word[2:]
    return text + word.replace("\u2581", "")
