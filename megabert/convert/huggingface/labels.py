"""Task heads in a config.json: which head a folder holds, and what its outputs are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from megabert.common.errors import UserError
from megabert.config.model import ModelConfig
from megabert.convert.whole_model import WholeModel
from megabert.model.head_registry import Head

MULTI_LABEL = "multi_label"
"""In a task's record: a text may have several labels."""
_SEVERAL = "multi_label_classification"


def chosen_head(
    heads: Sequence[Head], values: Mapping[str, Any], pooler: bool
) -> tuple[Head | None, str]:
    """Which of several heads with the same tensor names a folder holds.

    Args:
        heads: the candidates.
        values: the folder's configuration.
        pooler: whether the folder has the weights of a pooler.

    Returns:
        the head (None: that of another task), and what decided it.
    """
    architectures = values.get("architectures")
    stated = [str(name) for name in architectures] if isinstance(architectures, list) else []
    for name in stated:
        for head in heads:
            if head.transformers_suffix and name.endswith(head.transformers_suffix):
                return head, f"its architectures ({name})"
    if any("For" in name for name in stated):
        return None, f"its architectures ({', '.join(stated)})"
    head = next((head for head in heads if head.reads_pooler == pooler), heads[0])
    return head, "its pooler" if pooler else "the lack of a pooler"


def _default(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{i}" for i in range(count))


def read_labels(values: Mapping[str, Any], origin: str) -> tuple[str, ...]:
    """Names of the outputs, in order; () if there are only transformers' placeholders.

    Raises:
        UserError: ``id2label`` does not name the outputs 0, 1, 2, ...
    """
    given = values.get("id2label")
    if given is None:
        return ()
    try:
        by_id = {int(key): str(name) for key, name in given.items()}
    except (AttributeError, ValueError) as error:
        raise UserError(f"{origin}: id2label of its configuration is not a table of ids") from error
    if sorted(by_id) != list(range(len(by_id))):
        raise UserError(
            f"{origin}: id2label of its configuration does not name the outputs 0 to "
            f"{len(by_id) - 1}, but {sorted(by_id)}"
        )
    names = tuple(by_id[i] for i in range(len(by_id)))
    return () if names == _default(len(names)) else names


def left_out(values: Mapping[str, Any], config: ModelConfig) -> list[tuple[str, str]]:
    """(name, reason) of settings of the head that megabert does not have."""
    found = []
    dropout = values.get("classifier_dropout")
    if dropout is not None and dropout != config.hidden_dropout_prob:
        found.append(
            (
                f"classifier_dropout {dropout}",
                f"megabert's heads use hidden_dropout_prob, {config.hidden_dropout_prob}",
            )
        )
    return found


def read_record(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a task must know of the outputs besides their names."""
    return {MULTI_LABEL: True} if values.get("problem_type") == _SEVERAL else {}


def label_values(model: WholeModel) -> dict[str, Any]:
    """``id2label``, ``label2id`` and ``problem_type`` of a model with a classification head.

    A head on sequences with one output is a regression (STS-B), as in transformers.
    """
    names = model.labels or _default(model.outputs)
    values: dict[str, Any] = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if model.head.per_sequence:
        kind = "regression" if model.outputs == 1 else "single_label_classification"
        values["problem_type"] = _SEVERAL if model.task_record.get(MULTI_LABEL) else kind
    return values
