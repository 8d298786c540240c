"""One step of training as an object: every array of it, where each of its numbers comes from, and whether it is right.

``model.trace(x, y)`` gives a :class:`~tinyconv.trace.trace.Trace`. Above training, below the models.
"""
