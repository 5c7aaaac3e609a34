"""The only module that reads a clock."""

import time

monotonic = time.monotonic
wall_ns = time.time_ns  # nanoseconds since 1970, for captures and logs only
