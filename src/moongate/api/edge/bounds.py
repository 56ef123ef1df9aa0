"""Query parameters as this family reads them: strict and bounded."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

REQUESTS_DEFAULT = 50
REQUESTS_MAX = 10_000
PAGE_DEFAULT = 50
PAGE_MAX = 1000
OFFSET_MAX = 2**31 - 1

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def _whole(value: Any) -> Any:
    # A lenient reader would also take "1_2", " 12 " and "12.0".
    if isinstance(value, str) and not _WHOLE.fullmatch(value):
        raise ValueError("must be a whole number")
    return value


def _truth(value: Any) -> Any:
    # A lenient reader would also take "yes", "on" and "1".
    if isinstance(value, str) and value not in ("true", "false"):
        raise ValueError("must be true or false")
    return value


# The bounds stand inside the strict reader, where the OpenAPI document finds them.
RequestLimit = Annotated[int, Field(ge=1, le=REQUESTS_MAX), BeforeValidator(_whole)]
PageLimit = Annotated[int, Field(ge=1, le=PAGE_MAX), BeforeValidator(_whole)]
Offset = Annotated[int, Field(ge=0, le=OFFSET_MAX), BeforeValidator(_whole)]
Truth = Annotated[bool, BeforeValidator(_truth)]
