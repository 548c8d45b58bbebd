"""Benchmarks of nbrnn: run with ``asv run`` from the folder above (see CONTRIBUTING)."""
