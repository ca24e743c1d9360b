"""Small shards and training runs on forked ranks, for tests of whole runs."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabert.config import flags
from megabert.config.training import PretrainSettings, ResolvedSettings
from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
from megabert.data.shards.writer import Document, write_corpus
from tests.helpers.distributed import import_once, run_ranks

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(392))]

TINY = [
    "--model", "bert-tiny", "--hidden-size", "32", "--num-attention-heads", "4",
    "--intermediate-size", "64", "--max-position-embeddings", "64", "--seq-length", "32",
    "--global-batch-size", "8", "--micro-batch-size", "2", "--steps", "4", "--lr", "1e-2",
    "--log-interval", "1", "--eval-interval", "0", "--save-interval", "0", "--eval-samples", "16",
    "--self-test", "off",
]  # fmt: skip


def last_given(argv: Sequence[str]) -> list[str]:
    """The flags of ``argv``, of each only the last one: a test's flags replace those of ``TINY``.

    The commands themselves refuse a flag that is given twice.
    """
    groups: dict[str, list[str]] = {}
    flag = ""
    for word in map(str, argv):
        if word.startswith("--"):
            flag = word.partition("=")[0]
            groups.pop(flag, None)
        groups.setdefault(flag, []).append(word)
    return [word for group in groups.values() for word in group]


def settings_of(argv: Sequence[str]) -> ResolvedSettings:
    """The settings that ``launch/pretrain.py`` makes of ``last_given(argv)``."""
    from megabert.pretrain.settings import resolve_pretraining

    given = flags.parse(PretrainSettings, last_given(argv), "pretrain.py", "")
    return resolve_pretraining(given)


def make_shards(
    folder: Path, *, sha256: str = "ab" * 32, seed: int = 0, pieces: bool = False
) -> Path:
    """A few hundred documents, each about a topic of its own: two train shards and one eval shard.

    ``pieces``: words have two tokens.
    """
    rng = random.Random(seed)

    def document(number: int) -> Document:
        topic = 5 + rng.randrange(len(VOCAB) - 45)
        sentences = []
        for _ in range(rng.randint(2, 20)):
            length = rng.randint(3, 14)
            ids = [topic + rng.randrange(40) for _ in range(length)]
            sentences.append((ids, [not pieces or place % 2 == 0 for place in range(length)]))
        return Document(number, sentences)

    tokenizer = TokenizerInfo("wordpiece", sha256, len(VOCAB), True, SpecialIds(0, 1, 2, 3, 4))
    numbers = iter(range(1000))
    shards = [[document(next(numbers)) for _ in range(count)] for count in (90, 30, 25)]
    write_corpus(folder, {"train": shards[:2], "eval": shards[2:]}, tokenizer)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return folder


def _train(rank: int, world_size: int, argv: Sequence[str]) -> dict[str, Any]:
    from megabert.pretrain.command import pretrain

    return pretrain(settings_of(argv))


def train(shards: Path, output: Path, *arguments: str, ranks: int = 1) -> list[dict[str, Any]]:
    """Run ``launch/pretrain.py`` at the tiny size; the lines of its metrics."""
    argv = [*TINY, "--data", str(shards), "--output", str(output), *arguments]
    import_once()
    run_ranks(_train, ranks, argv, initialize=False, timeout=240.0)
    return metrics(output)


def metrics(run: Path) -> list[dict[str, Any]]:
    """All lines of a run's ``metrics.jsonl``."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def losses(lines: list[dict[str, Any]]) -> list[float]:
    """The training losses among metrics lines."""
    return [line["loss"] for line in lines if "loss" in line]


def whole_weights(run: Path) -> dict[str, dict[str, Any]]:
    """Whole weights and moments of a run's newest checkpoint."""
    from megabert.checkpoint.merged import whole_checkpoint
    from megabert.checkpoint.resume import recorded_parameters
    from megabert.checkpoint.save_load import newest_checkpoint
    from megabert.config.model import ModelConfig

    checkpoint = newest_checkpoint(run)
    model = ModelConfig.from_dict(checkpoint.record["model"])
    parameters = recorded_parameters(model, checkpoint.record["heads"])
    whole = whole_checkpoint(checkpoint.folder, parameters)
    return {name: {k: v.clone() for k, v in values.items()} for name, values in whole.items()}
