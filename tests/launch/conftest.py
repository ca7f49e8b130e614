"""The home fixture of the tracking tests."""

from tests.tracking.conftest import home, store_template

__all__ = ["home", "store_template"]
