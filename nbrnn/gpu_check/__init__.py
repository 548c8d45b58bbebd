"""``nbrnn gpu-check``: whether this machine's GPU computes what the CPU does, and how fast.

Kernels are tested in an emulator, on machines that have no GPU: this is how they are tried on a real one.
"""
