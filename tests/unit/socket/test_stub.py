"""The stub of `swos_net.socket` says what is there on the Python that runs: no name more, none less."""

import ast
import inspect
import socket as stdlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from swos_net import socket as swos

# Not of the module's interface, but imported by its file or by Lib/socket.py
IMPORTED = {"Any", "IntEnum", "IntFlag"}
# Constants for which Python needs headers when it is built
NOT_IN_EVERY_BUILD = {
    "AF_BLUETOOTH", "BDADDR_ANY", "BDADDR_LOCAL", "BTPROTO_HCI", "BTPROTO_L2CAP", "BTPROTO_RFCOMM", "BTPROTO_SCO",
    "CAN_RAW_ERR_FILTER", "HCI_DATA_DIR", "HCI_FILTER", "HCI_TIME_STAMP", "SOL_HCI",
}  # fmt: skip


def declarations(body):
    """(name, node) of the public declarations of a stub, those under `if sys.version_info` for this version."""
    for node in body:
        match node:
            case ast.If():
                chosen = eval(compile(ast.Expression(node.test), "stub", "eval"), {"sys": sys})
                yield from declarations(node.body if chosen else node.orelse)
            case ast.ImportFrom():
                # only `import x as x` makes a name part of a stub
                yield from ((alias.name, node) for alias in node.names if alias.asname == alias.name)
            case ast.AnnAssign():
                yield node.target.id, node
            case ast.FunctionDef() | ast.ClassDef():
                yield node.name, node


@pytest.fixture(scope="module")
def stub():
    """Names and nodes."""
    found = list(declarations(ast.parse(Path(swos.__file__).with_suffix(".pyi").read_text()).body))
    names = [name for name, _ in found]
    assert len(names) == len(set(names))
    return dict(found)


@pytest.fixture(scope="module")
def offered():
    """The public names of the module."""
    swos.socket  # noqa: B018 -- the first name that is used brings all of them
    return {name for name in dir(swos) if not name.startswith("_") and not isinstance(getattr(swos, name), ModuleType)} - IMPORTED


def test_every_name_of_the_module_is_in_the_stub(stub, offered):
    assert offered - set(stub) == set()
    assert {"socket", "getaddrinfo", "AF_INET", "SocketIO"} <= offered


def test_every_name_of_the_stub_is_in_the_module(stub, offered):
    assert set(stub) - offered - NOT_IN_EVERY_BUILD == set()
    assert NOT_IN_EVERY_BUILD <= set(stub)


def test_what_is_taken_from_the_standard_library_is_there_too(stub):
    taken = [name for name, node in stub.items() if isinstance(node, ast.ImportFrom) and node.module == "socket"]
    assert [name for name in taken if not hasattr(stdlib, name) and name not in NOT_IN_EVERY_BUILD] == []
    # and is no class or function that gives back another socket than ours
    assert not {"socket", "SocketType", "create_connection", "create_server", "fromfd", "socketpair"} & set(taken)


def test_functions_take_what_the_stub_says(stub):
    functions = {name: node for name, node in stub.items() if isinstance(node, ast.FunctionDef)}
    assert set(functions) == {"create_connection", "create_server", "fromfd", "socketpair"}
    for name, node in functions.items():
        parameters = inspect.signature(getattr(swos, name)).parameters.values()
        positional = [(one.name, one.default is not one.empty) for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
        by_keyword = [(one.name, one.default is not one.empty) for one in parameters if one.kind is one.KEYWORD_ONLY]
        given = node.args
        required = len(given.args) - len(given.defaults)
        assert [(one.arg, place >= required) for place, one in enumerate(given.args)] == positional, name
        assert [(one.arg, value is not None) for one, value in zip(given.kwonlyargs, given.kw_defaults)] == by_keyword, name


def test_the_class_has_what_the_stub_says(stub):
    """Beside what it has from the standard library's, which the stub has as its base."""
    declared = {node.name for name in ("socket", "SocketType") for node in stub[name].body if isinstance(node, ast.FunctionDef)}
    assert [ast.unparse(base) for name in ("socket", "SocketType") for base in stub[name].bases] == ["SocketType", "_standard.socket"]
    assert issubclass(swos.socket, stdlib.socket) and issubclass(swos.SocketType, stdlib.socket)
    added = {name for name in set(dir(swos.socket)) - set(dir(stdlib.socket)) if not name.startswith("_")}
    assert added <= declared
    assert [name for name in declared if not hasattr(swos.socket, name)] == []
    assert set(dir(stdlib.socket)) - set(dir(swos.socket)) == set()


def test_type_checkers_are_told_of_the_types():
    assert (Path(swos.__file__).parents[1] / "py.typed").is_file()
