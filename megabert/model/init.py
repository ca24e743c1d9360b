"""Initial weights of BERT (Devlin et al. 2019, public code): a pure function of (seed, name, shape).

Each whole tensor is drawn by a generator of its own, seeded with the run's seed and the parameter's
name, and then cut. So the model is the same for every tensor parallel degree, and a parameter keeps
its values when others are added or left out. The rule knows no encoder:

    named ``bias``               0
    vectors named ``weight``     1 (norms)
    all others                   normal, mean 0, standard deviation initializer_range
    rows of padded words         0
"""

from __future__ import annotations

import hashlib
from typing import cast

import torch
from torch import Tensor, nn

from megabert.config.model import ModelConfig
from megabert.model.parameters import VOCABULARY_TENSORS, whole_parameter
from megabert.parallel.layers import TensorParallel


def initial_tensor(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int) -> Tensor:
    """The whole float32 tensor of parameter ``name`` (unsplit ``shape``, padded vocabulary)."""
    kind = name.rsplit(".", 1)[-1]
    if kind == "bias":
        return torch.zeros(shape)
    if kind == "weight" and len(shape) == 1:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(_name_seed(seed, name))
    if name in VOCABULARY_TENSORS:
        full = torch.zeros(shape)
        full[: config.vocab_size].normal_(0.0, config.initializer_range, generator=generator)
        return full
    return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)


@torch.no_grad()
def initialize_weights(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter of ``model`` in place, on its device and in its dtype.

    ``model`` is one of this package's models (it has ``.tp``) with its parameters in place.
    """
    tp = cast(TensorParallel, model.tp)
    for name, parameter in model.named_parameters():
        whole = whole_parameter(parameter, tp.size)
        full = initial_tensor(name, whole.shape, config, seed)
        parameter.copy_(tp.cut(full, whole.split_dim))


def _name_seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
