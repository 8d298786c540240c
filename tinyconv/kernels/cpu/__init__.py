"""The CPU kernel set, in Numba: the reference's functions on vector registers and all cores."""
