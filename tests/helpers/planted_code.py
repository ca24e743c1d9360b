"""Files that would write another file if they were unpickled as they ask for, and runs that hold them."""

from __future__ import annotations

import functools
import io
import json
import pickle
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.utils.tensor_fragment import fragment_address

from megabert.checkpoint.record import read_checkpoint_record, write_checkpoint_record
from megabert.common.files import sha256_of_file


class Touch:
    """An object whose unpickling makes the file ``witness``."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.witness)!r}, 'w').close()",))


def _archive(content: Any, *, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def in_an_archive(content: dict[str, Any], witness: Path) -> bytes:
    return _archive({**content, "x": Touch(witness)})


def in_the_old_form(content: dict[str, Any], witness: Path) -> bytes:
    """As torch wrote before version 1.6."""
    return _archive({**content, "x": Touch(witness)}, zipped=False)


def bare_pickle(content: dict[str, Any], witness: Path) -> bytes:
    return pickle.dumps({"x": Touch(witness)})


def tar_archive(content: dict[str, Any], witness: Path) -> bytes:
    """As torch wrote before version 0.1.10."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Touch(witness))
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def torch_script(content: dict[str, Any], witness: Path) -> bytes:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Module()), buffer)
    return buffer.getvalue()


def factory_of_a_dictionary(content: dict[str, Any], witness: Path) -> bytes:
    """Would run when a missing key is read."""
    return _archive({**content, "x": defaultdict(functools.partial(Path.touch, witness))})


def in_an_array(content: dict[str, Any], witness: Path) -> bytes:
    return _archive({**content, "x": np.array([Touch(witness)], dtype=object)})


def in_a_scalar(content: dict[str, Any], witness: Path) -> bytes:
    """A pickle inside the arguments of numpy's scalar."""

    class Scalar:
        def __reduce__(self) -> Any:
            multiarray = np._core.multiarray  # type: ignore[attr-defined]
            return (multiarray.scalar, (np.dtype("O"), pickle.dumps(Touch(witness))))

    return _archive({**content, "x": Scalar()})


def in_an_allowed_class(content: dict[str, Any], witness: Path) -> bytes:
    address = fragment_address(1, 0)
    address.start = Touch(witness)
    return _archive({**content, "x": address})


def method_of_an_allowed_class(content: dict[str, Any], witness: Path) -> bytes:
    """No code of the file: a function that torch allows, in the place of the scaler's method."""
    scaler = LossScaler()
    scaler.update_scale = torch._utils._rebuild_tensor
    return _archive({**content, "x": scaler})


KINDS: dict[Callable[[dict[str, Any], Path], bytes], str] = {
    in_an_archive: "refers to exec",
    in_the_old_form: "not an archive of torch.save",
    bare_pickle: "not an archive of torch.save",
    tar_archive: "not an archive of torch.save",
    torch_script: "cannot be read",
    factory_of_a_dictionary: "refers to collections.defaultdict",
    in_an_array: "refers to numpy",
    in_a_scalar: "refers to numpy",
    in_an_allowed_class: "refers to exec",
    method_of_an_allowed_class: "LossScaler holds more than its numbers",
}
"""Kind of file -> words of the message about it."""


def plant(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a checkpoint, and make all sums right, as its author could."""
    (folder / name).write_bytes(content)
    record = dict(read_checkpoint_record(folder).record)
    del record["record_sha256"]
    entry = {"bytes": len(content), "sha256": sha256_of_file(folder / name)}
    record["files"] = {**record["files"], name: entry}
    write_checkpoint_record(folder, record)
    json.loads((folder / "megabert.json").read_text(encoding="utf-8"))


def plant_in_run(run: Path, name: str, witness: Path) -> None:
    """Add :class:`Touch` to a file of the run's only checkpoint."""
    (folder,) = (run / "checkpoints").glob("step-*")
    content = torch.load(folder / name, map_location="cpu", weights_only=False)
    plant(folder, name, in_an_archive(content, witness))
