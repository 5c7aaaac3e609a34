"""Imports point downwards only: the contract of setup.cfg, checked with the tests."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_imports_point_downwards(tmp_path):
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    assert command, "import-linter is missing: pip install .[test]"
    result = subprocess.run([command, "--config", str(ROOT / "setup.cfg"), "--cache-dir", str(tmp_path)], cwd=ROOT, capture_output=True,
                            text=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
