"""The run folder: who may use it, what is written into it at the start, what a checkpoint must match."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from megabert import __version__
from megabert.checkpoint.record import (
    PARTIAL,
    Checkpoint,
    plain,
    whole_checkpoints,
)
from megabert.common.errors import UserError
from megabert.common.files import (
    limited_lines,
    new_folder,
    require_file,
    sha256_of,
    temporary_name,
    write_json,
    write_text,
)
from megabert.common.json_text import parse_json
from megabert.common.log import get_logger
from megabert.common.names import (
    RUN_CHECKPOINTS,
    RUN_CONFIG,
    RUN_CSV,
    RUN_DEEPSPEED_CONFIG,
    RUN_DEEPSPEED_LOG,
    RUN_FAULTS,
    RUN_MERGING,
    RUN_METRICS,
    RUN_RESULTS,
    RUN_TENSORBOARD,
    RUN_TENSORS_CSV,
    RUN_TRACKERS,
    TOKENIZER_FOLDER,
)
from megabert.common.processes.locks import is_lock_name
from megabert.common.storage import named_storage_errors
from megabert.config import flags
from megabert.config.model import ModelConfig, changed_fields
from megabert.config.training import DividedSettings, PretrainSettings
from megabert.data.shards.summary import data_summary, summary_changes
from megabert.engine.broadcast import broadcast_object
from megabert.engine.launch import World
from megabert.model.encoder import variant_of
from megabert.pretrain.inputs import Inputs
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.lengths.durations import Interval, branch_of, derived

_MATCHING = [
    place for place, rule in flags.resume_rules(PretrainSettings).items() if rule == "must_match"
]
"""(section, setting) of the settings that a resumed run must share with its checkpoint."""
_EARLIER = {
    field.name: field.default
    for section in flags.sections(PretrainSettings).values()
    for field in fields(section)
    if field.metadata["resume"] == "must_match"
}
"""What held in a checkpoint of an earlier version that does not record the setting yet."""
_SEEDS = ("data_seed", "weight_seed")
"""Seeds that are those of ``seed`` in earlier checkpoints."""
_WRITTEN_INTO = (
    RUN_METRICS, RUN_DEEPSPEED_LOG, RUN_MERGING, RUN_CONFIG, RUN_RESULTS, RUN_TRACKERS, RUN_CSV,
    RUN_TENSORS_CSV,
)  # fmt: skip
"""What a run writes, except its folders, which may be on another disk."""
_IDENTITY = ("model", "tokenizer_sha256", "mixture", "course", "data_fingerprint")
"""What a resumed run must share with its checkpoint, along with the settings that must match."""


_OF_THE_LENGTH = ("steps", "ramp_duration")
"""Settings in which a decay branch differs from its stable run: its own length, and that run's."""


def run_identity(settings: DividedSettings, inputs: Inputs) -> dict[str, Any]:
    """What every checkpoint of the run records about it (plain values).

    ``data_fingerprint`` is of the corpora that are trained on; those that are only evaluated may change.
    """
    corpora, info = inputs.trained, inputs.tokenizer_info
    several, began = len(corpora) > 1, branch_of(settings)
    course = course_of(settings)
    fingerprints = [corpus.manifest.fingerprint for corpus in corpora]
    return {
        "program": f"megabert {__version__}",
        "model": inputs.model.to_dict(),
        "qkv_layout": "separate",
        "heads": ["mlm"] if settings.data.sentence_task == "none" else ["mlm", "nsp"],
        "tokenizer_sha256": info.sha256,
        "data_fingerprint": sha256_of(" ".join(fingerprints)) if several else fingerprints[0],
        "data": {
            f"{corpus.name}: {topic}" if several else topic: plain(value)
            for corpus in corpora
            for topic, value in data_summary(corpus.manifest).items()
        },
        "mixture": _mixture(inputs) if several else None,
        "course": None if course.constant else [stage._asdict() for stage in course.stages],
        **({"decay_from": {"run": str(began.run), "step": began.step}} if began else {}),
        **{name: getattr(getattr(settings, section), name) for section, name in _MATCHING},
        "data_seed": settings.data_seed,
        "weight_seed": settings.weight_seed,
    }


def _mixture(inputs: Inputs) -> dict[str, Any]:
    """The corpora that are trained on, and their weights stage by stage."""
    return {
        "corpora": [corpus.name for corpus in inputs.trained],
        "stages": [
            {"weights": list(stage.weights), "samples": stage.samples}
            for stage in inputs.plan.stages
        ],
    }


def _shown_mixture(mixture: dict[str, Any] | None) -> str:
    if mixture is None:
        return "one corpus"
    parts = []
    for stage in mixture["stages"]:
        total = sum(stage["weights"])
        shares = ", ".join(
            f"{name} {weight / total:.4g}"
            for name, weight in zip(mixture["corpora"], stage["weights"])
        )
        parts.append(shares + (f" for {stage['samples']:,} samples" if stage["samples"] else ""))
    return f"({'; '.join(parts)})"


def _shown_course(stages: list[dict[str, int | None]] | None) -> str:
    if stages is None:
        return "none"
    parts = []
    for stage in stages:
        end = f" for {stage['updates']:,} updates" if stage["updates"] else ""
        parts.append(f"{stage['batch']} x {stage['length']}{end}")
    return f"(batch x length: {'; '.join(parts)})"


def _taken(output: Path) -> bool:
    """True if ``output`` holds more than what a run killed before its first update leaves there.

    Raises:
        UserError: it cannot be read.
    """
    with named_storage_errors(output, "cannot be read"):
        if not output.is_dir():
            return output.exists()
        worthless = {
            RUN_CHECKPOINTS,
            RUN_DEEPSPEED_LOG,
            RUN_FAULTS,
            RUN_MERGING,
            temporary_name(output / RUN_CONFIG).name,
        }
        curves = output / RUN_TENSORBOARD
        if curves.is_symlink() and curves.is_dir() and not any(curves.iterdir()):
            worthless.add(RUN_TENSORBOARD)  # a link that the user prepared
        names = {path.name for path in output.iterdir()}
        if any(name not in worthless and not is_lock_name(name) for name in names):
            return True
        base = output / RUN_CHECKPOINTS
        return RUN_CHECKPOINTS in names and (not base.is_dir() or any(base.iterdir()))


def open_run(
    output: Path,
    resume: str,
    world: World,
    find_checkpoint: Callable[[Path, str, World], Checkpoint | None],
) -> Checkpoint | None:
    """Check the output folder; the checkpoint to resume from (all ranks call).

    Raises:
        UserError: the folder is another run's, or its checkpoints are damaged, missing or unreadable.
    """
    reason = broadcast_object(world, partial(_check_run_folder, output, resume))
    checkpoint = None
    if resume != "never":
        checkpoint = find_checkpoint(output, resume, world)
        if checkpoint is None:
            broadcast_object(world, partial(_require_no_progress, output))
            get_logger().info("--resume %s finds nothing to resume: %s", resume, reason)

    def make() -> None:
        shutil.rmtree(output / RUN_MERGING, ignore_errors=True)
        with named_storage_errors(f"--output {output}", "cannot be created"):
            (output / RUN_CHECKPOINTS).mkdir(parents=True, exist_ok=True)

    broadcast_object(world, make)
    return checkpoint


def _check_run_folder(output: Path, resume: str) -> str:
    """Refuse a folder that this command must not use; why a run that finds no checkpoint there is new."""
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
    for path in (output / name for name in _WRITTEN_INTO):
        if path.is_symlink():
            raise UserError(
                f"{path} is a symbolic link, and this run would write where it points to: remove the link"
            )
        if path.exists():
            require_file(path)
    base = output / RUN_CHECKPOINTS
    with named_storage_errors(base, "cannot be read"):
        _require_folder(base, "checkpoints are", "start a new run in another --output")
        _require_folder(
            output / RUN_TENSORBOARD, "curves are in", "remove it: new curves are begun"
        )
        inside = [path.name for path in base.iterdir()] if base.is_dir() else []
    if not taken:
        return f"there is no run in {output} yet"
    if any(name.endswith(PARTIAL) for name in inside):
        return f"the first checkpoint in {base} was not written completely"
    return f"the run in {output} ended before its first checkpoint"


def _require_folder(path: Path, what: str, otherwise: str) -> None:
    """Refuse a link to nothing, or a file, in place of a folder of the run; it may be a link to a folder."""
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path} is a link to {path.readlink()}, which is not there: is its disk mounted? Bring it "
            f"back, or {otherwise}"
        )
    if path.exists() and not path.is_dir():
        raise UserError(
            f"{path} is a file, and a run's {what} a folder of that name: bring that folder back, or "
            f"{otherwise}"
        )


def _require_no_progress(output: Path) -> None:
    """Refuse to begin again where a run without checkpoints has saved some.

    Raises:
        UserError: what shows that it has.
    """
    lost = (
        f"{output / RUN_CHECKPOINTS} holds no checkpoint, but {{}}: bring the checkpoints back (moved? on a "
        "disk that is not mounted?), or start a new run in another --output"
    )
    with named_storage_errors(output, "cannot be read"):
        if (output / RUN_RESULTS).exists():
            raise UserError(lost.format(f"{output / RUN_RESULTS} says that some were written"))
        config, metrics = output / RUN_CONFIG, output / RUN_METRICS
        if not config.exists() or not metrics.exists():
            return
        recorded = flags.build(PretrainSettings, flags.read_yaml(config, PretrainSettings))
        every, last = recorded.run.save_interval, _last_step(metrics)
    saved = Interval(every, partial(course_of, recorded))
    if any(saved.due(step) for step in range(1, last)):
        unit = " steps" if isinstance(every, int) else ""
        raise UserError(
            lost.format(f"{metrics} reaches step {last}, and one was due every {every}{unit}")
        )


def _last_step(metrics: Path) -> int:
    """The step of the last whole line of metrics; 0 if there is none."""
    step = 0
    for line in limited_lines(metrics):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            step = int(parse_json(line)["step"])
    return step


@contextlib.contextmanager
def nothing_left_behind(output: Path, world: World) -> Iterator[None]:
    """Remove a new run folder if a wrong input or a request ends the run before it has a checkpoint.

    Such a run cannot be resumed, and its folder would only block the next attempt. The main rank holds the
    folder's lock: it is not another job's.
    """
    new = world.is_main and not _taken(output)
    try:
        yield
    except (UserError, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            if new and not whole_checkpoints(output / RUN_CHECKPOINTS):
                _empty(output)
                output.rmdir()
        raise


def _empty(folder: Path) -> None:
    """Remove what is in a folder; links to folders stay, as their user made them, and what is in those goes."""
    for path in folder.iterdir():
        if path.is_symlink() and path.is_dir():
            _empty(path)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def what_is_kept(output: Path) -> str:
    """What a run that ends now leaves, and how to continue it."""
    whole = whole_checkpoints(output / RUN_CHECKPOINTS)
    if whole:
        return f"checkpoint {whole[0].folder.name} is kept: continue with --resume auto"
    return "no checkpoint was written yet: start again with --resume auto"


def require_same_run(
    checkpoint: Checkpoint | None, identity: dict[str, Any], *, branch: bool = False
) -> None:
    """Refuse to resume from a checkpoint that other settings made; log another version's.

    ``branch``: the checkpoint is another run's, which a decay branch continues; only its length differs.

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
    mixed = _other_mixture(record, identity)
    record = _EARLIER | {name: record.get("seed") for name in _SEEDS} | record
    for key in (*_IDENTITY, *(name for _, name in _MATCHING)):
        if key == "model":
            models = ModelConfig.from_dict(record[key]), ModelConfig.from_dict(identity[key])
            differing += [
                f"{name} {before!r} -> {now!r}"
                for name, (before, now) in changed_fields(*models).items()
            ]
        elif key == "mixture":
            if mixed:
                before, now = record.get(key), identity[key]
                differing.append(f"mixture {_shown_mixture(before)} -> {_shown_mixture(now)}")
        elif key == "course":
            before, now = record.get(key), identity[key]
            if before != now:
                differing.append(f"ramps {_shown_course(before)} -> {_shown_course(now)}")
        elif key == "data_fingerprint" and record.get(key) != identity[key]:
            differing += [] if mixed else _data_changes(record, identity)
        elif record.get(key) != identity[key] and not (branch and key in _OF_THE_LENGTH):
            differing.append(f"{key} {record.get(key)!r} -> {identity[key]!r}")
    cure = "give the run's own settings (--config RUN/config.yaml), or another --output"
    if branch:
        cure = (
            "a decay branch continues the data and the model of its run: leave these settings out"
        )
    if differing:
        raise UserError(
            f"{checkpoint.folder} was made with other settings: {'; '.join(differing)}; {cure}"
        )


def _other_mixture(record: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether the weights differ, or other corpora have them."""
    before, now = record.get("mixture") or {}, identity["mixture"] or {}
    if before.get("stages") != now.get("stages"):
        return True
    others = record.get("data_fingerprint") != identity["data_fingerprint"]
    return others and before.get("corpora") != now.get("corpora")


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


def trained_positions(lengths: Iterable[int], model: ModelConfig, earlier: int) -> int:
    """Number of positions that can be used after training on sequences of these lengths.

    With a position table these are its rows that have had gradients, ``earlier`` of them before the run;
    without one, all positions.
    """
    if not variant_of(model).position_rows(model):
        return model.max_position_embeddings
    return max(earlier, *lengths)


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
    write_text(
        output / RUN_CONFIG, flags.to_yaml(lasting, absolute=True, derived=derived(settings))
    )
    write_json(output / RUN_DEEPSPEED_CONFIG, deepspeed_config)
    target = output / TOKENIZER_FOLDER
    if not target.exists():
        with new_folder(target, unique=False) as folder:
            save_tokenizer(folder)
