"""The only module that reads a clock."""

import time

monotonic = time.monotonic
