"""What the rest of the program must know of a head, and the task heads by name.

Conversion, fine-tuning and prediction ask a :class:`Head` for its modules, its tensors and its
Hugging Face class; none of them knows a head by name. A package adds heads with
:func:`register_head`, or with an entry point of the group ``megabert.heads``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from megabert.common.registry import Registry
from megabert.config.model import ModelConfig

PRETRAINING_MODULES = ("mlm", "nsp")
"""Modules of the pretraining heads."""

Shape = tuple[int, ...]


def _no_tensors(outputs: int) -> dict[str, Shape]:
    return {}


@dataclass(frozen=True)
class Head:
    """The modules of a model on top of the encoder (``bert``), and their names elsewhere.

    Attributes:
        name: in messages and records, as "question answering".
        modules: names of the modules; a checkpoint without a tensor of any of them lacks this head.
        tensors: names of tensors that together show this head in a checkpoint; the first one has
            one row per output.
        build: the model of one rank, from its configuration and number of outputs.
        reads_pooler: the model has a pooler, which a pretrained checkpoint may lack.
        labelled: the outputs are labels, or one score; else their number is fixed.
        per_sequence: outputs are [B, ...], not [B, S, ...].
        optional_tensors: shapes, by number of outputs, of tensors that the head has all or none of.
        transformers_suffix: end of transformers' class names, as ``ForQuestionAnswering`` of
            ``BertForQuestionAnswering`` and ``AutoModelForQuestionAnswering``; None: it has no class.
        transformers_layers: our linear layers -> transformers', as ``qa.classifier`` -> ``qa_outputs``.
        transformers_outputs: our outputs in order, by name -> fields of transformers' output.
    """

    name: str
    modules: tuple[str, ...]
    tensors: tuple[str, ...]
    build: Callable[[ModelConfig, int], nn.Module]
    reads_pooler: bool = False
    labelled: bool = False
    per_sequence: bool = False
    optional_tensors: Callable[[int], dict[str, Shape]] = _no_tensors
    transformers_suffix: str | None = None
    transformers_layers: tuple[tuple[str, str], ...] = ()
    transformers_outputs: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name

    @property
    def new_modules(self) -> tuple[str, ...]:
        """Modules that fine-tuning draws where the checkpoint lacks them."""
        return (*self.modules, "bert.pooler") if self.reads_pooler else self.modules

    def is_in(self, tensors: Mapping[str, Any]) -> bool:
        """Whether a checkpoint's tensors show this head, complete."""
        return all(name in tensors for name in self.tensors)

    def outputs_in(self, tensors: Mapping[str, Tensor]) -> int:
        """Number of labels or scores; 0 for a head whose outputs are not labelled."""
        weight = tensors.get(self.tensors[0]) if self.labelled else None
        return 0 if weight is None else len(weight)

    def named_outputs(self, outputs: Any) -> dict[str, Tensor]:
        """What the model gives, a tensor or a tuple of them, by name."""
        several = outputs if isinstance(outputs, tuple) else (outputs,)
        named = [name for name, _ in self.transformers_outputs]
        names = named or [f"{self.name} {number}" for number in range(len(several))]
        return dict(zip(names, several, strict=True))


_HEADS: Registry[Head] = Registry(
    "head",
    {
        "question answering": "megabert.model.task_heads:QUESTION_ANSWERING",
        "sequence classification": "megabert.model.task_heads:SEQUENCE_CLASSIFICATION",
        "token classification": "megabert.model.task_heads:TOKEN_CLASSIFICATION",
    },
    "megabert.heads",
)


def register_head(head: Head) -> Head:
    """Make a task head known to conversion and to the loading of weights; returns it.

    Raises:
        UserError: another head has this name.
    """
    _HEADS.register(head.name, head)
    return head


def task_heads() -> tuple[Head, ...]:
    """Every registered head, the built-in ones first."""
    return tuple(_HEADS.get(name) for name in _HEADS.names())


def head_modules() -> tuple[str, ...]:
    """Modules next to the encoder that a checkpoint may hold."""
    modules = (module for head in task_heads() for module in head.modules)
    return (*PRETRAINING_MODULES, *dict.fromkeys(modules))
