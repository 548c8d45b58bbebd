"""The CUDA back end: kernels for numba-cuda, and what prepares their arguments.

Nothing here imports numba.cuda before a kernel is made, so that all modules load where it isn't installed.
"""
