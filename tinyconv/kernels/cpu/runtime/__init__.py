"""What runs the CPU kernels: compiling and caching, threads, workers, tasks, cutting work, views of memory.

Everything else in ``kernels/cpu`` imports it; it imports none of it.
"""
