"""Initial weights: a pure function of (scheme, seed, name, shape).

Each whole tensor is drawn by a generator of its own, seeded with the run's seed and the parameter's
name, and then cut. So the model is the same for every tensor parallel degree, and a parameter keeps
its values when others are added or left out:

    named ``bias``               0, unless local heads are asked for
    vectors named ``weight``     1 (norms)
    all others                   normal, mean 0, standard deviation by the scheme
    rows of padded words         0

Standard deviations, with r = ``initializer_range``; a scheme's values are those of "normal" times a
factor per tensor:

    normal             r (Devlin et al. 2019, public code)
    scaled-residual    r / sqrt(n) for the matrices that a layer adds to the residual stream, n of them in
                       all layers, 2 per layer in BERT (Radford et al. 2019, section 2.3; Megatron-LM's
                       ``scaled_init_method_normal``); others r
    width-aware        1 / sqrt(inputs) for each matrix that is not in the embeddings (Chowdhery et al.
                       2022, section 5, "fan-in variance scaling"; Yang et al. 2022 give hidden matrices
                       the same scale); others r

Local heads: the query biases of some heads make these begin with attention to one neighbour each
(``EncoderVariant.local_query_bias``), as the heads of d'Ascoli et al. 2021 (section 3) begin as convolutions.

The rules know no encoder: whole shapes say what is a matrix (the first dimension is its outputs), and an
encoder names its residual outputs (``EncoderVariant.residual_outputs``).
"""

from __future__ import annotations

import hashlib
import math
from typing import cast

import torch
from torch import Tensor, nn

from megabert.config.model import ModelConfig
from megabert.config.sections.initial_weights import InitScheme
from megabert.model.encoder import variant_of
from megabert.model.parameters import ENCODER, LAYERS, VOCABULARY_TENSORS, whole_parameter
from megabert.parallel.layers import TensorParallel

_EMBEDDINGS = f"{ENCODER}.embeddings."


def initial_tensor(
    name: str,
    shape: tuple[int, ...],
    config: ModelConfig,
    seed: int,
    scheme: InitScheme = "normal",
    local_heads: float = 0.0,
) -> Tensor:
    """The whole float32 tensor of parameter ``name`` (unsplit ``shape``, padded vocabulary).

    ``local_heads``: the share of each layer's heads that begin with attention to a neighbour.

    Raises:
        UserError: the encoder has no local heads.
    """
    kind = name.rsplit(".", 1)[-1]
    if local_heads and name.startswith(LAYERS) and name.endswith(".attention.query.bias"):
        return variant_of(config).local_query_bias(config, local_heads)
    if kind == "bias":
        return torch.zeros(shape)
    if kind == "weight" and len(shape) == 1:
        return torch.ones(shape)
    generator = torch.Generator().manual_seed(_name_seed(seed, name))
    deviation = standard_deviation(name, shape, config, scheme)
    full = torch.zeros(shape)
    real = full[: config.vocab_size] if name in VOCABULARY_TENSORS else full
    real.normal_(0.0, deviation, generator=generator)
    return full


def standard_deviation(
    name: str, shape: tuple[int, ...], config: ModelConfig, scheme: InitScheme
) -> float:
    """The standard deviation of a tensor that is drawn."""
    if scheme == "scaled-residual" and name.startswith(LAYERS):
        outputs = variant_of(config).residual_outputs
        if name.removeprefix(LAYERS).partition(".")[2] in outputs:
            return config.initializer_range / math.sqrt(len(outputs) * config.num_hidden_layers)
    if scheme == "width-aware" and len(shape) > 1 and not name.startswith(_EMBEDDINGS):
        return 1 / math.sqrt(math.prod(shape[1:]))
    return config.initializer_range


@torch.no_grad()
def initialize_weights(
    model: nn.Module,
    config: ModelConfig,
    seed: int,
    scheme: InitScheme = "normal",
    local_heads: float = 0.0,
) -> None:
    """Fill every parameter of ``model`` in place, on its device and in its dtype.

    ``model`` is one of this package's models (it has ``.tp``) with its parameters in place.
    """
    tp = cast(TensorParallel, model.tp)
    for name, parameter in model.named_parameters():
        whole = whole_parameter(parameter, tp.size)
        full = initial_tensor(name, whole.shape, config, seed, scheme, local_heads)
        parameter.copy_(tp.cut(full, whole.split_dim))


def _name_seed(seed: int, name: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
