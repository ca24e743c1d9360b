"""Some of the documents that are left out as copies, in a file that shows them next to the first one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megabert.common.files import write_bytes
from megabert.common.log import get_logger
from megabert.data.prepare.batch_files import load_batch, unit_of
from megabert.data.prepare.notices.duplicates import input_of
from megabert.data.prepare.output_folder import PAIRS_FILE
from megabert.data.prepare.plan import Copies
from megabert.data.tokenizers.base import Tokenizer

MOST_PAIRS = 200
"""Pairs per reason that are written."""
_SHOWN_TOKENS = 500  # of each document


def write_pairs(
    output: Path,
    copies: Sequence[Copies],
    batches: Sequence[Path],
    inputs: Sequence[tuple[str, range]],
    tokenizer: Tokenizer,
) -> None:
    """Write up to MOST_PAIRS pairs per reason, evenly spaced in the order of the input.

    Args:
        output: the folder of shards.
        copies: of the plan.
        batches: the batch files.
        inputs: each input's name and its units.
        tokenizer: writes the beginning of each document from its ids.
    """

    def document(batch: int, row: int) -> dict[str, Any]:
        encoded = load_batch(batches[batch])
        ids = encoded.piece(np.array([row])).tokens[:_SHOWN_TOKENS]
        return {
            "input": input_of(unit_of(batches[batch]), inputs),
            "id": int(encoded.document_ids[row]),
            "tokens": int(encoded.document_tokens[row]),
            "text": tokenizer.decode(ids),
        }

    lines = []
    for found in copies:
        count = min(len(found), MOST_PAIRS)
        for place in np.linspace(0, len(found) - 1, count).astype(int).tolist():
            (kept, own), (kept_row, own_row) = found.batches[place], found.rows[place]
            pair = {
                "reason": found.reason,
                "similarity": round(float(found.similarity[place]), 4),
                "kept": document(int(kept), int(kept_row)),
                "dropped": document(int(own), int(own_row)),
            }
            lines.append(json.dumps(pair, ensure_ascii=False) + "\n")
    write_bytes(output / PAIRS_FILE, "".join(lines).encode("utf-8", "replace"))
    if lines:
        get_logger().info(f"{output / PAIRS_FILE}: {len(lines)} pairs of copies, for a check")
