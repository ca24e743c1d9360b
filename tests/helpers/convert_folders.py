"""Small Hugging Face folders for the tests of conversion."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

WORDS = [
    "the",
    "of",
    "and",
    "river",
    "stone",
    "bridge",
    "was",
    "built",
    "there",
    "in",
    "hills",
    "flows",
    "east",
    "bird",
    "lays",
    "two",
    "eggs",
    "a",
    ".",
    ",",
]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


def make(folder: Path, class_name: str = "BertForPreTraining", **config: Any) -> Path:
    """A transformers folder with random weights of a size that every output depends on."""
    import transformers

    family = "MegatronBert" if class_name.startswith("Megatron") else "Bert"
    made = getattr(transformers, f"{family}Config")(**{**SIZES, **config})
    torch.manual_seed(1)
    model = getattr(transformers, class_name)(made)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    model.save_pretrained(folder)
    words = VOCABULARY + [f"w{i}" for i in range(101 - len(VOCABULARY))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def copy_of(source: Path, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A copy to be damaged, and its tensors."""
    shutil.copytree(source, folder)
    return folder, load_file(folder / "model.safetensors")
