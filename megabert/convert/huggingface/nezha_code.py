"""NEZHA's classes for transformers, which no longer has them: files written next to the weights.

``remote_code/*.py.txt`` are the files; a folder gets them as ``.py``, and ``auto_map`` in its
config.json lets ``AutoModel.from_pretrained(folder, trust_remote_code=True)`` find them. The
comparison of outputs runs the package's own copy: code from a folder is never run.
"""

from __future__ import annotations

import functools
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).parent / "remote_code"
_ENDING = ".txt"  # these files are not modules of this package
_CONFIGURATION, _MODELING = "configuration_nezha", "modeling_nezha"
_PACKAGE = "megabert_nezha_code"
_SUFFIXES = (
    "ForPreTraining",
    "ForMaskedLM",
    "ForNextSentencePrediction",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
)

AUTO_MAP = {
    "AutoConfig": f"{_CONFIGURATION}.NezhaConfig",
    "AutoModel": f"{_MODELING}.NezhaModel",
    **{f"AutoModel{suffix}": f"{_MODELING}.Nezha{suffix}" for suffix in _SUFFIXES},
}
"""``auto_map`` of config.json: transformers' automatic classes -> ours."""


def write_code(folder: Path) -> None:
    """Write the files into a folder."""
    for name in (_CONFIGURATION, _MODELING):
        content = (_FOLDER / f"{name}.py{_ENDING}").read_bytes()
        (folder / f"{name}.py").write_bytes(content)


@functools.cache
def nezha_classes() -> ModuleType:
    """The package's copy of the classes, as a module."""
    parent = ModuleType(_PACKAGE)
    parent.__path__ = []
    sys.modules[_PACKAGE] = parent
    for name in (_CONFIGURATION, _MODELING):
        full = f"{_PACKAGE}.{name}"
        loader = SourceFileLoader(full, str(_FOLDER / f"{name}.py{_ENDING}"))
        spec = spec_from_loader(full, loader)
        assert spec is not None
        module = module_from_spec(spec)
        sys.modules[full] = module
        loader.exec_module(module)
    return sys.modules[f"{_PACKAGE}.{_MODELING}"]
