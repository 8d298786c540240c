"""Files: what is in them, how they are written whole or not at all, and how they are read as data and nothing else.

Above layers, losses, metrics and optimisers, whose configurations they hold; callbacks, models and ``saving``, which
alone makes a model out of what is read, import it.
"""
