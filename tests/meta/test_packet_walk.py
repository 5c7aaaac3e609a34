"""The page that leads a reader through the code names only what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/packet-walk.md").read_text()
STEPS = re.findall(r"^\| (\d+) \| `([^`]+)` \| `([^`]+)` \|", PAGE, re.MULTILINE)


def test_the_page_has_its_steps():
    assert [int(number) for number, _, _ in STEPS] == list(range(1, 20))


@pytest.mark.parametrize(("file", "name"), [(file, name) for _, file, name in STEPS])
def test_each_step_names_something_that_exists(file, name):
    text = (ROOT / file).read_text()
    if file.endswith(".c"):
        assert re.search(rf"^[a-z].*\b{name}\(", text, re.MULTILINE), f"{name} is not defined in {file}"
        return
    owner, _, function = name.rpartition(".")
    assert re.search(rf"^\s*(async )?def {function}\(", text, re.MULTILINE), f"{function} is not defined in {file}"
    assert not owner or f"class {owner}" in text


def test_paths_elsewhere_on_the_page_exist():
    for path in re.findall(r"`((?:vhost|src)/[\w/]+\.\w+)`", PAGE):
        assert (ROOT / path).is_file(), path
