import os

import hypothesis
import pytest

from tests import side_by_side

# Compiling a kernel takes seconds the first time: no deadlines.  The plain run is the same every time; the long one
# looks for something new.
hypothesis.settings.register_profile("plain", deadline=None, max_examples=60, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "plain"))


@pytest.fixture
def machine():
    """An emulated device, which ``to("cuda")`` means."""
    from nbrnn._cuda import current
    from tests.emulated import Emulated

    machine = Emulated()
    with current.use(machine):
        yield machine


def pytest_collection_finish(session):
    side_by_side.share(session)
