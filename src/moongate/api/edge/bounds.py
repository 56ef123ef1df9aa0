"""Query parameters as this family reads them: strict, bounded, and described for the OpenAPI document."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

MAX_OFFSET = 2**31 - 1

_WHOLE = re.compile(r"-?[0-9]{1,18}", re.ASCII)


def _whole(value: Any) -> Any:
    """Take "12", and not the "1_2", " 12 " or "12.0" that a lenient reader would."""
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


def _truth(value: Any) -> Any:
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Truth = Annotated[bool, BeforeValidator(_truth)]
