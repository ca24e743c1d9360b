"""The run folder: who may use it, what is written into it at the start, what a checkpoint must match."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabert import __version__
from megabert.checkpoint.record import (
    Checkpoint,
    plain,
    whole_checkpoints,
)
from megabert.common.errors import UserError
from megabert.common.files import new_folder, temporary_name, write_json, write_text
from megabert.common.log import get_logger
from megabert.common.names import (
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_DEEPSPEED_CONFIG,
    RUN_DEEPSPEED_LOG,
    RUN_MERGING,
    TOKENIZER_FOLDER,
)
from megabert.config import flags
from megabert.config.model import ModelConfig, changed_fields
from megabert.config.training import DividedSettings, PretrainSettings, ResolvedSettings
from megabert.data.shards.manifest import Manifest
from megabert.data.shards.summary import data_summary, summary_changes
from megabert.engine.launch import World
from megabert.model.encoder import variant_of

_MATCHING = [
    place for place, rule in flags.resume_rules(PretrainSettings).items() if rule == "must_match"
]
"""(section, setting) of the settings that a resumed run must share with its checkpoint."""
_IDENTITY = ("model", "tokenizer_sha256", "data_fingerprint")
"""What a resumed run must share with its checkpoint, along with the settings that must match."""


def run_identity(
    settings: DividedSettings, model: ModelConfig, manifest: Manifest
) -> dict[str, Any]:
    """What every checkpoint of the run records about it (plain values)."""
    return {
        "program": f"megabert {__version__}",
        "model": model.to_dict(),
        "qkv_layout": "separate",
        "heads": ["mlm"] if settings.data.sentence_task == "none" else ["mlm", "nsp"],
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "data_fingerprint": manifest.fingerprint,
        "data": plain(data_summary(manifest)),
        **{name: getattr(getattr(settings, section), name) for section, name in _MATCHING},
    }


def _taken(output: Path) -> bool:
    """True if ``output`` holds more than what a run killed before its first update leaves there."""
    if not output.is_dir():
        return output.exists()
    worthless = {
        RUN_CHECKPOINTS,
        RUN_DEEPSPEED_LOG,
        RUN_MERGING,
        temporary_name(output / RUN_CONFIG).name,
    }
    if any(path.name not in worthless for path in output.iterdir()):
        return True
    base = output / RUN_CHECKPOINTS
    return base.exists() and (not base.is_dir() or any(base.iterdir()))


def open_run(
    output: Path,
    resume: str,
    world: World,
    find_checkpoint: Callable[[Path, str, World], Checkpoint | None],
) -> Checkpoint | None:
    """Check and create the output folder; the checkpoint to resume from (all ranks call).

    Raises:
        UserError: the folder is another run's, or its checkpoints are damaged.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file; name a new folder")
    taken = _taken(output)
    if taken and not (output / RUN_CONFIG).is_file():
        raise UserError(f"{output} is not a run folder (no {RUN_CONFIG}); choose another --output")
    if taken and resume == "never":
        raise UserError(
            f"{output} is not empty: it may belong to another run; choose another --output, "
            "or resume that run with --resume auto"
        )
    checkpoint = None
    if resume != "never":
        checkpoint = find_checkpoint(output, resume, world)
        if checkpoint is None:
            get_logger().info("no complete checkpoint in %s: starting at step 0", output)
    world.barrier()
    if world.is_main:
        shutil.rmtree(output / RUN_MERGING, ignore_errors=True)
        try:
            (output / RUN_CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno == 28:
                raise
            raise UserError(f"--output {output} cannot be created: {error.strerror}") from error
    world.barrier()
    return checkpoint


@contextlib.contextmanager
def nothing_left_behind(output: Path) -> Iterator[None]:
    """Remove a new run folder if a wrong input or a request ends the run before it has a checkpoint.

    Such a run cannot be resumed, and its folder would only block the next attempt.
    """
    new = not _taken(output)
    try:
        yield
    except (UserError, KeyboardInterrupt):
        if new and not whole_checkpoints(output / RUN_CHECKPOINTS):
            shutil.rmtree(output, ignore_errors=True)
        raise


def require_same_run(checkpoint: Checkpoint | None, identity: dict[str, Any]) -> None:
    """Refuse to resume from a checkpoint that other settings made; log another version's.

    Raises:
        UserError: which settings, from what to what.
    """
    if checkpoint is None:
        return
    record = checkpoint.record
    if record.get("program") != identity["program"]:
        get_logger().info(
            "%s was written by %s; this is %s",
            checkpoint.folder.name,
            record.get("program", "an unknown version"),
            identity["program"],
        )
    differing = []
    for key in (*_IDENTITY, *(name for _, name in _MATCHING)):
        if key == "model":
            models = ModelConfig.from_dict(record[key]), ModelConfig.from_dict(identity[key])
            differing += [
                f"{name} {before!r} -> {now!r}"
                for name, (before, now) in changed_fields(*models).items()
            ]
        elif key == "data_fingerprint" and record.get(key) != identity[key]:
            differing += _data_changes(record, identity)
        elif record.get(key) != identity[key]:
            differing.append(f"{key} {record.get(key)!r} -> {identity[key]!r}")
    if differing:
        raise UserError(
            f"{checkpoint.folder} was made with other settings: {'; '.join(differing)}; give the run's own "
            "settings (--config RUN/config.yaml), or another --output"
        )


def _data_changes(record: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """What differs between the shards of a checkpoint and those of this run."""
    if "data" not in record:  # of an earlier version
        return [
            f"data_fingerprint {record.get('data_fingerprint')!r} -> {identity['data_fingerprint']!r}"
        ]
    changes = summary_changes(record["data"], identity["data"])
    if not changes:
        return [
            "the text of the shards of --data (seed, source, tokenizer and counts are the same)"
        ]
    return [f"the shards of --data: {changes[0]}", *changes[1:]]


def trained_positions(
    settings: ResolvedSettings, model: ModelConfig, before: Checkpoint | None
) -> int:
    """Number of positions that can be used once this run has ended.

    With a position table these are its rows that have had gradients; without one, all positions.
    """
    if not variant_of(model).position_rows(model):
        return model.max_position_embeddings
    earlier = int(before.record.get("trained_positions", 0)) if before is not None else 0
    return max(earlier, settings.data.seq_length)


def write_settings(
    output: Path,
    settings: DividedSettings,
    deepspeed_config: dict[str, Any],
    save_tokenizer: Callable[[Path], None],
) -> None:
    """Write ``config.yaml``, ``ds_config.json`` and the tokenizer (main rank only).

    ``save_tokenizer`` writes the tokenizer's files into a folder.
    ``stop_after`` is not written: it ends one job, and the file is used to resume the run.
    """
    lasting = replace(settings, run=replace(settings.run, stop_after=None))
    write_text(output / RUN_CONFIG, flags.to_yaml(lasting))
    write_json(output / RUN_DEEPSPEED_CONFIG, deepspeed_config)
    target = output / TOKENIZER_FOLDER
    if not target.exists():
        with new_folder(target, unique=False) as folder:
            save_tokenizer(folder)
