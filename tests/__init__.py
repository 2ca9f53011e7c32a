"""All tests, and what they share."""

import pytest

# An assertion there that fails tells its values, as one in a test does.
pytest.register_assert_rewrite("tests.support")
