"""Gradient mistakes of the kinds that people make, to be switched on: the break-it lab's and the explorer's.

:data:`MISTAKES` has them by name, each a line of the reference and what stands in its place; ``with made(mistake):``
makes one, for models that are compiled and run in the block. :func:`checked` tells which gradients the check calls
wrong then, :func:`network` builds the network that it looks at, and :func:`applies` tells whether a mistake can show
in a model of one's own.

>>> from tinyconv.inspect.mistakes import MISTAKES, made
>>> print(MISTAKES["filters-not-turned"].diff)
-         _scatter(dx, dout, w, strides, padding, dilation)
+         _scatter(dx, dout, w[::-1, ::-1], strides, padding, dilation)
"""

from tinyconv.inspect.mistakes.networks import NETWORKS, applies, checked, network, targets
from tinyconv.inspect.mistakes.patch import Mistake, made
from tinyconv.inspect.mistakes.table import MISTAKES

__all__ = ["MISTAKES", "NETWORKS", "Mistake", "applies", "checked", "made", "network", "targets"]
