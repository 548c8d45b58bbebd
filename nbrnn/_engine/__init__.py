"""One call: sequences, directions, layers, lengths and tapes, on top of a backend."""
