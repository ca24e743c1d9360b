"""Packages of the extra ``export``, imported only by what needs them."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from megabert.common.errors import UserError


def optional_package(name: str, purpose: str) -> Any:
    """A package of the extra ``export``, as ``onnxruntime``.

    Raises:
        UserError: it is not installed.
    """
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        missing = error.name or name
        raise UserError(
            f"{purpose} needs {missing}, which is not installed: pip install 'megabert[export]'"
        ) from error
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    return found
