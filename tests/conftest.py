"""Fixtures for all tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """What a test does to the environment (a world of one rank sets RANK) ends with it."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data next to the checkout; the test is skipped where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data not found: expected the folder ../shared/data next to the checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def shared_faults(shared_data: Path) -> Path:
    """Folder of small inputs with what is right for them; the test is skipped where it is missing."""
    folder = shared_data.parent / "faults"
    if not folder.is_dir():
        pytest.skip("inputs not found: expected the folder ../shared/faults next to the checkout")
    return folder


@pytest.fixture(scope="module", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def on_device(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """``on_device(check, *args)``: ``check("cuda", *args)``, or ``check("cpu", *args)`` in Triton's interpreter."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        yield lambda check, *args: check("cuda", *args)
        return
    from tests.helpers.triton_processes import process

    with process(TRITON_INTERPRET="1") as call:
        yield lambda check, *args: call(check, "cpu", *args)
