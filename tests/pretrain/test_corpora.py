"""The corpora of a run from flags and files: what is resolved, recorded and refused."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.data.samples.course import Course
from megabert.data.samples.index import SampleSettings
from megabert.data.samples.masking import MaskSettings
from megabert.data.samples.mixture import Stage, corpus_seed
from megabert.data.samples.source import SampleSource
from megabert.data.shards.corpus import Corpus
from megabert.pretrain.inputs import Inputs, open_inputs
from megabert.pretrain.settings import check_files, mixture_of
from tests.helpers.batch_rows import named_arrays
from tests.helpers.foreign_shards import samples_of, write_fixed
from tests.helpers.training_runs import TINY, make_shards, settings_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards a, b and c of one tokenizer, d of another, e of another file that does the same."""
    top = tmp_path_factory.mktemp("corpora")
    for number, name in enumerate("abc"):
        make_shards(top / name, seed=number)
    for name in "de":
        make_shards(top / name, sha256="cd" * 32)
    words = (top / "d" / "tokenizer" / "vocab.txt").read_text().split()
    words[5:7] = words[6], words[5]
    (top / "d" / "tokenizer" / "vocab.txt").write_text("\n".join(words) + "\n")
    return top


def opened(*argv: object) -> Inputs:
    return open_inputs(settings_of([*TINY, *map(str, argv)]))


def mixture_file(folder: Path, text: str, name: str = "mixture.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def stages(inputs: Inputs) -> list[tuple[tuple[int, ...], int | None]]:
    return [(stage.weights, stage.samples) for stage in inputs.plan.stages]


def test_one_folder_gives_the_samples_that_it_always_gave(folder: Path) -> None:
    """By any way to name it, and with others that are only evaluated."""
    settings, masks = SampleSettings(32, seed=42), MaskSettings(max_predictions=5)
    source = SampleSource(Corpus.open(folder / "a", "train"), settings, masks)
    numbers = np.arange(2**33, 2**33 + 300)
    wanted = named_arrays(source.samples(numbers))
    text = f"corpora: [{{path: {folder / 'a'}}}]\nevaluate: [{{path: {folder / 'b'}}}]"
    for argv in (
        ["--data", folder / "a"],
        ["--data", folder / "a", "--weights", "3", "--eval-data", folder / "b", folder / "c"],
        ["--data", mixture_file(folder, text, "one.yml")],
    ):
        inputs = opened(*argv)
        assert isinstance(inputs.train, SampleSource)
        found = named_arrays(inputs.train.samples(numbers))
        assert all((found[name] == values).all() for name, values in wanted.items())


def test_a_file_of_an_earlier_version_names_one_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"data:\n  data: {folder / 'a'}\n  tokenizer: null\n")
    made = settings_of([*TINY, "--config", str(tmp_path / "run.yaml")])
    assert made.data.data == (folder / "a",)


def test_weights_are_in_proportion_to_tokens_or_as_given(folder: Path) -> None:
    three = [folder / name for name in "abc"]
    tokens = [Corpus.open(path, "train").num_tokens for path in three]
    (by_tokens,) = opened("--data", *three).plan.stages
    for weight, count in zip(by_tokens.weights, tokens):
        assert Fraction(weight, sum(by_tokens.weights)) == Fraction(count, sum(tokens))
    (tempered,) = opened("--data", *three, "--temperature", 2).plan.stages
    roots = np.sqrt(tokens)
    assert np.allclose(np.array(tempered.weights) / sum(tempered.weights), roots / roots.sum())
    assert stages(opened("--data", *three, "--weights", "0.7,0.2,0.1")) == [((7, 2, 1), None)]


STAGED = """
corpora:
  - {name: first, path: a}
  - {name: second, path: b}
stages:
  - {weights: {first: 1}, updates: 3}
  - {weights: {first: 0.25, second: 0.75}, tokens: 1e3}
  - {temperature: 1e9}
evaluate:
  - {path: c}
"""


def test_stages_of_a_file(folder: Path) -> None:
    inputs = opened("--data", mixture_file(folder, STAGED))
    assert stages(inputs)[:2] == [((1, 0), 24), ((1, 3), 32)]  # 1000 / 32, rounded up
    assert stages(inputs)[2] == ((1, 1), None)
    assert [corpus.name for corpus in inputs.evaluated] == ["first", "second", "c"]
    assert inputs.corpora[2].train is None


@pytest.mark.parametrize(
    "argv",
    [
        ["--data", "mixture.yaml"],
        ["--data", "a", "b", "--eval-data", "c"],
        ["--data", "a", "--replay-share", "0.3", "--replay", "b", "c"],
        ["--data", "a", "b", "c", "--temperature", "1.7"],
    ],
)
def test_what_is_recorded_means_the_same(
    argv: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture_file(folder, STAGED)
    monkeypatch.chdir(folder)
    inputs = opened(*argv)
    settings = settings_of([*TINY, *argv])
    recorded = flags.to_values(settings, absolute=True)
    recorded["data"] = flags.to_values(_Data(inputs.data), absolute=True)["data"]
    import yaml

    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(recorded))
    monkeypatch.chdir(tmp_path)
    again = open_inputs(settings_of(["--config", str(config)]))
    assert again.plan.stages == inputs.plan.stages
    assert [c.path for c in again.corpora] == [folder / c.path for c in inputs.corpora]
    assert [c.name for c in again.corpora] == [c.name for c in inputs.corpora]
    assert again.data == open_inputs(settings_of(["--config", str(config)])).data


class _Data:
    """A tree of the one section."""

    def __new__(cls, data: Any) -> Any:
        import dataclasses

        return dataclasses.make_dataclass("Tree", [("data", type(data))])(data)


def test_a_flag_replaces_what_a_file_mixes(folder: Path, tmp_path: Path) -> None:
    text = f"data:\n  data: [{folder / 'a'}, {folder / 'b'}]\n  weights: [1, 2]\n  corpus_names: [x, y]\n"
    config = mixture_file(tmp_path, text, "run.yaml")
    assert stages(opened("--config", config)) == [((1, 2), None)]
    assert stages(opened("--config", config, "--weights", 3, 1)) == [((3, 1), None)]
    inputs = opened("--config", config, "--data", folder / "c")
    assert [corpus.name for corpus in inputs.corpora] == ["c"]
    inputs = opened("--config", config, "--eval-data", folder / "c")
    assert [corpus.name for corpus in inputs.corpora] == ["a", "b", "c"]
    assert stages(inputs) == [((1, 2), None)]


def test_replay_takes_the_corpora_of_the_run_before(folder: Path, tmp_path: Path) -> None:
    """With the weights of its last stage, and another order than they had there."""
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step-0000001"
    checkpoint.mkdir(parents=True)
    (run / "config.yaml").write_text(
        f"data:\n  data: [{folder / 'a'}, {folder / 'b'}]\n  corpus_names: [wiki, c]\n"
        "  stages: ['1 0 for 8 samples', '0.25 0.75']\n"
    )
    for place in (run, checkpoint):
        inputs = opened("--data", folder / "c", "--init-from", place, "--replay-share", 0.2)
        assert stages(inputs) == [((16, 1, 3), None)]
        assert [corpus.name for corpus in inputs.corpora] == ["c", "wiki", "replay/c"]
        assert inputs.corpora[1].train is not None
        assert inputs.corpora[1].train.settings.seed == corpus_seed(42, 1) != 42
    with pytest.raises(
        UserError, match=r"given twice; give it once, or name other .* --replay DIR"
    ):
        opened("--data", folder / "a", "--init-from", run, "--replay-share", 0.2)
    only = opened("--data", folder / "c", "--init-from", run, "--replay-share", 0)
    assert only.plan.stages == (Stage((1,), None),)
    assert len(only.evaluated) == 3


def test_foreign_shards_mix_with_our_own(folder: Path, tmp_path: Path) -> None:
    """With the tokenizer of our own shards, unless one is given."""
    own = opened("--data", folder / "a")
    fixed = write_fixed(tmp_path / "fixed.hdf5", samples_of(own.train, 40), 32)
    mixture = ["--data", folder / "a", fixed, "--masking", "whole-word", "--weights", 1, 1]
    for more in ([], ["--tokenizer", folder / "e" / "tokenizer"]):
        inputs = opened(*mixture, *more)
        assert inputs.train.samples(np.arange(80)).input_ids.shape == (80, 32)
        assert inputs.plan.counts(80) == [40, 40]
    with pytest.raises(UserError, match="have different tokenizers"):
        opened(*mixture, "--tokenizer", folder / "d" / "tokenizer")


def test_epochs_are_named_where_they_begin(folder: Path) -> None:
    inputs = opened("--data", folder / "a", folder / "b", "--weights", 1, 3)
    sizes = [corpus.train.samples_per_epoch for corpus in inputs.trained if corpus.train]
    steps = range(0, 8 * 4 * max(sizes), 8)
    samples = inputs.along(Course.constant_of(8, 32))
    found = [
        (inputs.trained[epoch.corpus].name, epoch.number, epoch.sample)
        for first in steps
        for epoch in samples.epochs_begun(first, first + 8)
    ]
    corpora, places = inputs.plan.assign(np.arange(steps[-1] + 8))
    expected = [
        ("ab"[corpus], place // sizes[corpus] + 1, number)
        for number, (corpus, place) in enumerate(zip(corpora.tolist(), places.tolist()))
        if place and place % sizes[corpus] == 0
    ]
    assert found == expected
    assert len(found) > 4


def test_names_differ(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "b", tmp_path / "a")
    inputs = opened("--data", folder / "a", tmp_path / "a", folder / "c")
    names = [corpus.name for corpus in inputs.corpora]
    assert names == [f"{folder.name}/a", f"{tmp_path.name}/a", "c"]
    odd = settings_of([*TINY, "--data", "x/a b", "x/a_b", "x/" + 99 * "c"])
    assert [c.name for c in mixture_of(odd).corpora] == ["x/a_b", "x/a_b-2", 60 * "c"]


WRONG = [
    (["--data", "a", "b", "--weights", "1"], "--weights gives 1 weights for 2 corpora"),
    (["--data", "a", "b", "--weights", "0", "0"], "--weights gives every corpus the weight 0"),
    (["--data", "a", "b", "--weights", "-1", "2"], "--weights -1 2: '-1': expected a number of 0 or more"),
    (["--data", "a", "b", "--weights", "1", "0"], "--data b has the weight 0 throughout"),
    (["--data", "a", "b", "--weights", "1", "1", "--temperature", "2"], "--weights and --temperature give"),
    (["--data", "a", "b", "a/"], "--data a: this corpus is given twice"),
    (["--data", "a", "--eval-data", "a"], "--data and --eval-data a: this corpus is given twice"),
    (["--data", "a", "nowhere"], "--data nowhere: no such folder; make shards with"),
    (["--data", "a", "--eval-data", "nowhere"], "--eval-data nowhere: no such folder"),
    (["--data", "a", "d"], "--data a and --data d have different tokenizers .*id 5 is 'w0' and 'w1'.*shard_wiki.py"),
    (["--data", "a", "empty"], "empty: the split 'train' has no documents"),
    (["--data", "a", "--eval-data", "no_eval"], "--eval-data no_eval is only evaluated, and its evaluation split"),
    (["--data", "a", "b", "--stages", "1 1"], None),
    (["--data", "a", "e"], None),
    (["--data", "a", "b", "--stages", "1 1 for 10 samples"], "is the last one, which lasts to the end"),
    (["--data", "a", "b", "--stages", "1 1", "1 0"], "'1 1' has no length, and only the last one may not"),
    (["--data", "a", "b", "--stages", "1 for 8 samples", "1 1"], "a stage gives 1 weights for 2 corpora"),
    (["--data", "a", "b", "--stages", "1 1 for 8 days", "1 1"], "expected weights, one per corpus, and how long"),
    (["--data", "a", "b", "--stages", "1 1 for 0.5 samples", "1 1"], "whole number of 1 or more samples"),
    (["--data", "a", "b", "--corpus-names", "x"], "--corpus-names gives 1 names for 2 corpora"),
    (["--data", "a", "--replay", "b"], "give their share of the samples: --replay-share"),
    (["--data", "a", "--replay-share", "0.1"], "needs the corpora to replay"),
    (["--data", "a", "--replay-share", "0.1", "--init-from", "b"], "is not a pretraining run"),
    (["--data", "a", "--replay-share", "1", "--replay", "b"], "expected a number of 0 or more and below 1"),
    (["--data", "mixture.yaml", "a"], "mixture.yaml is a mixture, and more is given"),
    (["--data", "mixture.yaml", "--weights", "1", "2"], "mixture.yaml is a mixture: write what --weights says"),
    (["--data", "nowhere.yaml"], "--data nowhere.yaml: No such file or directory"),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "message"), WRONG)
def test_wrong_mixtures_are_one_line(
    argv: list[str], message: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture_file(folder, STAGED)
    empty = folder / "empty"
    if not empty.exists():
        from megabert.data.shards.manifest import SpecialIds, TokenizerInfo
        from megabert.data.shards.writer import Document, write_corpus

        info = TokenizerInfo("wordpiece", "ab" * 32, 397, True, SpecialIds(0, 1, 2, 3, 4))
        text = Document(1, [([9, 9], [True, True])])
        write_corpus(empty, {"train": [], "eval": [[text, text]]}, info)
        write_corpus(folder / "no_eval", {"train": [[text, text]], "eval": []}, info)
    monkeypatch.chdir(folder)

    def start() -> None:
        settings = settings_of([*TINY, *argv])
        check_files(settings)
        open_inputs(settings)

    if message is None:
        start()
        return
    with pytest.raises(UserError, match=message) as raised:
        start()
    assert "\n" not in str(raised.value)


WRONG_FILES = [
    ("", "the file: expected a mapping with corpora"),
    ("corpora: []", "corpora: expected a list of corpora"),
    ("corpora: [{path: a}]\nstages: []", "stages: expected a list of stages"),
    ("corpora: [a]", r"corpora\[0\]: expected a mapping with name, path, weight"),
    ("corpora: [{name: x}]", r"corpora\[0\]: needs a path"),
    ("corpora: [{path: a, wieght: 1}]", r"corpora\[0\]: unknown key 'wieght'; did you mean 'weight'"),
    ("corpora: [{path: a}]\nstage: []", "the file: unknown key 'stage'; did you mean 'stages'"),
    ("corpora: [{path: a, weight: -1}]", r"corpora\[0\]: weight is -1: expected a number of 0 or more"),
    ("corpora: [{path: a, weight: 0}]", "--weights gives every corpus the weight 0"),
    ("corpora: [{path: a, weight: 1}, {path: b}]", "corpus 'b' has no weight, and others have"),
    ("corpora: [{path: a, weight: 1}]\ntemperature: 2", "only one of weights, temperature and stages"),
    ("corpora: [{path: a}]\ntemperature: 0", "temperature is 0: expected a number of more than 0"),
    ("corpora: [{path: a}, {path: x/a}]", "two corpora are named 'a'"),
    ("corpora: [{path: a}, {path: a, name: b}]", "this corpus is given twice"),
    ("corpora: [{path: a, name: 'x y'}]", "the name x y is not one of letters"),
    ("corpora: [{path: a}]\nstages: [{weights: {b: 1}}]", r"stages\[0\]: weights: unknown key 'b'"),
    ("corpora: [{path: a}]\nstages: [{tokens: 1}]", r"stages\[0\]: needs weights or a temperature"),
    ("corpora: [{path: a}]\nstages: [{weights: {a: 1}, tokens: .nan}, {weights: {a: 1}}]", "tokens is nan"),
    ("corpora: [{path: a}]\nstages: [{weights: {a: 0}}]", "a stage gives every corpus the weight 0"),
    ("corpora: [{path: nowhere}]", "nowhere: no such folder"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_FILES)
def test_wrong_mixture_files_are_one_line(text: str, message: str, folder: Path) -> None:
    path = mixture_file(folder, text, "wrong.yaml")
    with pytest.raises(UserError, match=message) as raised:
        check_files(settings_of([*TINY, "--data", str(path)]))
    assert "\n" not in str(raised.value)


def test_the_shards_need_not_be_there_for_settings(tmp_path: Path) -> None:
    made = settings_of([*TINY, "--data", "none", "other", "--weights", "1", "2"])
    assert [corpus.name for corpus in mixture_of(made).trained] == ["none", "other"]
