"""Compiled loops beside the recurrent ones: losses, optimisers, decoders.  Each file imports no more than the core."""
