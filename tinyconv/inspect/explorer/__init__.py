"""The explorer: a page on this machine in which one looks inside one's own model, number by number.

:func:`explore` starts it; ``server`` guards it; ``look`` and ``samples`` answer what the page asks; ``page`` is that.
``onefile`` writes the page as one file, in which ``engine`` answers instead.
"""

from tinyconv.inspect.explorer.app import Explorer, explore

__all__ = ["Explorer", "explore"]
