"""python run.py FOLDER ARGUMENTS...: pytest in a suite's folder, which does not come before this one on the module path."""

import os
import sys

import pytest

os.chdir(sys.argv[1])
sys.exit(pytest.main(["-p", "swos_loops", "-p", "no:cacheprovider", *sys.argv[2:]]))
