"""Folders of the datasets library: which of their files hold the rows to read.

| folder | made by | its rows |
|---|---|---|
| ``state.json``, ``dataset_info.json`` | ``Dataset.save_to_disk`` | the files that ``state.json`` lists, in its order |
| ``dataset_dict.json`` | ``DatasetDict.save_to_disk`` | those of the folder of one split |
| ``dataset_info.json``, ``NAME-SPLIT.arrow`` | the library's cache | the files of one split, in the order of their names |
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.json_text import read_json_object
from megabert.data.text.reading import AUTO

_SUFFIX = ".arrow"
_STATE, _DICT, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_DEFAULT_SPLIT = "train"
_DERIVED = ("cache-", "tmp")  # what map() and filter() keep in a folder
_NUMBERED = re.compile(r"-\d{5}-of-\d{5}$")
_SHOWN = 12  # splits that are named


@dataclass(frozen=True)
class DatasetFolder:
    """A folder of the datasets library.

    Attributes:
        files: those with the rows.
        split: the split that they are; "" if the folder does not name one.
        splits: all splits of the folder.
    """

    path: Path
    files: tuple[Path, ...]
    split: str = ""
    splits: tuple[str, ...] = ()

    @property
    def notice(self) -> str:
        """A line that says what is read."""
        count = f"{len(self.files)} Arrow file{'s' * (len(self.files) != 1)}"
        if len(self.splits) < 2:
            return f"{self.path}: a folder of the datasets library, {count}"
        others = _listed([name for name in self.splits if name != self.split])
        return (
            f"{self.path}: a folder of the datasets library, split {self.split}, {count}; not read: "
            f"{others} (--split names another)"
        )


def dataset_folders(files: Iterable[Path], split: str = AUTO) -> Iterator[DatasetFolder]:
    """The outermost folders of the datasets library that the files, in their order, are in.

    Args:
        files: all files below a folder.
        split: the split to read; "auto" is "train", or else the only one.

    Raises:
        UserError: a folder is not complete, or has no such split.
    """
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(file.name)
    homes: list[Path] = []
    for folder, inside in sorted(names.items(), key=lambda item: len(item[0].parts)):
        if _is_dataset(inside) and not any(home in folder.parents for home in homes):
            homes.append(folder)
    for home in sorted(homes):
        yield _folder(home, names[home], split)


def _is_dataset(names: set[str]) -> bool:
    if _DICT in names:
        return True
    arrow = any(name.endswith(_SUFFIX) for name in names)
    return (_INFO in names and (_STATE in names or arrow)) or (_STATE in names and arrow)


def _folder(home: Path, names: set[str], split: str) -> DatasetFolder:
    if _DICT in names:
        return _dict_folder(home, split)
    unfinished = sorted(name for name in names if name.endswith(".incomplete"))
    if home.name.endswith(".incomplete") or unfinished:
        raise UserError(
            f"{home}: an unfinished download of the datasets library; let load_dataset finish it"
        )
    if _STATE in names:
        return _saved_folder(home, split)
    return _cached_folder(home, names, split)


def _saved_folder(home: Path, split: str) -> DatasetFolder:
    state = read_json_object(home / _STATE)
    listed = state.get("_data_files")
    if listed == []:
        raise UserError(f"{home}: empty: the dataset holds no row")
    if not isinstance(listed, list):
        raise UserError(
            f"{home}: not a dataset that save_to_disk has finished: {_STATE} lists no data files (an "
            "IterableDataset must be written to Parquet or JSON Lines first)"
        )
    if state.get("_indices_data_files"):
        raise UserError(
            f"{home}: rows are selected by a file of indices, which is not read; call "
            "flatten_indices() and save_to_disk again"
        )
    own = state.get("_split")
    own = own if isinstance(own, str) else ""
    if split not in (AUTO, own or split):
        raise UserError(f"{home}: holds the split {own!r}, not --split {split}")
    files = []
    for entry in listed:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
            raise UserError(
                f"{home / _STATE}: damaged: {str(name)[:60]!r} is not the name of a file"
            )
        if not (home / name).is_file():
            raise UserError(f"{home}: not complete: {name}, which {_STATE} lists, is missing")
        files.append(home / name)
    return DatasetFolder(home, tuple(files), own, (own,) if own else ())


def _dict_folder(home: Path, split: str) -> DatasetFolder:
    splits = read_json_object(home / _DICT).get("splits")
    if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
        raise UserError(f"{home / _DICT}: damaged: it lists no splits")
    chosen = _choice(home, splits, split)
    inner = home / chosen
    if chosen != Path(chosen).name or not (inner / _STATE).is_file():
        raise UserError(
            f"{home}: not complete: the folder of the split {chosen[:60]!r} or its {_STATE} is missing"
        )
    return DatasetFolder(home, _saved_folder(inner, AUTO).files, chosen, tuple(splits))


def _cached_folder(home: Path, names: set[str], split: str) -> DatasetFolder:
    of_info = read_json_object(home / _INFO).get("splits")
    known = list(of_info) if isinstance(of_info, dict) else []
    found: dict[str, list[Path]] = {}
    for name in sorted(names):
        if not name.endswith(_SUFFIX) or name.startswith(_DERIVED):
            continue
        stem = _NUMBERED.sub("", name.removesuffix(_SUFFIX))
        own = next((s for s in known if stem.endswith(f"-{s}")), stem.rsplit("-", 1)[-1])
        found.setdefault(own, []).append(home / name)
    chosen = _choice(home, list(found), split)
    return DatasetFolder(home, tuple(found[chosen]), chosen, tuple(found))


def _choice(home: Path, splits: Sequence[str], split: str) -> str:
    if split == AUTO and len(splits) == 1:
        return splits[0]
    wanted = _DEFAULT_SPLIT if split == AUTO else split
    if wanted not in splits:
        raise UserError(
            f"{home}: no split {wanted!r}; choose one with --split: {_listed(splits) or 'it has none'}"
        )
    return wanted


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(name[:60] for name in names[:_SHOWN]) + more
