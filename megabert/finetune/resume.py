"""Which runs of an output folder are finished, and whether they have the wanted settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.files import remove_folder
from megabert.common.json_text import read_json_object
from megabert.common.log import get_logger
from megabert.common.names import RUN_CONFIG, RUN_RESULTS
from megabert.config import flags
from megabert.finetune.evaluation import shown
from megabert.finetune.inputs import check_free
from megabert.finetune.settings import DividedFinetuning, finetune_settings


def difference(settings: DividedFinetuning, config: Path) -> str | None:
    """The first setting that differs from ``config`` and changes results, in words.

    Settings whose ``resume`` is "free" change no result.
    """
    tree = finetune_settings()
    rules = flags.resume_rules(tree)
    made = flags.to_values(flags.build(tree, flags.read_yaml(config, tree)))
    for section, values in flags.to_values(settings).items():
        for name, value in values.items():
            if rules[section, name] != "free" and made[section][name] != value:
                return f"{section}.{name} = {made[section][name]!r}, not {value!r}"
    return None


def is_this_run(folder: Path, settings: DividedFinetuning) -> bool:
    """Whether there is a run of these settings in ``folder``, finished or not.

    Raises:
        UserError: the folder holds something else.
    """
    config = folder / RUN_CONFIG
    if not config.is_file():
        check_free(folder)
        return False
    other = difference(settings, config)
    if other is not None:
        raise UserError(f"--resume auto: {folder} was run with {other}; choose another --output")
    return True


def finished(folder: Path, settings: DividedFinetuning) -> dict[str, Any] | None:
    """The results of the finished run in ``folder``; an unfinished one of these settings is removed.

    Raises:
        UserError: the folder holds something else.
    """
    if not is_this_run(folder, settings):
        return None
    try:
        results = read_json_object(folder / RUN_RESULTS, of_data=True)
    except FileNotFoundError:
        get_logger().info("%s is unfinished: it is run again", folder)
        remove_folder(folder)
        return None
    except UserError as error:
        raise UserError(f"{error}; remove {folder}") from error
    if not isinstance(results.get("scores"), dict):
        raise UserError(
            f"{folder / RUN_RESULTS} does not hold the results of a run; remove {folder}"
        )
    get_logger().info(
        "%s is finished: nothing is trained or scored again; its results are used (%s). To run it again, "
        "choose another --output or remove the folder",
        folder,
        shown(results["scores"]) or "no scores",
    )
    return results
