"""The border to the user: checks of what he hands over, messages that tell him what is wrong, tables he reads.

The lowest room of the house: everything imports it, and it imports nothing else of tinyconv.
"""

from tinyconv.checking.arguments import (
    LARGEST,
    Shape,
    affordable,
    boolean,
    choice,
    count_of,
    finite_array,
    integer,
    invalid,
    is_stream,
    name,
    number,
    numbers,
    optional_name,
    seed,
    several,
    shape,
    unknown,
)

__all__ = [
    "LARGEST",
    "Shape",
    "affordable",
    "boolean",
    "choice",
    "count_of",
    "finite_array",
    "integer",
    "invalid",
    "is_stream",
    "name",
    "number",
    "numbers",
    "optional_name",
    "seed",
    "several",
    "shape",
    "unknown",
]
