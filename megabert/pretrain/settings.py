"""A pretraining run's settings from all their sources; checks that need no torch.

Precedence: flag > ``--config`` > DeepSpeed file > phase recipe > default.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.log import get_logger
from megabert.common.names import RUN_CHECKPOINTS
from megabert.config import flags
from megabert.config.checkpoint_path import model_is_there
from megabert.config.deepspeed_file import deepspeed_layer, read_deepspeed_config
from megabert.config.flags import Given, SettingsLayer
from megabert.config.recipes import CONTINUE, RECIPES
from megabert.config.run_config import batch_of_other_ranks, with_own_output
from megabert.config.sections.masking import MaskingSettings
from megabert.config.sections.replacing import without_replaced
from megabert.config.sections.shape import DEFAULT_MODEL
from megabert.config.training import DataSettings, PretrainSettings, ResolvedSettings
from megabert.data.foreign.files import is_foreign, is_shard_file
from megabert.data.samples.masking import default_max_predictions
from megabert.data.shards.manifest import Manifest, load_manifest
from megabert.pretrain.corpora import MixtureSettings, NamedCorpus, own_mixture, read_mixture
from megabert.pretrain.lengths.branch import has_checkpoint, with_stable_settings
from megabert.pretrain.lengths.course import course_of, lengths_of
from megabert.pretrain.lengths.durations import (
    check_schedule,
    curve_of,
    run_lengths,
)

_PHASE_NAMES: dict[int | str, str] = {1: "phase1", 2: "phase2", CONTINUE: CONTINUE}
_LIMITED = (("data", "seq_length"), ("data", "mask_fraction"), ("masking", "final_mask_fraction"))
"""What the limit of predictions depends on."""
_ONLY_UNMASKED = (
    ("data", "masking"), ("data", "mask_fraction"), ("data", "short_sequence_fraction"),
    ("masking", "mask_share"), ("masking", "random_share"), ("masking", "final_mask_fraction"),
    ("masking", "eval_mask_fraction"),
)  # fmt: skip
"""Settings of how samples are made, which the samples of foreign shards have been through."""


def resolve_pretraining(given: Given) -> ResolvedSettings:
    """The settings of the run; every value that has a default is set.

    Raises:
        UserError: a wrong value, values that contradict each other, or a file that is not there.
    """
    of_a_run = batch_of_other_ranks(given)
    given, from_mixture = own_mixture(
        without_replaced(with_stable_settings(with_own_output(given, "run")))
    )
    given = _with_fitting_limit(given)
    first = flags.build(PretrainSettings, given.file, given.flags)
    raw: dict[str, Any] = {}
    from_file = SettingsLayer()
    if first.parallel.deepspeed_config is not None:
        raw = read_deepspeed_config(first.parallel.deepspeed_config)
        from_file = deepspeed_layer(raw, first.parallel.deepspeed_config)
    layers: tuple[SettingsLayer, ...] = (from_file, given.file, given.flags, from_mixture)
    made = flags.build(PretrainSettings, _recipe(first, layers), *layers)
    length = made.data.seq_length
    if made.data.max_predictions is None and length is not None:
        limit = default_max_predictions(length, _largest_fraction(made))
        layers = (SettingsLayer({"data": {"max_predictions": limit}}), *layers)
        made = flags.build(PretrainSettings, _recipe(first, layers), *layers)
    layers = (*layers, run_lengths(made, partial(course_of, made)))
    made = flags.build(PretrainSettings, _recipe(first, layers), *layers)
    settings = flags.narrow(
        ResolvedSettings, made, deepspeed_sections=raw, batch_is_of_a_run=of_a_run
    )
    _check_run(settings, given)
    _warn_of_few_predictions(settings)
    _check_data(settings, given)
    check_schedule(settings, given)
    if settings.optimizer.schedule == "wsd":
        curve_of(settings, partial(course_of, settings))
    return settings


def _with_fitting_limit(given: Given) -> Given:
    """``given``, without the file's limit of predictions if flags change what it was made for."""
    if given.flags.sets("data", "max_predictions") or not given.file.sets(
        "data", "max_predictions"
    ):
        return given
    changed = []
    for section, name in _LIMITED:
        flag, recorded = (
            layer.values.get(section, {}).get(name) for layer in (given.flags, given.file)
        )
        if flag is not None and (recorded is None or float(flag) != float(recorded)):
            changed.append("--" + name.replace("_", "-"))
    if not changed:
        return given
    get_logger().info(
        "max_predictions %s of %s is not used: %s changes what it belongs to",
        given.file.values["data"]["max_predictions"],
        given.file.file,
        changed[0],
    )
    return replace(given, file=given.file.without(("data", "max_predictions")))


def _largest_fraction(settings: PretrainSettings) -> float:
    """The largest fraction of predicted tokens of the run."""
    return max(settings.data.mask_fraction, settings.masking.final_mask_fraction or 0.0)


def _warn_of_few_predictions(settings: ResolvedSettings) -> None:
    """Say so if the limit of predictions is below the fraction of the tokens to predict."""
    data, fraction = settings.data, _largest_fraction(settings)
    if data.max_predictions < int(fraction * data.seq_length):
        get_logger().warning(
            "--max-predictions %d is %.1f %% of --seq-length %d: fewer tokens are predicted than the %.1f %% asked for",
            data.max_predictions,
            100 * data.max_predictions / data.seq_length,
            data.seq_length,
            100 * fraction,
        )


def mixture_of(settings: ResolvedSettings) -> MixtureSettings:
    """The corpora of a run; see :func:`~megabert.pretrain.corpora.read_mixture`."""
    known = settings.batch.global_batch_size is not None
    return read_mixture(
        settings.data,
        settings.data.seq_length,
        course_of(settings) if known else None,
        settings.run.init_from,
    )


def _recipe(first: PretrainSettings, others: tuple[SettingsLayer, ...]) -> SettingsLayer:
    """The published recipe of the phase, below all other layers."""
    recipe = RECIPES[first.run.phase]

    def given(name: str) -> bool:
        return any(layer.sets("batch", name) for layer in others)

    batch: dict[str, Any] = {"global_batch_size": recipe.global_batch_size}
    if given("micro_batch_size") and given("gradient_accumulation_steps"):
        batch = {}  # the global batch follows from these
    run = first.run
    return SettingsLayer(
        {
            "model": {"model": None if run.init_from is not None else DEFAULT_MODEL},
            "data": {"seq_length": recipe.seq_length, "masking": recipe.masking},
            "batch": batch,
            "optimizer": {
                "optimizer": recipe.optimizer,
                "lr": recipe.lr,
                "beta2": recipe.beta2,
                "schedule": recipe.schedule,
                "warmup_fraction": recipe.warmup_fraction,
                "steps": recipe.steps,
            },
            "run": {
                "output": f"runs/{_model_name(first)}-{_PHASE_NAMES[run.phase]}",
                "eval_at_start": run.init_from is not None,
            },
        }
    )


def _model_name(first: PretrainSettings) -> str:
    """The model's name in the default output folder."""
    source = first.run.init_from
    if first.model.model is not None or source is None:
        return first.model.model or DEFAULT_MODEL
    if first.run.phase != CONTINUE and (source / RUN_CHECKPOINTS).is_dir():
        return DEFAULT_MODEL
    if source.parent.name == RUN_CHECKPOINTS:  # one checkpoint of a run
        source = source.parent.parent
    return Path(source.absolute().name).stem if source.is_file() else source.absolute().name


def _check_run(settings: ResolvedSettings, given: Given) -> None:
    """Refuse settings that contradict each other.

    A run may be resumed by its own file, which names what it started from.
    """
    run, data, parallel = settings.run, settings.data, settings.parallel
    if given.flags.sets("run", "init_from") and run.resume not in ("never", "auto"):
        raise UserError(
            "--init-from starts a new run and --resume TAG continues an existing one; give one of them"
        )
    if run.keep_best is not None and run.eval_interval == 0:
        raise UserError(
            f"--keep-best {run.keep_best} needs evaluations during the run, and --eval-interval is 0: "
            "set it to a number of updates"
        )
    if str(run.keep_best).endswith("_nsp_accuracy") and data.sentence_task == "none":
        raise UserError(
            f"--keep-best {run.keep_best} needs pairs of sentences, which --sentence-task none leaves out: give another "
            "metric"
        )
    if run.phase == CONTINUE and run.init_from is None:
        raise UserError(
            "--phase continue continues a model: name it with --init-from (a run, a checkpoint, a Hugging "
            "Face folder, ...)"
        )
    if settings.ramps.batch_ramp or settings.ramps.length_ramp:
        course_of(settings)
    degree = parallel.tensor_parallel
    for length, flag in lengths_of(settings).items():
        if parallel.sequence_parallel and data.packing == "off" and length % degree:
            raise UserError(
                f"--sequence-parallel on splits a padded batch's tokens evenly, and {flag} {length} is "
                f"not divisible by --tensor-parallel {degree}: leave --packing on, or change one of them"
            )


def check_files(settings: ResolvedSettings) -> None:
    """Refuse files and folders that are not there, in a moment and before torch is imported.

    Raises:
        UserError: which flag names something that is missing, and what to do.
    """
    run, mixture = settings.run, mixture_of(settings)
    for corpus in mixture.corpora:
        if not is_foreign(corpus.path):
            read_manifest(corpus)
    if mixture.tokenizer is not None and not mixture.tokenizer.exists():
        raise UserError(f"--tokenizer {mixture.tokenizer}: no such file or folder")
    if (
        run.init_from is not None
        and settings.schedule.decay_from is None
        and not _has_checkpoint(settings)
        and not model_is_there(run.init_from)
    ):
        raise UserError(
            f"--init-from {run.init_from} does not exist; name a run, a checkpoint, a Hugging Face folder, or "
            "a checkpoint of another project"
        )
    groups = settings.optimizer.parameter_groups
    if groups is not None and not groups.is_file():
        raise UserError(f"--parameter-groups {groups}: no such file")


def _has_checkpoint(settings: ResolvedSettings) -> bool:
    """Whether the run resumes, so that what it started from is not needed any more."""
    return settings.run.resume != "never" and has_checkpoint(settings.run.output)


def read_manifest(corpus: NamedCorpus) -> Manifest:
    """The manifest of megabert's own shards.

    Raises:
        UserError: there is none, or it is damaged.
    """
    folder = corpus.path
    if not folder.is_dir():
        raise UserError(
            f"{corpus.flag} {folder}: no such folder; make shards with: python data_tools/shard_wiki.py "
            f"--input DUMP --tokenizer FILE --output {folder}"
        )
    return load_manifest(folder)


def _check_data(settings: ResolvedSettings, given: Given) -> None:
    """Refuse settings that have no effect on the shards of ``--data``.

    A ``--config`` may be another run's file, which names every setting. Of its settings only values
    other than the defaults are refused.
    """
    data, mixture = settings.data, mixture_of(settings)
    foreign = [corpus for corpus in mixture.corpora if is_foreign(corpus.path)]
    own = [corpus for corpus in mixture.corpora if corpus not in foreign]
    if not foreign:
        if data.tokenizer is not None and all(corpus.path.exists() for corpus in own):
            raise UserError(
                f"{own[0].flag} {own[0].path} holds no HDF5 or TFRecord shards of other projects, and "
                "--tokenizer is only for these: megabert's own shards contain their tokenizer"
            )
        return
    for flag, path in ((corpus.flag, corpus.path) for corpus in foreign):
        if path.is_file() and not is_shard_file(path):
            raise UserError(
                f"{flag} {path} is a file of another kind than shards; make shards of text with: python "
                "data_tools/shard_wiki.py --input FILE --tokenizer FILE --output DIR"
            )
    if settings.ramps.length_ramp:
        raise UserError(
            f"--length-ramp has no effect on {foreign[0].path}, whose samples are already cut and masked; leave it "
            "out, or convert the shards with data_tools/import_shards.py"
        )
    if own:
        return
    first = foreign[0]
    if mixture.tokenizer is None:
        raise UserError(
            f"{first.flag} {first.path}: these shards contain no vocabulary; give the tokenizer that made "
            "them, --tokenizer FILE"
        )
    defaults = {
        field.name: field.default for field in (*fields(DataSettings), *fields(MaskingSettings))
    }
    idle = [
        name
        for section, name in (*_ONLY_UNMASKED, ("data", "max_predictions"))
        if given.flags.sets(section, name)
        or (
            (section, name) in _ONLY_UNMASKED
            and given.file.sets(section, name)
            and getattr(getattr(settings, section), name) != defaults[name]
        )
    ]
    if idle:
        names = ", ".join("--" + name.replace("_", "-") for name in idle)
        has, it = ("has", "it") if len(idle) == 1 else ("have", "them")
        raise UserError(
            f"{names} {has} no effect on {first.path}, whose samples are already cut and masked; leave "
            f"{it} out, or convert the shards with data_tools/import_shards.py"
        )
