"""What runs the CUDA kernels: Numba's packages, the device, its memory, graphs, and the simulator.

Everything else in ``kernels/cuda`` imports it; it imports none of it.
"""
