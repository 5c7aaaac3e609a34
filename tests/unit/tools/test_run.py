"""swos-run: programs that know nothing of it, each in a process of its own."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

import swos_tools
from swos_tools.run import make_parser

SOURCES = os.path.dirname(os.path.dirname(os.path.abspath(swos_tools.__file__)))

# a server and a client over the stack's loopback, in two threads of the program
ECHO = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    with listener.accept()[0] as connection:
        connection.sendall(connection.recv(100).upper())
thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(listener.getsockname()) as sock:
    sock.sendall(b"hello")
    print(sock.recv(100), type(sock).__module__)
thread.join()
listener.close()
"""


@pytest.fixture
def swos_run(tmp_path):
    """`swos_run(*words)` starts the program on a link whose other end is `swos_run(..., far=True)`."""
    started = []

    def start(*words, far=False):
        kind = "stream-connect" if far else "stream"
        options = ["--dhcp"] if far == "dhcp" else ["--address", "10.0.0.2/24" if far else "10.0.0.1/24"]
        command = [sys.executable, "-m", "swos_tools.run", "--device", f"{kind}:{tmp_path / 'link'}", "--no-dhcp-server", *options]
        process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
                                   env={**os.environ, "PYTHONPATH": SOURCES})
        started.append(process)
        deadline = time.monotonic() + 20
        while not far and not os.path.exists(tmp_path / "link") and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


@pytest.fixture
def result(swos_run):
    """(exit status, output, errors) of a program that runs to its end."""

    def run(*words, far=False):
        process = swos_run(*words, far=far)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    return run


def test_sockets_threads_and_arguments(result, tmp_path):
    (tmp_path / "beside.py").write_text("value = 5")
    (tmp_path / "program.py").write_text(ECHO + "import sys, beside\nprint(sys.argv, __name__, beside.value)\n")
    assert result("program.py", "--allow", "-m") == (
        0, f"b'HELLO' swos_net.socket\n{['program.py', '--allow', '-m']} __main__ 5\n", "")  # fmt: skip


def test_modules_and_texts(result, tmp_path):
    (tmp_path / "module.py").write_text("import sys; print(sys.argv[1:], __name__)")
    assert result("-m", "module", "--address", "x") == (0, "['--address', 'x'] __main__\n", "")
    assert result("-c", "import sys; print(sys.argv); sys.exit(7)", "-m") == (7, "['-c', '-m']\n", "")


def test_event_loops(result):
    code = """
import asyncio
async def main():
    async def serve(reader, writer):
        writer.write((await reader.read(100)).upper())
        writer.close()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        print(await reader.read(), type(asyncio.get_running_loop()).__mro__[-5].__name__)
        writer.close()
    print(await asyncio.to_thread(lambda: __import__("socket").socket().close()))
    return isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)
asyncio.run(main())
loop = asyncio.SelectorEventLoop()
print(loop.run_until_complete(main()))
loop.close()
"""
    status, output, errors = result("-c", code)
    assert (status, errors) == (0, "") and output.count("b'HELLO'") == 2 and output.endswith("None\nTrue\n")


def test_the_ways_to_the_kernels_network_are_closed(result):
    code = """
import os, socket, _socket, _thread, threading, multiprocessing, contextvars
def attempt(name, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        print(name, error.errno, error)
attempt("low", _socket.socket)
attempt("fork", os.fork)
process = multiprocessing.get_context("fork").Process(target=print)
attempt("multiprocessing", process.start)
attempt("bare", contextvars.Context().run, socket.socket)
name = contextvars.Context().run(socket.gethostname)  # the machine's: if all fails, nothing changes
attempt("rename", socket.sethostname, name)
attempt("bare-rename", contextvars.Context().run, _socket.sethostname, name)
done = threading.Event()
def bare():
    attempt("thread", socket.socket().close)
    done.set()
_thread.start_new_thread(bare, ())
done.wait()
socket.socketpair()[0].close()
"""
    status, output, errors = result("-c", code)
    assert status == 0
    lines = {line.split()[0]: line for line in output.splitlines()}
    assert set(lines) == {"low", "fork", "multiprocessing", "bare", "rename", "bare-rename"}, "a thread of Python's has the capability"
    assert lines["low"].startswith("low 13") and lines["bare"].startswith("bare 13") and "swos-run" in lines["bare"]
    assert lines["rename"].startswith("rename 1 ") and lines["bare-rename"].startswith("bare-rename 1 ")
    assert "without a network" in lines["fork"] and "without a network" in lines["multiprocessing"]


def test_authority_is_what_was_allowed(result):
    code = "import socket; socket.create_connection(('10.0.0.9', 81), 1)"
    status, _, errors = result("--allow", "tcp:connect:*:80", "-c", code)
    assert status == 1 and "CapabilityError" in errors and "the rule tcp:connect:10.0.0.9/32:81 would allow it" in errors
    status, _, errors = result("--deny", "*:*:10.0.0.9:*", "-c", code)
    assert status == 1 and "denies *:*:10.0.0.9/32:*" in errors


def test_an_error_is_reported_as_the_programs(result, tmp_path):
    (tmp_path / "wrong.py").write_text("def f():\n    raise ValueError('wrong')\nf()\n")
    status, output, errors = result("wrong.py")
    assert (status, output) == (1, "")
    assert errors.startswith("Traceback") and errors.endswith("ValueError: wrong\n")
    assert "runpy" not in errors and "run.py" not in errors and errors.count("File") == 2


def test_threads_outlive_the_main_one(result):
    # both are started before it ends: Python 3.12.1 refuses that later
    begun, start, rest = ECHO.partition("thread.start()\n")
    code = begun + start + "def late():\n    threading.main_thread().join()\n"
    code += "".join(f"    {line}\n" for line in rest.splitlines()) + "threading.Thread(target=late).start()\n"
    assert result("-c", code) == (0, "b'HELLO' swos_net.socket\n", "")


def test_last_words_arrive(swos_run, result):
    """A program ends at once after sending, and so ends its stack: not before what it sent has arrived."""
    serve = """
import socket
with socket.create_server(("", 80)) as listener, listener.accept()[0] as connection:
    print("accepted", flush=True)
    total = 0
    while data := connection.recv(1 << 16):
        total += len(data)
    print(total)
"""
    server = swos_run("-c", serve)
    send = """
import socket, time
while True:
    try:
        sock = socket.create_connection(("10.0.0.1", 80), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.05)
sock.sendall(bytes(300000))
sock.close()
"""
    assert result("-c", send, far=True) == (0, "", "")
    output, errors = server.communicate(timeout=60)
    assert (output, errors) == ("accepted\n300000\n", "")


def test_a_lease_is_there_when_the_program_begins(swos_run, result):
    swos_run("--dhcp-server", "-c", "import time; time.sleep(60)")
    code = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('10.0.0.1', 9)); print(s.getsockname()[0]); s.close()"
    assert result("-c", code, far="dhcp") == (0, "10.0.0.15\n", "")


def test_modules_with_sockets_of_their_own_are_named(result, tmp_path):
    (tmp_path / "uvloop.py").write_text("")
    status, _, errors = result("-c", "import uvloop")
    assert status == 0 and errors == "swos-run: uvloop brings sockets of its own (libuv): these are the kernel's\n"


def test_what_cannot_begin(result, tmp_path):
    assert result() == (2, "", "swos-run: say what to run: a script, -m MODULE or -c CODE (--help lists the options)\n")
    (tmp_path / "link").mkdir()
    status, output, errors = result("-c", "print(1)")
    assert (status, output) == (1, "") and errors.startswith("swos-run: ") and errors.count("\n") == 1


def test_help_says_what_stays_the_kernels(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    output = capsys.readouterr().out
    assert "pycares" in output and "psycopg" in output and "fork()" in output
