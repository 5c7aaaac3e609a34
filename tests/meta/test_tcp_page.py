"""The page that leads from RFCs to code and tests names only what exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/tcp.md").read_text()
NAMES = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|( § |---| RFC | MUST )", line)]


def path_of(file):
    below_tests = ROOT / "tests" / file
    return below_tests if below_tests.is_file() else ROOT / "src/swos_net" / file


@cache
def defined_in(path):
    """Names of functions and classes, methods with their class before them."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names.add(node.name)
            names |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef))
            }
    return names


@pytest.mark.parametrize(("file", "name"), NAMES)
def test_each_name_exists(file, name):
    assert name in defined_in(path_of(file)), f"{name} is not defined in {file}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[:60])
def test_each_row_leads_to_code_and_to_a_test(row):
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    code, test = cells[-2:]
    assert re.fullmatch(r"`[\w/]+\.py:[\w.]+`", code) and re.fullmatch(r"`[\w/]+\.py:[\w.]+`", test)
    assert path_of(code.strip("`").split(":")[0]).is_relative_to(ROOT / "src")
    assert path_of(test.strip("`").split(":")[0]).is_relative_to(ROOT / "tests")
    assert test.strip("`").split(":")[1].rpartition(".")[2].startswith("test_")


def test_the_page_covers_its_rfcs():
    for rfc in (
        9293, 1122, 2018, 2883, 6675, 8985, 6937, 9937, 5682, 3522, 3708, 4015, 9438, 9406, 5681, 3042, 3168, 8257, 7323,
        5961, 4821, 4987, 5482, 6298, 6191, 6582, 6928, 3465, 7661, 6093, 6528, 6056, 6691, 1191, 8201, 5927, 1337, 5461,
    ):  # fmt: skip
        assert re.search(rf"\b{rfc}\b", PAGE), f"RFC {rfc}"


def test_every_must_has_a_row_or_a_reason():
    section = PAGE[PAGE.index("### The MUSTs") : PAGE.index("## RFC 1122")]
    mentioned = set()
    for cell in re.findall(r"^\| ([\d, R()]+) \|", section, re.MULTILINE):
        mentioned |= {int(number) for number in re.findall(r"\b\d+\b", re.sub(r"\(R2\)", "", cell))}
    left_out = section[section.index("*Not done.*") :]
    for first, last in re.findall(r"(?:MUST-)?(\d+) to (\d+)", left_out):
        mentioned |= set(range(int(first), int(last) + 1))
    mentioned |= {int(number) for number in re.findall(r"\b(\d+)\b", left_out.split("RFC")[0])}
    assert mentioned >= set(range(1, 70)), sorted(set(range(1, 70)) - mentioned)
