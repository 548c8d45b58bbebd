"""``nbrnn bench``: what this machine can do, and how fast nbrnn and other libraries are on it.

From the ground up: ``grid`` says what is measured, ``problem`` makes a layer and arrays of it, ``timing`` times
contenders in turn; ``peers`` knows the other libraries, one module each; ``compare``, ``steps`` and ``machine`` are
the three kinds of measurement, ``report`` prints them, and ``command`` is the command line.
"""
