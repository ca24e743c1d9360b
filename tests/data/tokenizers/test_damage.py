"""Damaged tokenizer files: read, or refused in one line, whatever is in them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabert.common.errors import UserError
from megabert.common.names import SPECIAL_TOKENS
from megabert.data.prepare.train_tokenizer import TrainingSettings, train_tokenizer
from megabert.data.tokenizers.load import load_tokenizer

LINES = ["the river rises in the hills and an old bridge is there, by the sea"] * 20
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    2**40,
    1.5,
    "",
    "a",
    [],
    [1],
    {},
    {"content": 3},
    {"a": "b"},
]


def load(path: Path) -> None:
    """Load and encode; any fault must be an error in one line that names the file or folder."""
    message = path.name
    try:
        load_tokenizer(path).encode_batch(["the [MASK] river"])
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert path.name in message or path.parent.name in message


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The files of a tokenizer of each kind, and of one with added tokens."""
    found = {}
    for kind, size in (("wordpiece", 60), ("unigram", 26), ("bpe", 40)):
        found[kind] = train_tokenizer(LINES, TrainingSettings(kind, size, coverage=1.0)).files()
    folder = tmp_path_factory.mktemp("added")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "the", "river"]))
    added = {"added_tokens_decoder": {"7": {"content": "old bridge", "normalized": False}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(added))
    found["added"] = load_tokenizer(folder).files() | {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a JSON value, except most entries of its vocabulary."""
    yield path
    if isinstance(value, (dict, list)):
        items: Any = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in islice(items, 12):
            yield from places(inner, (*path, key))


def changed(body: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Any:
    body = json.loads(json.dumps(body))
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return body


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_values_of_another_kind(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, dict[str, bytes]], data: Any
) -> None:
    """Each field of the JSON files replaced or removed."""
    files = dict(folders[data.draw(st.sampled_from(sorted(folders)))])
    name = data.draw(st.sampled_from([n for n in sorted(files) if n.endswith(".json")]))
    body = json.loads(files[name])
    path = data.draw(st.sampled_from([p for p in places(body) if p]))
    odd = data.draw(st.sampled_from([*ODD, ...]))

    def change(inner: Any, key: Any) -> None:
        if odd is ...:
            del inner[key]
        else:
            inner[key] = odd

    files[name] = json.dumps(changed(body, path, change)).encode()
    folder = tmp_path_factory.mktemp("odd")
    for file, content in files.items():
        (folder / file).write_bytes(content)
    load(folder)
    load(folder / name)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_flipped_bytes(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, dict[str, bytes]], data: Any
) -> None:
    files = folders[data.draw(st.sampled_from(sorted(folders)))]
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    draw = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(draw.randint(1, 4)):
        content[draw.randrange(len(content))] = draw.randrange(256)
    del content[draw.choice((len(content), draw.randrange(len(content)))) :]
    folder = tmp_path_factory.mktemp("flipped")
    (folder / name).write_bytes(content)
    load(folder / name)
    load(folder)
