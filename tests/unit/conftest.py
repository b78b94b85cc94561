"""What all unit tests share."""

import pytest

from dpo4rec_utils import store


@pytest.fixture(scope="session", autouse=True)
def memory_that_is_not_given_back():
    """Giving freed memory back takes half a second in a process that has imported everything, twice a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "release_memory", lambda: None)
        yield
