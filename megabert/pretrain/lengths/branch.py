"""Decay branches: runs that continue a checkpoint of a stable run, and only decay (``--decay-from``).

    with_stable_settings    the stable run's settings below those that are given; before torch is imported

:func:`megabert.pretrain.starting_model.open_branch` opens its checkpoint, from which everything is resumed.
A stable run has a constant learning rate after warm-up (``--schedule constant``, or ``wsd`` before its decay).
A branch has the settings, data and counters of one uninterrupted run that had decayed there, and a folder of
its own; the stable run's folder is only read.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from megabert.common.errors import UserError
from megabert.common.names import CHECKPOINT_RECORD, RUN_CHECKPOINTS, RUN_CONFIG
from megabert.common.storage import named_storage_errors
from megabert.config import flags
from megabert.config.flags import Given, SettingsLayer, Values
from megabert.config.sections.branch_point import BranchPoint, read_branch_point
from megabert.config.training import PretrainSettings
from megabert.pretrain.lengths.course import course_of
from megabert.pretrain.lengths.durations import curve_of, run_lengths

_FOLLOWS = {
    ("optimizer", "steps"): "the run ends with its decay, whose length is --decay-duration",
    ("schedule", "train_tokens"): "the run ends with its decay, whose length is --decay-duration",
    ("optimizer", "warmup_fraction"): "the warm-up was that of the stable run",
    ("schedule", "warmup"): "the warm-up was that of the stable run",
    ("schedule", "ramp_duration"): "what changes over the run does so as in the stable run",
    ("run", "init_from"): "the weights are those of the stable run",
}
"""(section, setting) of what a branch does not choose, and why."""
_OF_ONE_RUN = {
    "run": ("output", "resume", "stop_after", "profile"),
    "optimizer": ("steps", "warmup_fraction", "schedule"),
    "schedule": ("train_tokens", "warmup", "decay_duration", "decay_from"),
    "trackers": ("tracker_name",),
}
"""Settings of the stable run that its branches do not take over."""
_STABLE = ("constant", "wsd")


def with_stable_settings(given: Given) -> Given:
    """``given``; with ``--decay-from``, the stable run's settings are below those that are given.

    A branch that is resumed has its own recorded settings in their place: the stable run need not be there
    any more.

    Raises:
        UserError: the run is not there or not stable, does not have the checkpoint, or is also the output;
            a setting is given that a branch does not choose.
    """
    if not any(layer.sets("schedule", "decay_from") for layer in (given.file, given.flags)):
        return given
    named = flags.read_values(PretrainSettings, given.file, given.flags)
    for (section, name), reason in _FOLLOWS.items():
        if given.flags.sets(section, name):
            raise UserError(f"--{name.replace('_', '-')} and --decay-from: {reason}; leave it out")
    if given.flags.values.get("optimizer", {}).get("schedule", "wsd") != "wsd":
        raise UserError("--schedule and --decay-from: the schedule is wsd's decay; leave it out")
    point = read_branch_point(named["schedule"]["decay_from"])
    output = named["run"].get("output")
    resumes = named["run"].get("resume", "never") != "never"
    if output is None and resumes:
        output = _begun_branch(point)
    if output is not None and resumes and has_checkpoint(output):
        values, point = _resumed(output, point)
    else:
        values, point = _stable(point)
        output = output or _own_folder(point)
        _require_other_folder(output, point.run)
    values.setdefault("run", {})["output"] = str(output)
    own = given.file.without(*_FOLLOWS, ("optimizer", "schedule")).values
    chosen = given.flags.without(("schedule", "decay_from")).values
    chosen.setdefault("schedule", {})["decay_from"] = str(point)
    file = given.file.file or str(point.run / RUN_CONFIG)
    merged = SettingsLayer(flags.join(values, own), file, given.file.names)
    return replace(given, file=merged, flags=SettingsLayer(chosen))


def has_checkpoint(run: Path) -> bool:
    """Whether a run has one, so that what it started from is not needed any more."""
    return any((run / RUN_CHECKPOINTS).glob(f"*/{CHECKPOINT_RECORD}"))


def _own_folder(point: BranchPoint) -> Path:
    """The folder of a branch without ``--output``."""
    return Path(f"{point.run}-decay-{point.step}")


def _begun_branch(point: BranchPoint) -> Path | None:
    """The default folder of the branch to resume, if it was begun; None: it begins now.

    Without a step that is the only branch of the run in a default folder.

    Raises:
        UserError: there are several.
    """
    if point.step is not None:
        folder = _own_folder(point)
        return folder if has_checkpoint(folder) else None
    any_step = Path(f"{point.run}-decay-")
    beside = (one for one in any_step.parent.glob("*") if one.name.startswith(any_step.name))
    found = sorted(filter(has_checkpoint, beside))
    if len(found) > 1:
        raise UserError(
            f"--decay-from {point}: several branches of it can be resumed ({', '.join(map(str, found))}); name one, as "
            f"--decay-from RUN@STEP or with --output"
        )
    return found[0] if found else None


def _resumed(output: Path, point: BranchPoint) -> tuple[Values, BranchPoint]:
    """The recorded settings of a branch, and where it began."""
    values = _recorded(output, output)
    recorded = values.get("schedule", {}).get("decay_from")
    began = None if recorded is None else read_branch_point(Path(recorded))
    if began is None or point.step not in (None, began.step):
        what = "is not a decay branch" if began is None else f"is a decay branch of {began}"
        raise UserError(
            f"--decay-from {point}: the run in {output} {what}, and resumes as that; choose another --output"
        )
    return values, began


def _recorded(run: Path, named: object) -> Values:
    """The settings in a run's folder."""
    path = run / RUN_CONFIG
    with named_storage_errors(path, "cannot be read"):
        if not path.is_file():
            raise UserError(
                f"--decay-from {named}: no run is in {run} ({RUN_CONFIG} is missing); name the folder of a "
                "pretraining run, as RUN@STEP"
            )
    try:
        return flags.read_yaml(path, PretrainSettings).values
    except UserError as error:
        raise UserError(f"--decay-from {named}: {str(error).removeprefix('--config ')}") from error


def _stable(point: BranchPoint) -> tuple[Values, BranchPoint]:
    """The stable run's settings as those of its branch, and the checkpoint that is meant."""
    values = _recorded(point.run, point)
    layer = SettingsLayer(values, str(point.run / RUN_CONFIG))
    stable = flags.build(PretrainSettings, layer)
    base = point.run / RUN_CHECKPOINTS
    with named_storage_errors(base, "cannot be read"):
        from megabert.checkpoint.record import whole_checkpoints  # imports torch

        kept = sorted(found.step for found in whole_checkpoints(base))
    tags = ", ".join(map(str, kept)) or "none"
    if not kept or point.step not in (None, *kept):
        wanted = "a checkpoint" if point.step is None else f"the checkpoint of step {point.step}"
        raise UserError(
            f"--decay-from {point}: {wanted} is not in {base} (kept steps: {tags}); a stable run keeps more "
            "with --keep-every"
        )
    step = kept[-1] if point.step is None else point.step
    began = stable.schedule.decay_from
    if began is None and stable.optimizer.schedule not in _STABLE:
        raise UserError(
            f"--decay-from {point}: that run has --schedule {stable.optimizer.schedule}, whose learning rate is "
            f"not constant after warm-up; a stable run has {' or '.join(_STABLE)}"
        )
    first, last, whole = _stable_part(stable)
    if not first <= step <= last:
        usable = ", ".join(str(one) for one in kept if first <= one <= last) or "none"
        part = f"decays after update {last:,}"
        if step < first:
            part = f"warms up until update {first:,}"
        raise UserError(
            f"--decay-from {point}: step {step} is not in the stable part of that run, which {part}; steps "
            f"that are kept from it: {usable}"
        )
    places = [(section, name) for section, names in _OF_ONE_RUN.items() for name in names]
    taken = layer.without(*places).values
    for section in ("run", "optimizer", "schedule"):
        taken.setdefault(section, {})
    taken["optimizer"]["schedule"] = "wsd"
    taken["schedule"]["ramp_duration"] = whole
    taken["schedule"]["warmup"] = first if first > 1 else 0
    taken["run"]["eval_at_start"] = False
    return taken, BranchPoint(point.run, step)


def _stable_part(stable: PretrainSettings) -> tuple[int, int, int | str]:
    """The first and the last update after which a branch may begin, and the length for what changes."""

    course = partial(course_of, stable)
    lengths = run_lengths(stable, course)
    stable = flags.build(PretrainSettings, SettingsLayer(flags.to_values(stable)), lengths)
    curve = curve_of(stable, course)
    tokens = stable.schedule.train_tokens
    whole = curve.steps if tokens is None else f"{tokens} tokens"
    return curve.warmed_up, curve.stable_until, stable.schedule.ramp_duration or whole


def _require_other_folder(output: Path, run: Path) -> None:
    """Refuse to write into the stable run's folder."""
    with named_storage_errors(f"--output {output}", "cannot be read"):
        mine, stable = output.resolve(), run.resolve()
    if mine == stable or stable in mine.parents:
        raise UserError(
            f"--output {output} is in the folder of --decay-from, which is only read: choose another --output"
        )
