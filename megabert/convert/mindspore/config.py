"""The encoder's shape next to a MindSpore checkpoint: JSON like Google's, or its scripts' YAML.

MindSpore's "gelu" is the tanh approximation (``nn.GELU``, whose ``approximate`` is true by default;
in older versions the operator ``Gelu``), and its ``nn.LayerNorm`` adds 1e-7 to the variance
(``epsilon``), while BERT's authors add 1e-12; its model sets neither. JSON with "gelu_python"
selects the exact function, and ``layer_norm_eps`` is used if present.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.yaml_text import MAX_YAML_BYTES, read_yaml_documents
from megabert.config.model import ModelConfig
from megabert.convert.huggingface.config import CONFIG_FILES, config_from, read_object

YAML_SUFFIXES = (".yaml", ".yml")
UNSAID: dict[str, Any] = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-7}
"""MindSpore's values of fields that its configuration lacks."""
_RELATIVE = ("use_relative_positions", "use_relative_position")


def config_beside(folder: Path) -> Path | None:
    """The configuration in a folder: JSON, else the only YAML file that describes a network.

    Raises:
        UserError: several YAML files describe a network.
    """
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            return folder / name
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in YAML_SUFFIXES and path.is_file() and _describes_network(path)
    ]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(
            f"{folder} has several configurations ({names}); name one with --model-config"
        )
    return found[0] if found else None


def _describes_network(path: Path) -> bool:
    with path.open("rb") as file:
        return b"net_cfg" in file.read(MAX_YAML_BYTES)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a JSON file, or of the network in a YAML file, under the JSON's names.

    Raises:
        UserError: the file cannot be read, or does not describe a network.
    """
    if path.suffix not in YAML_SUFFIXES:
        return read_object(path)
    try:
        documents = read_yaml_documents(path)
    except UserError as error:
        raise UserError(f"the settings cannot be read as YAML: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    settings = documents[0] if documents else None
    if not isinstance(settings, dict):
        raise UserError(f"{path} does not hold named settings")
    names = ("bert_net_cfg", f"{settings.get('bert_network')}_net_cfg")
    network = next((settings[name] for name in names if name in settings), None)
    if not isinstance(network, dict):
        raise UserError(f"{path} has no section {' and no section '.join(names)}")
    values = dict(network)
    if settings.get("description") == "run_ner":
        values["architectures"] = ["BertForTokenClassification"]
    return values


def encoder_config(values: Mapping[str, Any], path: Path) -> ModelConfig:
    """The encoder of these settings, as MindSpore computes it, except for relative positions.

    Raises:
        UserError: as :func:`config_from`; MindSpore's "fast_gelu" is an unsupported activation.
    """
    said = {key: value for key, value in values.items() if key not in _RELATIVE}
    if said.get("hidden_act", "gelu") == "gelu":
        said["hidden_act"] = UNSAID["hidden_act"]
    said.setdefault("layer_norm_eps", UNSAID["layer_norm_eps"])
    return config_from(said, path)


def wants_relative(values: Mapping[str, Any]) -> bool:
    """Whether the settings select relative positions."""
    return any(values.get(key) for key in _RELATIVE)


def wants_tokens(values: Mapping[str, Any]) -> bool:
    """Whether the settings are those of token classification."""
    return any("TokenClassification" in str(name) for name in values.get("architectures") or ())
