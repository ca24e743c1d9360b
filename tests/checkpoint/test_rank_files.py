"""A rank's file that says something else than the others, or nothing that can be read, is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.utils.tensor_fragment import fragment_address

from megabert.checkpoint.deepspeed_files import read_deepspeed_file
from megabert.checkpoint.merged import whole_checkpoint
from megabert.checkpoint.record import read_checkpoint_record
from megabert.checkpoint.resume import recorded_parameters
from megabert.common.errors import UserError
from megabert.config.model import ModelConfig

_RUN = Path(__file__).resolve().parents[1] / "fixtures" / "run_zero1_dp2"
_NAME = "bert.layers.0.attention.key.weight"


def _place(start: int, numel: int) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state["param_slice_mappings"][0][_NAME] = fragment_address(start=start, numel=numel)

    return change


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "beyond the partition": (_place(5600, 256), "reaches beyond the partition"),
    "far beyond it": (_place(0, 10**15), "reaches beyond the partition"),
    "before it": (_place(-8, 8), "at no valid place"),
    "a shorter part": (_place(1280, 200), r"200 elements of .*key\.weight .* needs 256"),
    "a part less": (
        lambda state: state["param_slice_mappings"][0].pop(_NAME),
        "belongs to another model",
    ),
    "a group less": (lambda state: state["param_slice_mappings"].pop(), "not a rank's file"),
    "no places": (lambda state: state.pop("param_slice_mappings"), "not a rank's file"),
    "of more ranks": (lambda state: state.update(partition_count=[4, 4]), "is incomplete"),
    "of no ranks": (lambda state: state.update(partition_count=0), "not a rank's file"),
    "another step": (
        lambda state: state["base_optimizer_state"]["state"][0].update(step=9),
        r"different steps: \[4, 9\]",
    ),
    "a moment of another size": (
        lambda state: state["base_optimizer_state"]["state"][0].update(exp_avg=torch.zeros(7)),
        "reaches beyond the partition",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_does_not_fit(name: str, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    folder = tmp_path / "step-0000004"
    shutil.copytree(next((_RUN / "checkpoints").glob("step-*")), folder)
    record = read_checkpoint_record(folder).record
    parameters = recorded_parameters(ModelConfig.from_dict(record["model"]), record["heads"])
    assert len(dict(whole_checkpoint(folder, parameters).items())) == len(parameters)
    path = next(folder.glob("zero_pp_rank_1_*_optim_states.pt"))
    content = read_deepspeed_file(path, mapped=False)
    change(content["optimizer_state_dict"])
    torch.save(content, path)
    with pytest.raises(UserError, match=words):
        dict(whole_checkpoint(folder, parameters).items())
