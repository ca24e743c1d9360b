"""The layers of the package: what each may import, and which libraries belong to which package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.structure.sources import sources

# package -> packages that it may import
ALLOWED: dict[str, set[str]] = {
    "common": set(),
    "config": {"common"},
    "kernels": {"common"},
    "parallel": {"kernels", "config", "common"},
    "optim": {"config", "common"},
    "data": {"config", "common"},
    "model": {"kernels", "parallel", "config", "common"},
    "tasks": {"model", "parallel", "data", "config", "common"},
    "engine": {"kernels", "model", "parallel", "optim", "data", "config", "common"},
    "checkpoint": {"engine", "model", "parallel", "optim", "data", "config", "common"},
    "convert": {"checkpoint", "engine", "model", "parallel", "data", "config", "common"},
    "planner": {"engine", "model", "parallel", "optim", "data", "config", "common"},
    "pretrain": {
        "planner", "convert", "checkpoint", "engine", "model", "parallel", "optim", "data", "config", "common",
    },
    "finetune": {
        "tasks", "convert", "checkpoint", "engine", "model", "parallel", "data", "config", "common",
    },
    "predict": {"finetune", "tasks", "convert", "model", "parallel", "data", "config", "common"},
    "probe": {
        "predict", "finetune", "tasks", "convert", "checkpoint", "engine", "model", "parallel", "data",
        "config", "common",
    },
    "embed": {
        "predict", "finetune", "tasks", "convert", "model", "parallel", "data", "config", "common",
    },
}  # fmt: skip
TORCH = {"torch", "deepspeed", "transformers", "safetensors"}


def _imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """(top-level package, file) of every source file but ``megabert/__init__.py``."""
    package = root / "megabert"
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        if inside != Path("__init__.py"):
            yield inside.parts[0], path


def test_every_file_is_in_a_package(root: Path) -> None:
    assert [path.name for path in (root / "megabert").glob("*.py")] == ["__init__.py"]
    assert {package for package, _ in _files(root)} == set(ALLOWED)


def test_layers(root: Path) -> None:
    wrong = []
    for package, path in _files(root):
        used = {name.split(".")[1] for name in _imports(path) if name.startswith("megabert.")}
        for other in used - {package, "__version__"} - ALLOWED[package]:
            wrong.append(f"{path.relative_to(root)} imports megabert.{other}")
    assert not wrong, "\n".join(wrong)


def test_the_allowed_imports_have_no_circle() -> None:
    left = dict(ALLOWED)
    while left:
        leaves = {name for name, others in left.items() if not others & set(left)}
        assert leaves, f"packages that may import each other: {sorted(left)}"
        for name in leaves:
            del left[name]


def _imported_files(path: Path, files: set[str]) -> set[str]:
    """The modules among ``files`` that a file imports; of a package, the submodule if one is named."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                found.add(submodule if submodule in files else node.module)
    return found & files


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that reach each other (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = lowest[module] = len(number)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
            if other in stack:
                lowest[module] = min(lowest[module], lowest[other])
        if lowest[module] == number[module]:
            at = stack.index(module)
            if len(stack) - at > 1:
                circles.append(sorted(stack[at:]))
            del stack[at:]

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return circles


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert _circles(graph) == [["b", "c"]]
    assert _circles(graph | {"d": {"a"}}) == [["a", "b", "c", "d"]]
    assert _circles(graph | {"c": {"d"}}) == []


def test_files_have_no_circle(root: Path) -> None:
    """Of imports within functions and of those for type checking too."""
    files = {}
    for path in sorted((root / "megabert").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    graph = {module: _imported_files(path, set(files)) - {module} for module, path in files.items()}
    assert not _circles(graph), "\n".join(" <-> ".join(circle) for circle in _circles(graph))


def test_only_engine_and_checkpoint_import_deepspeed(root: Path) -> None:
    wrong = [
        str(path.relative_to(root))
        for package, path in _files(root)
        if package not in ("engine", "checkpoint")
        and any(name.split(".")[0] == "deepspeed" for name in _imports(path))
    ]
    assert not wrong, wrong


@pytest.mark.parametrize(
    "tool",
    ["shard_wiki", "train_tokenizer", "inspect_shards", "import_shards", "make_sample_wiki"],
)
def test_data_tools_need_no_torch(tool: str, root: Path) -> None:
    """Follow the imports of a data tool through the package."""
    todo, seen = [root / "data_tools" / f"{tool}.py"], set()
    while todo:
        path = todo.pop()
        seen.add(path)
        for name in _imports(path):
            assert name.split(".")[0] not in TORCH, f"{path} imports {name}"
            if name.startswith("megabert"):
                target = root / Path(*name.split("."))
                for file in (target.with_suffix(".py"), target / "__init__.py"):
                    if file.is_file() and file not in seen:
                        todo.append(file)


def _defined(tree: ast.Module) -> set[str]:
    """Names that a module may give to others: definitions, assignments and imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


def test_imported_names_exist(root: Path) -> None:
    """Neither mypy nor ruff finds a wrong import of the package's own names in tests and benchmarks."""
    defined = {source.module: _defined(source.tree) for source in sources()}
    wrong = []
    for folder in ("megabert", "launch", "data_tools", "benchmarks", "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                    "megabert"
                ):
                    continue
                module = str(node.module)
                for alias in node.names:
                    if f"{module}.{alias.name}" in defined:
                        continue
                    if alias.name not in defined.get(module, set()):
                        wrong.append(f"{path.relative_to(root)}: {module}.{alias.name}")
    assert not wrong, "\n".join(wrong)
