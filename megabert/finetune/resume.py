"""Which runs of an output folder are finished, and whether they have the wanted settings."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from megabert.common.errors import UserError
from megabert.common.json_text import read_json
from megabert.common.log import get_logger
from megabert.common.names import RUN_CONFIG, RUN_RESULTS
from megabert.common.processes.locks import FolderLock, is_held, is_lock_name, lock_inside
from megabert.common.storage import named_storage_errors, storage_line
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
    made = flags.to_values(flags.build(tree, flags.read_yaml(config, tree)), absolute=True)
    for section, values in flags.to_values(settings, absolute=True).items():
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
    with named_storage_errors(folder, "cannot be read"):
        found = config.is_file()
    if not found:
        check_free(folder)
        get_logger().info(
            "--resume auto starts from the beginning: there is no run in %s yet", folder
        )
        return False
    other = difference(settings, config)
    if other is not None:
        raise UserError(f"--resume auto: {folder} was run with {other}; choose another --output")
    return True


def _empty(folder: Path) -> None:
    """Remove an unfinished run; the file that says which run it is goes last, the lock stays.

    Raises:
        UserError: another job writes there.
    """
    file = lock_inside(folder)
    with contextlib.nullcontext() if is_held(file) else FolderLock(file, folder):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != RUN_CONFIG and not is_lock_name(path.name):
                path.unlink()
        (folder / RUN_CONFIG).unlink()


def finished(folder: Path, settings: DividedFinetuning) -> dict[str, Any] | None:
    """The results of the finished run in ``folder``; an unfinished one of these settings is removed.

    Raises:
        UserError: the folder holds something else.
    """
    if not is_this_run(folder, settings):
        return None
    try:
        results: Any = read_json(folder / RUN_RESULTS, of_data=True)
    except FileNotFoundError:
        get_logger().info("--resume auto: %s is unfinished: it is run again", folder)
        with named_storage_errors(folder, "cannot be emptied"):
            _empty(folder)
        return None
    except OSError as error:
        raise UserError(storage_line(error, folder, "cannot be read")) from error
    except UserError as error:
        raise UserError(f"{error}; choose another --output") from error
    if not isinstance(results, dict) or not isinstance(results.get("scores"), dict):
        raise UserError(
            f"{folder / RUN_RESULTS} does not hold the results of a run; choose another --output"
        )
    get_logger().info(
        "%s is finished: nothing is trained or scored again; its results are used (%s). To run it again, "
        "choose another --output or remove the folder",
        folder,
        shown(results["scores"]) or "no scores",
    )
    return dict(results)
