"""Every file of launch/recipes: its header, its row in the guide, and five updates of a narrow model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from megabert.common.errors import UserError
from megabert.config import flags
from megabert.config.recipes import read_header, recipe_files
from megabert.config.training import PretrainSettings, ResolvedSettings
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.settings import resolve_pretraining
from tests.helpers.distributed import run_ranks
from tests.helpers.training_runs import import_once, losses, make_shards, metrics

RECIPES = recipe_files()
NARROW = [
    "--hidden-size", "16", "--num-hidden-layers", "2", "--num-attention-heads", "2",
    "--intermediate-size", "32", "--max-position-embeddings", "64", "--micro-batch-size", "4",
    "--steps", "5", "--log-interval", "1", "--eval-interval", "0", "--eval-samples", "8",
    "--eval-at-start", "off", "--trust-ratio-interval", "0", "--self-test", "off",
    "--tracker", "csv", "--peak-tflops", "1",
]  # fmt: skip


def settings(*argv: str) -> ResolvedSettings:
    return resolve_pretraining(flags.parse(PretrainSettings, list(argv), "pretrain.py", ""))


def squeezed(ramp: Sequence[str], final: int, largest: int, step: int) -> list[str]:
    """A ramp's stages and its final value, with values up to ``largest`` that are multiples of ``step``."""
    stages = [text.split(" for ") for text in ramp]
    assert all(duration.endswith("%") for _, duration in stages), "--steps should scale a recipe"
    values = [*(int(value) for value, _ in stages), final]
    small = [max(step, value * largest // max(values) // step * step) for value in values]
    return [*(f"{n} for {duration}" for n, (_, duration) in zip(small, stages)), str(small[-1])]


def narrow(name: str, folder: Path) -> list[str]:
    """A recipe's command line for a moment of one CPU: everything that is long or wide is given anew."""
    of = settings("--config", name)
    assert of.batch.global_batch_size is not None
    *batches, batch = squeezed(of.ramps.batch_ramp, of.batch.global_batch_size, 16, 4)
    *lengths, length = squeezed(of.ramps.length_ramp, of.data.seq_length, 32, 8)
    small = ["--global-batch-size", batch, "--seq-length", length, "--max-predictions", "8"]
    if batches:
        small += ["--batch-ramp", *batches]
    if lengths:
        small += ["--length-ramp", *lengths]
    argv = ["--config", name, *NARROW, *small, "--data", str(folder / "shards")]
    if of.run.init_from is not None:
        argv += ["--init-from", str(folder / of.run.init_from.name)]
    return [*argv, "--output", str(folder / of.run.output.name)]


def _train_all(rank: int, world_size: int, commands: Sequence[list[str]]) -> None:
    from megabert.pretrain.command import pretrain

    for argv in commands:
        pretrain(settings(*argv))


def test_five_updates_of_every_recipe(tmp_path: Path) -> None:
    """In one process; a second phase starts from the first one's run, which comes before it."""
    make_shards(tmp_path / "shards")
    commands = [narrow(name, tmp_path) for name in RECIPES]
    import_once()
    run_ranks(_train_all, 1, commands, initialize=False, timeout=240.0)
    for name in RECIPES:
        lines = metrics(tmp_path / settings("--config", name).run.output.name)
        assert len(losses(lines)) == 5, name
        assert max(losses(lines)) < 8, name


@pytest.mark.parametrize("name", RECIPES)
def test_header(name: str) -> None:
    header = read_header(RECIPES[name])
    assert header.name == name
    assert settings("--config", name).run.output == Path("runs") / name


@pytest.mark.parametrize("phase", [1, 2])
def test_the_phases_are_a_recipe(phase: int) -> None:
    name = "nvidia-lamb-2019" + ("-phase2" if phase == 2 else "")
    of, expected = settings("--config", name), settings("--phase", str(phase))
    model = replace(of.model, dropout=None)  # the default, written out
    of = replace(
        of, model=model, run=replace(of.run, output=Path(), init_from=None, eval_at_start=False)
    )
    assert of == replace(expected, run=replace(expected.run, output=Path()))


def test_a_wrong_header_is_an_error(tmp_path: Path) -> None:
    text = RECIPES["bert-2018"].read_text(encoding="utf-8")
    for old, new in [("# code:", "# kode:"), ("# code: ", "# code:\n# more: "), ("#     ", "#   ")]:
        assert old in text
        (tmp_path / "bert-2018.yaml").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(UserError, match="header"):
            read_header(tmp_path / "bert-2018.yaml")


def test_a_name_that_is_none_lists_the_recipes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; .*bert-2018.*did you mean 'crammed-24h'"):
        settings("--config", "crammed-24")
    with pytest.raises(UserError, match=r"none\.yaml: no such file; name a YAML file, or a recipe"):
        settings("--config", str(tmp_path / "none.yaml"))


def test_a_file_in_the_working_folder_comes_before_a_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bert-2018").write_text("run: {seed: 7}\n", encoding="utf-8")
    assert settings("--config", "bert-2018").run.seed == 7


def test_a_recipe_without_its_ramp() -> None:
    of = settings("--config", "crammed-24h", "--batch-ramp", "none", "--steps", "200")
    assert of.ramps.batch_ramp == ()
    assert (of.optimizer.steps, of.schedule.train_tokens) == (200, None)
    with pytest.raises(UserError, match="--length-ramp: none stands alone"):
        settings("--config", "bert-2018", "--length-ramp", "128 for 10%", "none")


def _row(name: str) -> str:
    """A recipe's row in the guide."""
    header, of = read_header(RECIPES[name]), settings("--config", name)
    updates = of.optimizer.steps
    tokens = re.sub(r"e\+0?", "e", f"{course_of(of).tokens(updates):.3g}")
    cells = [f"`{name}`", header.source, tokens, f"{updates:,}", header.hardware, header.published]
    return f"| {' | '.join(cells)} |"


def test_the_guide_has_every_recipe(root: Path) -> None:
    page = (root / "docs" / "guide" / "recipes.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [_row(name) for name in RECIPES]
