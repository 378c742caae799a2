"""The working folder of the end-to-end tests."""

from tests.e2e.conftest import bench, shared_between_tests

__all__ = ["bench", "shared_between_tests"]
