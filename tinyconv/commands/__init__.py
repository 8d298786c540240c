"""The commands of the command line, a file each: ``add`` declares its options, ``run`` does it and returns its result.

They may import the whole package; only ``__main__`` imports them.
"""
