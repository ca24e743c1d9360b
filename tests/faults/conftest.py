"""What the tests of commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.finetune_runs import make_run
from tests.helpers.foreign_shards import random_samples, write_fixed
from tests.helpers.training_runs import make_shards


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a fine-tuned ``run`` of it, task files, shards and text; no test changes them."""
    made = make_run(tmp_path_factory.mktemp("inputs"))
    make_shards(made / "shards")
    write_fixed(made / "foreign.hdf5", random_samples(4), 32)
    probes = f"- {{name: text, kind: pseudo-perplexity, text: {made / 'text.txt'}}}"
    (made / "probes.yaml").write_text(probes, encoding="utf-8")
    (made / "text.txt").write_text("Ann met Bob. Bob met Cid.\n\n" * 200, encoding="utf-8")
    return made
