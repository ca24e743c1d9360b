"""Tensors next to each other as one matrix: found where they are, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megabert.kernels.joined import arranged_as, end_to_end, side_by_side


def weights(flat: Tensor, *rows: int, gap: int = 0) -> list[Tensor]:
    parts, place = [], 0
    for count in rows:
        parts.append(flat[place : place + 4 * count].view(count, 4))
        place += 4 * count + gap
    return parts


def test_weights_end_to_end() -> None:
    flat = torch.arange(40.0)
    parts = weights(flat[4:], 2, 3, 1)
    whole = end_to_end(parts)
    assert whole is not None
    assert torch.equal(whole, torch.cat(parts))
    assert whole.data_ptr() == parts[0].data_ptr()
    biases = end_to_end([flat[:3], flat[3:5]])
    assert biases is not None
    assert torch.equal(biases, flat[:5])


@pytest.mark.parametrize(
    "parts",
    [
        weights(torch.zeros(40), 2, 3, gap=1),
        weights(torch.zeros(40), 2, 3)[::-1],
        [torch.zeros(2, 4), torch.zeros(2, 4)],
        [torch.zeros(2, 4), torch.zeros(2, 4).bfloat16()],
        [torch.zeros(4, 2).t(), torch.zeros(2, 4)],
        [torch.zeros(0, 4), torch.zeros(0, 4)],
        [torch.zeros(2, 4), torch.zeros(2, 3)],
    ],
)
def test_weights_elsewhere(parts: list[Tensor]) -> None:
    assert end_to_end(parts) is None


def test_neighbours_in_two_storages_are_two() -> None:
    """Memory that happens to follow belongs to another tensor."""
    flat = torch.zeros(16)
    first, second = (
        torch.frombuffer(memoryview(flat.numpy())[k : k + 8], dtype=torch.float32).view(2, 4)
        for k in (0, 8)
    )
    assert second.data_ptr() == first.data_ptr() + 32
    assert end_to_end([first, second]) is None


def test_columns_side_by_side() -> None:
    whole = torch.arange(30.0).view(5, 6)
    found = side_by_side(whole.split([1, 2, 3], dim=1))
    assert found is not None
    assert torch.equal(found, whole)
    assert side_by_side(whole.split([3, 3], dim=1)[::-1]) is None
    assert side_by_side([whole[:, :2], whole[:, 3:]]) is None
    assert side_by_side([whole[:, :2].clone(), whole[:, 2:].clone()]) is None


def test_gradients_lie_as_the_outputs_do() -> None:
    whole = torch.zeros(5, 3, 2, 4)
    made = arranged_as(whole.unbind(1))
    assert side_by_side([part.flatten(1) for part in made]) is not None
    apart = arranged_as([part.clone() for part in whole.unbind(1)], torch.zeros)
    assert all(part.is_contiguous() for part in apart)
