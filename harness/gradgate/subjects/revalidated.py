"""A section of a configuration whose values were changed, put through the checks that it has of its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any


def revalidated(before: Any, changed: Any) -> Any:
    """The changed section as its own class makes it of its values: a pydantic model is validated, a dataclass goes
    through `__post_init__`, and what has a `validate()` without arguments is asked.

    A section that its class would not make of its unchanged values either (a `__post_init__` that turns dictionaries
    into sections, a file that is looked for) is left as it is.

    Args:
        before: the section with the values that it had.
        changed: a copy in which some are others.

    Raises:
        Exception: what the section's class raises at the changed values.
    """
    try:
        holds = _plain(_made_anew(copy.deepcopy(before))) == _plain(before)
    except Exception:  # whatever the class raises: it is no check of these values
        return changed
    return _made_anew(changed) if holds is True else changed


def _made_anew(section: Any) -> Any:
    if _is_model(section):
        return _validated(section)
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        section = dataclasses.replace(section)
    check = getattr(section, "validate", None)
    if inspect.ismethod(check) and not inspect.signature(check).parameters:
        check()
    return section


def _is_model(section: Any) -> bool:
    return hasattr(type(section), "model_validate") and hasattr(type(section), "model_fields")


def _validated(section: Any) -> Any:
    """A pydantic model of the same values; which of them were given, and what is private, stays as it was."""
    fields = type(section).model_fields
    given = {_alias(name, fields[name]): getattr(section, name) for name in fields}
    made = type(section).model_validate({**given, **(section.model_extra or {})})
    for name in ("__pydantic_fields_set__", "__pydantic_private__"):
        object.__setattr__(made, name, getattr(section, name))
    return made


def _alias(name: str, field: Any) -> str:
    alias = field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name


def _plain(section: Any) -> Any:
    return dict(section) if isinstance(section, Mapping) else vars(section)
