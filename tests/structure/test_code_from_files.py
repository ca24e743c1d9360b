"""Readers that run what a file says are not used; ``tests/faults/test_code_never_runs.py`` plants code."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.structure.sources import Source, sources

REFUSED = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "joblib", "marshal", "shelve"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.jit.load", "torch.hub.load", "torch.package", "eval", "exec", "runpy"),
}
EXCEPTIONS = {
    ("megabert.data.prepare.worker", "pickle.loads"): "pages from its own parent's pipe",
    ("megabert.tasks.tagging.label_map", "pickle.Unpickler"): "a class that allows no names",
}
LOADERS = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
"""Calls, and the argument they must have or (numpy, where it is the default) must not contradict."""


def _calls(source: Source) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func).replace("np.", "numpy.")
        if isinstance(node, ast.ClassDef):
            yield from ((node, ast.unparse(base)) for base in node.bases)
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "yaml"):
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def _wrong(source: Source) -> Iterator[str]:
    for node, name in _calls(source):
        if name in REFUSED and (source.module, name) not in EXCEPTIONS:
            yield f"{source.path}: {name}"
        if name in LOADERS and isinstance(node, ast.Call):
            argument, wanted = LOADERS[name]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if given.get(argument, "False" if name == "numpy.load" else None) != str(wanted):
                yield f"{source.path}: {name} without {argument}={wanted}"


def test_no_reader_runs_what_a_file_says() -> None:
    wrong = [line for source in sources() for line in _wrong(source)]
    assert not wrong, "\n".join(wrong)
    seen = {(source.module, name) for source in sources() for _, name in _calls(source)}
    assert seen >= EXCEPTIONS.keys(), "an exception is no longer needed"
    assert {name for _, name in seen} >= LOADERS.keys()
