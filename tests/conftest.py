import os

import hypothesis

# Compiling a kernel takes seconds the first time: no deadlines.  The plain run is the same every time; the long one
# looks for something new.
hypothesis.settings.register_profile("plain", deadline=None, max_examples=60, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plain"))
