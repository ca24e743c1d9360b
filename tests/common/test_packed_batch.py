"""The batch object: what its constructors compute, and that it goes anywhere whole."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from megabert.common.packed_batch import PackedBatch

IDS = np.arange(10, 17, dtype=np.int32)
LENGTHS = np.array([3, 1, 3])


def packed(**more: Any) -> PackedBatch[Any]:
    return PackedBatch.from_lengths(IDS, IDS % 2, LENGTHS, 5, **more)


def test_lengths_and_positions_of_packed_sequences() -> None:
    batch = packed()
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 7]
    assert batch.lengths.tolist() == LENGTHS.tolist()
    assert batch.first_tokens.tolist() == [0, 3, 4]
    assert (batch.num_sequences, batch.real_samples, batch.real_tokens) == (3, 3, 7)
    assert (
        batch.input_ids.dtype == batch.token_type_ids.dtype == batch.position_ids.dtype == np.int64
    )
    assert batch.cu_seqlens.dtype == batch.lengths.dtype == np.int32
    assert batch.attention_mask is None


def test_no_sequence_at_all() -> None:
    batch = PackedBatch.from_lengths(IDS[:0], IDS[:0], LENGTHS[:0], 5)
    assert (batch.num_sequences, batch.real_tokens, batch.cu_seqlens.tolist()) == (0, 0, [0])


def test_padded_rows_keep_their_padding() -> None:
    ids = np.arange(8).reshape(2, 4)
    mask = np.array([[1, 1, 1, 1], [0, 1, 1, 0]])
    batch = PackedBatch.from_padded(ids, attention_mask=mask)
    assert batch.input_ids.tolist() == list(range(8))
    assert batch.token_type_ids.tolist() == [0] * 8
    assert batch.position_ids.tolist() == [0, 1, 2, 3] * 2
    assert batch.cu_seqlens.tolist() == [0, 4, 8]
    assert (batch.max_length, batch.real_samples, batch.real_tokens) == (4, 2, 6)
    assert batch.attention_mask is mask
    assert PackedBatch.from_padded(ids).attention_mask is None


def test_tensors_share_the_arrays_memory_and_numbers_stay() -> None:
    labels = {"weights": np.ones(3, np.float32)}
    batch = packed(sample_numbers=np.array([7, 8, 9]), labels=labels)
    tensors = batch.map(torch.from_numpy)
    assert tensors.input_ids.data_ptr() == batch.input_ids.ctypes.data
    assert tensors.labels["weights"].dtype == torch.float32
    assert (tensors.max_length, tensors.real_tokens, tensors.first_sample) == (5, 7, 0)
    assert torch.equal(tensors.lengths, torch.tensor(LENGTHS).int())
    moved = tensors.to(torch.device("meta"))
    assert moved.input_ids.device.type == moved.labels["weights"].device.type == "meta"
    assert moved.sample_numbers is not None
    assert moved.sample_numbers.device.type == "meta"
    assert moved.attention_mask is None


def test_a_batch_goes_between_processes() -> None:
    batch = packed(labels={"x": np.arange(3)})
    again = pickle.loads(pickle.dumps(batch))
    assert again.labels["x"].tolist() == [0, 1, 2]
    assert again.lengths.tolist() == batch.lengths.tolist()


def test_torch_is_not_imported() -> None:
    code = "import sys, megabert.common.packed_batch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
