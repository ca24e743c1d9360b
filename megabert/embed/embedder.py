"""An encoder on one device that makes one vector of each text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.packed_batch import PackedBatch
from megabert.convert.exports.sentence_folder import encoder_of
from megabert.convert.huggingface.sentence_modules import NOT_UNDERSTOOD
from megabert.convert.tokenizer import open_tokenizer
from megabert.convert.whole_model import WholeModel, loaded_model
from megabert.data.tokenizers.base import Tokenizer
from megabert.finetune.starting_weights import read_weights
from megabert.model.encoder import Encoder, variant_of
from megabert.model.pooling import sequence_vectors
from megabert.predict.predictor import chosen_device
from megabert.tasks.files.rows import Rows

log = get_logger()
_SPECIAL = 2  # [CLS] and [SEP]


@dataclass(frozen=True)
class EmbeddingOptions:
    """How vectors are made; None: what the checkpoint says, else mean, off and its trained positions.

    Attributes:
        pooling: of :data:`megabert.model.pooling.POOLINGS`.
        normalize: vectors of length 1.
        layer: whose hidden states are taken: 0 the embeddings, N the Nth layer; None: the last.
        max_length: tokens of a text at most, [CLS] and [SEP] included; the rest is cut off.
        batch_size: texts that are computed at once.
        device: auto, cpu or cuda.
        precision: fp32 or bf16.
    """

    pooling: str | None = None
    normalize: bool | None = None
    layer: int | None = None
    max_length: int | None = None
    batch_size: int = 64
    device: str = "auto"
    precision: str = "fp32"


@dataclass(frozen=True)
class Vectors:
    """Vectors of texts, float32 ``[N, H]``, with the number of their tokens and of texts that were cut."""

    values: np.ndarray
    tokens: int
    cut: int


@dataclass(frozen=True)
class Embedder:
    """An encoder and how its states become vectors (:class:`EmbeddingOptions`)."""

    encoder: Encoder
    tokenizer: Tokenizer
    device: torch.device
    pooling: str
    normalize: bool
    max_length: int
    batch_size: int

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.encoder.config.hidden_size

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, in their order. Texts of similar length share a batch."""
        special, room = self.tokenizer.special, self.max_length - _SPECIAL
        encoded = [found.ids for found in self.tokenizer.encode_sentences(list(texts))]
        ids = [np.concatenate([[special.cls], e[:room], [special.sep]]) for e in encoded]
        rows = Rows.joined(ids, [np.zeros(len(row), np.int8) for row in ids])
        found = np.empty((len(ids), self.width), np.float32)
        order = np.argsort(-rows.lengths, kind="stable")
        for first in range(0, len(order), self.batch_size):
            some = order[first : first + self.batch_size]
            batch = rows.batch(some, int(rows.lengths[some].max()))
            found[some] = self._computed(batch.map(torch.from_numpy).to(self.device))
        return Vectors(found, len(rows.ids), sum(len(e) > room for e in encoded))

    @torch.inference_mode()
    def _computed(self, batch: PackedBatch[torch.Tensor]) -> np.ndarray:
        hidden = self.encoder(batch).float()  # [T, H]
        vectors = sequence_vectors(hidden, batch, self.pooling, self.normalize)
        return vectors.cpu().numpy()


def open_embedder(checkpoint: Path, options: EmbeddingOptions) -> Embedder:
    """Read a checkpoint's encoder and make it ready; its head is not used.

    Raises:
        UserError: not a checkpoint, without a tokenizer, or an option that it does not fit.
    """
    source, trained_with = read_weights(checkpoint)
    if source.tokenizer is None:
        raise UserError(
            f"--checkpoint {checkpoint} has no tokenizer; put its vocab.txt or tokenizer.json there"
        )
    tokenizer = open_tokenizer(
        source.tokenizer, source.config.vocab_size, str(checkpoint), trained_with
    )
    known = source.embedding
    modules = [name for name, reason in source.left_out if reason == NOT_UNDERSTOOD]
    if modules:
        log.warning(
            "%s: %s of sentence-transformers are not applied: vectors are not those of that library",
            source.origin,
            ", ".join(modules),
        )
    pooling = options.pooling or known.get("pooling", "mean")
    normalize = options.normalize
    if normalize is None:
        normalize = bool(known.get("normalize", False))
    max_length = _max_length(source, options.max_length)
    device = chosen_device(options.device)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    encoder = _encoder(source, options.layer).to(device, dtype)
    log.info(
        "%s: %s pooling%s, texts cut at %d tokens, on %s, %s",
        *(source.origin, pooling, ", normalised" if normalize else "", max_length),
        *(device, options.precision),
    )
    return Embedder(encoder, tokenizer, device, pooling, normalize, max_length, options.batch_size)


def _encoder(source: WholeModel, wanted: int | None) -> Encoder:
    """The encoder up to a layer, in evaluation mode."""
    bare = encoder_of(source)
    kept = {n: t for n, t in bare.tensors.items() if not n.startswith("bert.pooler.")}
    model: Any = loaded_model(replace(bare, tensors=kept))
    encoder: Encoder = model.bert
    layers = len(encoder.layers)
    if wanted is not None and wanted > layers:
        raise UserError(f"--layer {wanted}: {source.origin} has {layers} layers; 0 to {layers}")
    if wanted is not None and wanted < layers:
        encoder.layers = encoder.layers[:wanted]
        encoder.final_norm = None  # of the last layer's output
    return encoder


def _max_length(source: WholeModel, wanted: int | None) -> int:
    most, trained = source.config.max_position_embeddings, source.trained_positions
    if wanted is None:
        return int(min(source.embedding.get("max_length", trained), most))
    if wanted <= _SPECIAL:
        raise UserError(f"--max-length {wanted} leaves no room for text besides [CLS] and [SEP]")
    if wanted > most:
        limit = variant_of(source.config).length_limit(source.config)
        raise UserError(f"--max-length {wanted} is longer than {limit} ({source.origin})")
    if wanted > trained:
        log.warning("--max-length %d: only the first %d positions were trained", wanted, trained)
    return wanted
