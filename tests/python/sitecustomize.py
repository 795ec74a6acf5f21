"""What every Python process that a test starts begins with: see tests/conftest.py."""

import gc

gc.set_threshold(200_000, 50, 100)
