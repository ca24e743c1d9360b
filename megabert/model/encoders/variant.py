"""What an encoder states about itself.

An encoder is one class in one file, of this package or of another one:

    @register_encoder
    class RopeGeglu(EncoderVariant):
        name = "rope-geglu"
        def attention(self, config, tp): ...
        def mlp(self, config, tp): ...

All other code asks the variant (:func:`megabert.model.encoder.variant_of`) and compares no names.
Instead of the decorator, an encoder of this package has a line in
:data:`megabert.config.model.ENCODERS`, with its configuration and presets in that file; one of an
installed package may be named by an entry point of the group ``megabert.encoders``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from megabert.common.errors import UserError
from megabert.config.model import ENCODERS, EncoderDeclaration, ModelConfig
from megabert.model.modules import Embeddings, Layer, Mlp, Norm, SelfAttention
from megabert.parallel.topology import TensorParallel


@dataclass(frozen=True)
class SavedTensor:
    """One tensor of an encoder layer that stays in memory until backward.

    Attributes:
        what: its name.
        hidden, inner, heads: values per token, in units of H, of I and of N.
        split: it lies in a region that tensor parallelism splits.
        every_token: False for what follows the attention, where the last layer has only the rows
            that a head reads.
        fp32: whatever the compute precision.
    """

    what: str
    hidden: int = 0
    inner: int = 0
    heads: int = 0
    split: bool = False
    every_token: bool = True
    fp32: bool = False


@dataclass(frozen=True)
class ScratchTraffic:
    """Memory that the attention's GPU kernels write and read again, forward and backward together.

    Attributes:
        name: of this part of a plan's time.
        bytes_per_pair: for each head and pair of tokens.
        most_keys: keys of a query for which there is any.
    """

    name: str
    bytes_per_pair: float
    most_keys: int


SAVED_BY_ATTENTION: tuple[SavedTensor, ...] = (
    SavedTensor("layer input", hidden=1),
    SavedTensor("queries, keys, values", hidden=3, split=True),
    SavedTensor("attention output", hidden=1, split=True),
    SavedTensor("attention log-sum-exp", heads=1, split=True, fp32=True),
    SavedTensor("sum before the attention norm", hidden=1, every_token=False),
    SavedTensor("attention norm", hidden=1, every_token=False),
)
"""By the attention block of a :class:`megabert.model.modules.Layer`."""
SAVED_BY_MLP: tuple[SavedTensor, ...] = (
    SavedTensor("MLP before activation", inner=1, split=True, every_token=False),
    SavedTensor("MLP after activation", inner=1, split=True, every_token=False),
    SavedTensor("sum before the MLP norm", hidden=1, every_token=False),
)
"""By the MLP block with a :class:`megabert.model.modules.Mlp`."""
SAVED_BY_GATED_MLP: tuple[SavedTensor, ...] = (
    SavedTensor("gate, its activation, and up", inner=3, split=True, every_token=False),
    SavedTensor("MLP after the gate", inner=1, split=True, every_token=False),
    SavedTensor("sum before the MLP norm", hidden=1, every_token=False),
)
"""By the MLP block with a :class:`megabert.model.modules.GatedMlp`."""


class EncoderVariant(EncoderDeclaration, ABC):
    """One kind of encoder: its configuration, its modules, and what they cost.

    Attributes:
        name, config_class, presets: as in :class:`EncoderDeclaration`.
        bias: whether norms and linear layers of the encoder and of the MLM head's transform have
            biases.
        saved_for_backward: tensors that a layer saves, for the memory of a plan.
        backward_hidden, backward_inner: gradients that exist at the same time in a layer's backward,
            values per token in units of H and of I/t.
        gpu_scratch: what attention writes to a GPU's memory and reads again in its kernels; None: nothing.
        residual_outputs: names, within a layer, of the matrices whose products are added to the
            residual stream; ``--init-scheme scaled-residual`` draws them smaller.
    """

    bias: ClassVar[bool] = True
    saved_for_backward: ClassVar[tuple[SavedTensor, ...]] = SAVED_BY_ATTENTION + SAVED_BY_MLP
    backward_hidden: ClassVar[int] = 3
    backward_inner: ClassVar[int] = 2
    gpu_scratch: ClassVar[ScratchTraffic | None] = None
    residual_outputs: ClassVar[tuple[str, ...]] = ("attention.output.weight", "mlp.down.weight")

    def check(self, config: ModelConfig) -> None:
        """Check that the fields fit each other; called before any other method.

        Raises:
            UserError: names the fields that do not fit or have no effect.
        """
        positions = config.position_embeddings
        if type(config) is not ModelConfig and positions != ModelConfig.position_embeddings:
            raise UserError(
                f"model {config.name}: position_embeddings {positions!r} has no effect in the encoder "
                f"{self.name}: leave it out"
            )

    def local_query_bias(self, config: ModelConfig, share: float) -> Tensor:
        """Initial query bias, float32 [hidden_size], with which a share of a layer's heads attend to a neighbour.

        Raises:
            UserError: attention of this encoder has no vectors for distances that a bias could point at.
        """
        raise UserError(
            f"model {config.name}: --init-local-heads needs a model with relative positions "
            "(pretraining: --position-embeddings relative); leave it out for this one"
        )

    @abstractmethod
    def attention(self, config: ModelConfig, tp: TensorParallel) -> SelfAttention:
        """The attention block of a layer."""

    @abstractmethod
    def mlp(self, config: ModelConfig, tp: TensorParallel) -> Mlp:
        """The MLP block of a layer."""

    def layer(self, config: ModelConfig, number: int, tp: TensorParallel) -> Layer:
        """Layer ``number``, from 0."""
        blocks = self.attention(config, tp), self.mlp(config, tp)
        return Layer(config, number, *blocks, tp, self.bias)

    def embeddings(self, config: ModelConfig, tp: TensorParallel) -> Embeddings:
        """The module that turns token ids into the first layer's input."""
        return Embeddings(config, tp, self.position_rows(config), self.bias)

    def final_norm(self, config: ModelConfig) -> Norm | None:
        """The norm after the last layer; None without one."""
        if config.norm == "post":
            return None
        return Norm(config.hidden_size, config.layer_norm_eps, self.bias)

    def position_rows(self, config: ModelConfig) -> int:
        """Rows of the trained position table; 0 for an encoder without one."""
        return 0

    def length_limit(self, config: ModelConfig) -> str:
        """What ``max_position_embeddings`` limits, in words for messages."""
        limit = config.max_position_embeddings
        if self.position_rows(config):
            return f"the position table of {limit} rows"
        return f"the model's longest sequence, {limit} tokens"

    def attention_flops(self, config: ModelConfig, squared_lengths: float) -> float:
        """FLOPs of scores and weighted sums in forward, for a sum of squared sequence lengths."""
        return 4 * config.num_hidden_layers * config.hidden_size * squared_lengths

    def constant_flops(self, config: ModelConfig, tokens: float) -> float:
        """FLOPs of forward and backward with constant tables, which have no gradient."""
        return 0.0

    def transformers_type(self, config: ModelConfig) -> str | None:
        """``model_type`` of the encoder of transformers that computes the same; None without one."""
        return None


Variant = TypeVar("Variant", bound=type[EncoderVariant])


def register_encoder(variant: Variant) -> Variant:
    """Register an encoder under its name, and its presets for ``--model``; returns it.

    Raises:
        UserError: another encoder has this name.
    """
    ENCODERS.register(variant.name, variant)
    return variant
