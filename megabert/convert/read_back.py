"""Compares a model read back from the output with the source, bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor

from megabert.common.errors import UserError
from megabert.convert.whole_model import WholeModel
from megabert.model.modules import ACTIVATIONS


def same_tensors(reference: WholeModel, again: WholeModel) -> int:
    """Compare the model read back from the output with the source, bit for bit.

    Returns:
        the number of tensors.

    Raises:
        UserError: the configuration, a name, a shape or a value differs; the message names the
            first.
    """
    ours, read = reference.config.to_dict(), again.config.to_dict()
    for values in (ours, read):
        values["hidden_act"] = ACTIVATIONS[values["hidden_act"]]  # some have two names
    changed = [
        f"{name} {ours[name]!r} -> {read[name]!r}"
        for name in ours
        if name not in ("name", "vocab_multiple") and ours[name] != read[name]
    ]
    differing = sorted(reference.tensors.keys() ^ again.tensors.keys()) or [
        name
        for name, tensor in reference.tensors.items()
        if not _same_bits(tensor, again.tensors[name])
    ]
    if changed or differing:
        first = changed[0] if changed else f"the tensor {differing[0]}"
        raise UserError(
            f"{reference.origin}: the output, read back, differs from the input: {first}; nothing "
            "was written"
        )
    return len(reference.tensors)


def _same_bits(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))
