"""Docs name only what exists, say for whom they are, and keep measurements in one place."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from posixpath import normpath

import pytest

from tests.structure.sources import ROOT, sources

DOCS = ROOT / "docs"
INDEX = "docs/README.md"
ENTRY_POINTS = frozenset(
    f"megabert.{kind}"
    for kind in ("encoders", "formats", "heads", "optimizers", "tasks", "trackers")
)
"""Groups of entry points: dotted names that are not modules."""
OF_EXAMPLES = {"docs/extending.md": frozenset({"launch/finetune.py --scale"})}
"""Page -> flags that exist once its examples are applied."""
FOLDERS = "megabert|data_tools|launch|benchmarks|tests|ds_configs|docs"


def _pages() -> list[str]:
    """Paths of all Markdown pages, relative to the checkout."""
    found = [*DOCS.rglob("*.md"), *(ROOT / "benchmarks").rglob("README.md")]
    found += [ROOT / "README.md", ROOT / "ds_configs" / "README.md"]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


PAGES = _pages()


@cache
def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def _prose(page: str) -> str:
    """A page without its fenced blocks and code spans."""
    text = re.sub(r"^ *```.*?^ *```", "", _text(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "code", text)


def _commands(page: str) -> Iterator[list[str]]:
    """The words of each line of a page's code blocks, fenced or indented by four spaces."""
    text = _text(page)
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}.*\n)+", text, flags=re.MULTILINE)
    for block in blocks:
        for line in re.sub(r"\\\n", " ", block).splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # prose with an apostrophe
                continue
            if words:
                yield words


@cache
def _anchors(page: str) -> frozenset[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _text(page), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        count = sum(1 for other in found if re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other))
        found.add(f"{slug}-{count}" if count else slug)
    return frozenset(found)


def _links(page: str) -> Iterator[tuple[str, str]]:
    """(path relative to the checkout, anchor) of each relative link and image of a page."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            place = normpath(f"{Path(page).parent.as_posix()}/{path}") if path else page
            yield place, anchor


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    wrong = []
    for path, anchor in _links(page):
        if not (ROOT / path).exists():
            wrong.append(f"{path} does not exist")
        elif anchor and anchor not in _anchors(path):
            wrong.append(f"{path} has no heading #{anchor}")
    assert not wrong


def test_every_page_is_reachable_from_the_index() -> None:
    seen, todo = set[str](), [INDEX]
    while todo:
        page = todo.pop()
        if page not in seen and page.endswith(".md") and (ROOT / page).is_file():
            seen.add(page)
            todo += [path for path, _ in _links(page)]
    assert {page for page in PAGES if page.startswith("docs/")} <= seen


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_page_names_its_reader(page: str) -> None:
    lines = [line for line in _text(page).splitlines() if line.strip()]
    first = next(line for line in lines if not line.startswith("#"))
    assert first.startswith("For ")


def _files_named(text: str) -> Iterator[str]:
    """Paths into the checkout that a text names; ``*`` stands for anything."""
    for name in re.findall(rf"(?<![\w./~-])((?:{FOLDERS})/[\w./*-]*)", text):
        if ".../" not in name:
            yield name.rstrip("./")


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page: str) -> None:
    names = set(_files_named(_text(page)))
    assert not sorted(name for name in names if not any(ROOT.glob(name)))


def test_pages_named_in_code_exist() -> None:
    files = [source.path for source in sources()]
    for folder in ("launch", "data_tools", "benchmarks"):
        files += [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")]
    wrong = []
    for file in files:
        for name in re.findall(r"\bdocs/[\w/-]+\.md", (ROOT / file).read_text(encoding="utf-8")):
            if not (ROOT / name).is_file():
                wrong.append(f"{file}: {name}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES)
def test_modules_exist(page: str) -> None:
    """A dotted name is a module, or a module and a name that it defines."""
    modules = {source.module: source.path for source in sources()}
    wrong = []
    for name in set(re.findall(r"(?<![\w./-])megabert(?:\.\w+)+", _text(page))) - ENTRY_POINTS:
        module = name
        while module not in modules:
            module = module.rpartition(".")[0]
        rest = name[len(module) + 1 :].partition(".")[0]
        defined = rf"^ *(?:class |def )?{rest}\b"
        source = (ROOT / modules[module]).read_text(encoding="utf-8")
        if rest and name != "megabert.json" and not re.search(defined, source, re.MULTILINE):
            wrong.append(name)
    assert not wrong


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/guide/")])
def test_guide_needs_nothing_outside_the_checkout(page: str) -> None:
    assert "../shared" not in _text(page)


MEASURED = re.compile(
    r"\d (?:ms|µs|us)\b"
    r"|\d (?:samples|tokens|questions)/s\b"
    r"|\d (?:GFLOP/s|MB/s)\b"
    r"|\b(?:EM|F1) \d"
    r"|\b(?:took|takes|in) \d[\d.,]* s\b"
)
"""Figures with a unit of time, speed or score: what a measurement gives and a rule does not."""


@pytest.mark.parametrize("page", [page for page in PAGES if re.match(r"docs/(?!results/)", page)])
def test_measurements_are_under_results(page: str) -> None:
    assert not MEASURED.findall(_text(page))


@cache
def _flags(command: str) -> frozenset[str]:
    """Flags that a command's help lists."""
    done = subprocess.run(
        [sys.executable, command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return frozenset(re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", done.stdout))


@pytest.mark.parametrize("page", PAGES)
def test_flags_exist(page: str) -> None:
    """Flags of launch/ and data_tools/ commands; those of launchers, and launch/run.py with its launcher,
    come before the command."""
    wrong = []
    for words in _commands(page):
        places = [
            i for i, word in enumerate(words) if re.match(r"(launch|data_tools)/\w+\.py$", word)
        ]
        if places and Path(words[0]).stem in ("python", "deepspeed", "torchrun", "srun", "mpirun"):
            command, *rest = words[places[-1] :]
            given = {word.partition("=")[0] for word in rest if word.startswith("--")}
            wrong += [f"{command} {flag}" for flag in sorted(given - _flags(command))]
    assert not set(wrong) - OF_EXAMPLES.get(page, frozenset())
