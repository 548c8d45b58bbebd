import os

import hypothesis

# Compiling a kernel takes seconds the first time: no deadlines.
hypothesis.settings.register_profile("plain", deadline=None, max_examples=60, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plain"))
