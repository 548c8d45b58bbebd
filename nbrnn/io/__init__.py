"""Files: save and load, and what other libraries left."""
