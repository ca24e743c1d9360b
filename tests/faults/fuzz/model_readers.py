"""The readers of models and checkpoints, which import torch."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import megabert.optim.lamb.optimizer  # noqa: F401  (what the optimizers' registry imports later)
from megabert.checkpoint.layout import Layout
from megabert.checkpoint.record import damaged_file, read_checkpoint_record
from megabert.checkpoint.resume import recorded_parameters
from megabert.config import flags
from megabert.config.deepspeed_file import deepspeed_layer, read_deepspeed_config
from megabert.config.model import ModelConfig
from megabert.config.training import PretrainSettings
from megabert.convert.format import ModelSource
from megabert.convert.formats import find_format
from megabert.convert.google.tensor_bundle.table import read_sorted_table, table_bytes
from megabert.convert.whole_model import WholeModel
from megabert.model.parameters import pretraining_parameters
from megabert.model.weights import load_weights, write_weights
from megabert.tasks.tagging.cluener import read_cluener
from megabert.tasks.tagging.conll import read_conll
from tests.faults.fuzz import seals
from tests.faults.fuzz.mutations import BYTES, JSON, JSON_LINES, PICKLES, TEXT
from tests.faults.fuzz.reader import FuzzedReader
from tests.helpers.mindspore_writer import write as write_mindspore
from tests.helpers.sums import without_sums

_FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
_CONFIG = ModelConfig(
    name="small",
    vocab_size=40,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=16,
    vocab_multiple=8,
)


@cache
def _tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    parameters = pretraining_parameters(_CONFIG)
    return {name: torch.randn(p.shape, generator=draw) for name, p in parameters.items()}


def _model() -> WholeModel:
    return WholeModel(_CONFIG, dict(_tensors()), None, 16, "a test")


# ---------------------------------------------------------------- own files

_DEEPSPEED = {
    "train_batch_size": 64,
    "gradient_clipping": 1.0,
    "zero_optimization": {
        "stage": 2,
        "overlap_comm": False,
        "reduce_bucket_size": 50000000,
        "offload_optimizer": {"device": "cpu"},
    },
    "bf16": {"enabled": True},
    "fp16": {"enabled": False, "loss_scale": 0},
    "data_types": {"grad_accum_dtype": "fp32"},
    "optimizer": {"type": "Lamb", "params": {"lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-6}},
    "comms_logger": {"enabled": False},
}


def _read_deepspeed(path: Path) -> None:
    flags.build(PretrainSettings, deepspeed_layer(read_deepspeed_config(path), path))


def _record(folder: Path) -> Path:
    source = _FIXTURES / "run_zero1_dp2" / "checkpoints"
    shutil.copytree(next(source.glob("step-*")), folder, dirs_exist_ok=True)
    return folder / "megabert.json"


def _read_record(path: Path) -> None:
    found = read_checkpoint_record(path.parent)
    config = ModelConfig.from_dict(found.record["model"])
    recorded_parameters(config, found.field("heads"))
    Layout.from_record(found.record).describe()
    damaged_file(found)


def _weights(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_weights(folder, _CONFIG, _tensors(), None, trained_positions=16, source="a test")
        without_sums(folder)  # so that a changed file is read to its end
        return folder / name

    return make


# ---------------------------------------------------------------- formats of others


def _written(form: str, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write = find_format(form).write
        assert write is not None
        write(folder, _model(), None)
        found = next(iter(folder.glob(name)), None)
        assert found is not None, sorted(folder.iterdir())
        return found

    return make


def _read_folder(form: str) -> Callable[[Path], object]:
    return lambda path: find_format(form).read(ModelSource(path.parent))


def _read_file(form: str) -> Callable[[Path], object]:
    return lambda path: find_format(form).read(ModelSource(path))


def _read_beside(path: Path) -> object:
    return find_format("mindspore").read(ModelSource(path.parent / "a.ckpt"))


def _their_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    _written("huggingface", "model.safetensors")(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


def _bin(*, zipped: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "pytorch_model.bin"
        torch.save(_their_tensors(folder), path, _use_new_zipfile_serialization=zipped)
        return path

    return make


def _index(folder: Path) -> Path:
    from safetensors.torch import save_file

    tensors = _their_tensors(folder)
    save_file(tensors, folder / "model-1.safetensors")
    path = folder / "model.safetensors.index.json"
    where = dict.fromkeys(tensors, "model-1.safetensors")
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return path


def _nvidia(folder: Path) -> Path:
    path = folder / "ckpt_8.pt"
    moments = {0: {"step": 7, "exp_avg": torch.ones(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": torch.tensor(1.0), "params": [0]}]}
    torch.save({"model": _their_tensors(folder), "optimizer": optimizer, "epoch": 1}, path)
    return path


def _mindspore(name: str) -> Callable[[Path], Path]:
    """A checkpoint as MindSpore names the tensors of the encoder and its masked language model."""

    def make(folder: Path) -> Path:
        from megabert.convert.mindspore.names import mindspore_table
        from megabert.convert.name_table import to_theirs

        table = mindspore_table(token=False, relative=False)
        theirs, _ = to_theirs(table, _tensors(), _CONFIG.num_hidden_layers)
        write_mindspore(folder / "a.ckpt", theirs, checksum=True)
        sizes = {key: getattr(_CONFIG, key) for key in _SIZES}
        (folder / "bert_config.json").write_text(json.dumps(sizes))
        text = "".join(f"  {key}: {value}\n" for key, value in sizes.items())
        if name.endswith(".yaml"):
            (folder / "bert_config.json").unlink()
            (folder / name).write_text(f"bert_network: base\nbase_net_cfg:\n{text}")
        return folder / name

    return make


_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "max_position_embeddings", "type_vocab_size",
)  # fmt: skip


def _repacked(content: bytes) -> bytes:
    """An archive of torch.save whose stored records are changed where the file was, with right sums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            at = content.find(b"PK\x03\x04", entry.header_offset)
            length = (
                content[at + 26]
                + 256 * content[at + 27]
                + content[at + 28]
                + 256 * content[at + 29]
            )
            start = at + 30 + length
            new.writestr(entry.filename, content[start : start + entry.file_size])
    return out.getvalue()


def _unsorted(content: bytes) -> bytes:
    """The entries of an index as text of their bytes, in which mutations take place."""
    place = Path("resorted.tmp")
    place.write_bytes(content)
    try:
        return b"\0\xff\0".join(part for entry in read_sorted_table(place) for part in entry)
    finally:
        place.unlink()


def _sorted_again(content: bytes) -> bytes:
    parts = content.split(b"\0\xff\0")
    return table_bytes(sorted(zip(parts[::2], parts[1::2])))


_CLUENER = "".join(
    json.dumps(
        {"text": f"浙商银行企业{n}", "label": {"company": {"浙商银行": [[0, 3]]}}},
        ensure_ascii=False,
    )
    + "\n"
    for n in range(5)
)
_CONLL = (
    "\n\n".join("U.N. B-ORG\nofficial O\nheads O\nfor O\nBaghdad B-LOC" for _ in range(4)) + "\n"
)


def _text_file(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / name
        path.write_text(content, encoding="utf-8")
        return path

    return make


_HUGGINGFACE, _GOOGLE = _read_folder("huggingface"), _read_folder("google-tf")

MODELS: tuple[FuzzedReader, ...] = (
    FuzzedReader("deepspeed", _text_file("ds.json", json.dumps(_DEEPSPEED)), _read_deepspeed, JSON),
    FuzzedReader("checkpoint record", _record, _read_record, JSON, seal=seals.record),
    FuzzedReader("megabert.json", _weights("megabert.json"), lambda p: load_weights(p.parent), JSON),
    FuzzedReader("own safetensors", _weights("model.safetensors"), lambda p: load_weights(p.parent), BYTES),
    FuzzedReader("config.json", _written("huggingface", "config.json"), _HUGGINGFACE, JSON),
    FuzzedReader("safetensors", _written("huggingface", "model.safetensors"), _HUGGINGFACE, JSON),
    FuzzedReader("safetensors index", _index, _HUGGINGFACE, JSON),
    FuzzedReader("pytorch_model.bin", _bin(zipped=True), _HUGGINGFACE, PICKLES, seal=_repacked),
    FuzzedReader("old pytorch_model.bin", _bin(zipped=False), _HUGGINGFACE, PICKLES),
    FuzzedReader(
        "tensor bundle index", _written("google-tf", "*.index"), _GOOGLE, BYTES,
        unpack=_unsorted, pack=_sorted_again,
    ),
    FuzzedReader("tensor bundle data", _written("google-tf", "*.data-*"), _GOOGLE, BYTES),
    FuzzedReader("bert_config.json", _written("google-tf", "bert_config.json"), _GOOGLE, JSON),
    FuzzedReader("nvidia .pt", _nvidia, _read_file("nvidia"), PICKLES, seal=_repacked),
    FuzzedReader("mindspore .ckpt", _mindspore("a.ckpt"), _read_file("mindspore"), BYTES, seal=seals.mindspore),
    FuzzedReader("mindspore .yaml", _mindspore("a.yaml"), _read_beside, TEXT),
    FuzzedReader("task cluener.json", _text_file("a.json", _CLUENER), read_cluener, JSON_LINES),
    FuzzedReader("task conll.txt", _text_file("a.txt", _CONLL), read_conll, TEXT),
)  # fmt: skip
