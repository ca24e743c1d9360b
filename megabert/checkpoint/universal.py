"""What DeepSpeed's own converter to universal checkpoints needs to know of a checkpoint.

megabert does not use that converter (:mod:`megabert.checkpoint.merged`); other programs may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from megabert.model.parameters import WholeParameter

UNIVERSAL_VERSION = 0.2
"""Layout of the patterns below (no fused tensors, so none of the later fields)."""


def universal_checkpoint_info(parameters: Mapping[str, WholeParameter]) -> dict[str, Any]:
    """How DeepSpeed's converter must join each parameter of a model over tensor parallel ranks.

    Goes into the ``client_state`` of every save under the key ``universal_checkpoint_info``. Each
    pattern is anchored and matches at least one of the given names: DeepSpeed joins on dimension 0
    any tensor that no pattern matches, and refuses patterns that match nothing.

    The padding of the vocabulary is the same for every tensor parallel degree, so no vocabulary
    pattern is needed: padding rows stay with the tensor.
    """
    replicated: set[str] = set()
    row: set[str] = set()
    for name, parameter in parameters.items():
        pattern = "^" + re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) + "$"
        if parameter.split_dim is None:
            replicated.add(pattern)
        elif parameter.split_dim == 1:
            row.add(pattern)
    return {
        "universal_checkpoint_version": UNIVERSAL_VERSION,
        "tp_replicated_parameter_patterns": sorted(replicated),
        "parameter_with_row_parallelism_patterns": sorted(row),
    }
