"""The CPU backend: vector code emitted for each cell, and the loops around it."""
