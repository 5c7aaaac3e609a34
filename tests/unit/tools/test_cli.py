"""Options that all programs share, and their log."""

import io

import pytest

from swos_net.address import parse_address
from swos_net.capability import AmplificationError, _root
from swos_net.device.pair import make_pair
from swos_net.runtime.open_stack import open_stack
from swos_tools.cli import ArgumentParser, LineLog, add_stack_options, number, reason, stack_settings, tool_capability


def parse(*options):
    parser = ArgumentParser(prog="tool")
    add_stack_options(parser)
    return parser.parse_args(["--device", "tap:t0", *options])


def test_only_what_was_given_reaches_the_library():
    assert stack_settings(parse()) == {}
    assert stack_settings(parse("--no-dhcp-server")) == {"dhcp_server": False}


def test_every_option():
    arguments = parse("--address", "10.0.2.2/24", "--address", "fd00::1/64", "--gateway", "10.0.2.1", "--dhcp",
                      "--dhcp-server", "--ra", "fd00::/64", "--mac", "52:54:00:12:34:56", "--mtu", "9000", "--pcap",
                      "file.pcap")
    assert arguments.device == "tap:t0"
    assert stack_settings(arguments) == {
        "addresses": ["10.0.2.2/24", "fd00::1/64"], "gateways": ["10.0.2.1"], "dhcp": True, "dhcp_server": True,
        "ra": "fd00::/64", "mac": "52:54:00:12:34:56", "mtu": 9000, "pcap": "file.pcap"}


@pytest.mark.parametrize("options", [
    ("--address", "10.0.2.2/33"), ("--address", "here"), ("--gateway", "10.0.2"), ("--ra", "10.0.0.0/8"),
    ("--ra", "fd00::1/64"), ("--mac", "52:54"), ("--mac", "x"), ("--mtu", "67"), ("--mtu", "65536"), ("--mtu", "-1"),
    ("--allow", "everything"), ("--allow", "tcp:fly:*:*"), ("--deny", "!tcp:connect:*:*"), ("--deny", "tcp:connect:here:*"),
    ("--name-server", "dns.test"), ("--name-server", "10.0.2.3/32"),
])
def test_wrong_values_are_one_line(options, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*options)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"tool: argument {options[0]}: ")


def test_authority():
    root = _root()
    needed = ["tcp:connect:*:80"]
    assert [str(rule) for rule in tool_capability(root, parse(), needed, "tool").rules] == needed
    given = parse("--allow", "tcp:connect:10.0.0.0/8:80", "--allow", "udp:send:*:53")
    capability = tool_capability(root, given, needed, "tool")
    assert [str(rule) for rule in capability.rules] == ["tcp:connect:10.0.0.0/8:80", "udp:send:*:53"]
    assert capability.label == "tool"
    with pytest.raises(AmplificationError):
        tool_capability(capability, parse(), needed, "tool")


def test_denials_hold_with_and_without_what_is_allowed():
    address, other = parse_address("10.0.0.5"), parse_address("10.0.0.6")
    for options in ((), ("--allow", "tcp:connect:*:1-1024"), ("--allow", "tcp:connect:10.0.0.5:80")):
        arguments = parse(*options, "--deny", "*:*:10.0.0.5:*", "--deny", "udp:send:*:53")
        capability = tool_capability(_root(), arguments, ["tcp:connect:*:80"], "tool")
        assert [str(rule) for rule in capability.denials] == ["*:*:10.0.0.5/32:*", "udp:send:*:53"]
        assert not capability.allows("connect", "tcp", address, 80)
        assert capability.allows("connect", "tcp", other, 80) == ("10.0.0.5:80" not in "".join(options))
    assert stack_settings(parse("--deny", "udp:*:*:*", "--allow", "tcp:connect:*:80")) == {}, "not the stack's business"


def test_name_servers_reach_the_stack():
    assert stack_settings(parse("--name-server", "10.0.2.3", "--name-server", "fd00::3")) == {"name_servers": ["10.0.2.3", "fd00::3"]}
    near, _ = make_pair()
    poller = open_stack(near, **stack_settings(parse("--name-server", "10.0.2.3")))
    assert poller.stack.names.servers() == ((parse_address("10.0.2.3"), 53),)


@pytest.mark.parametrize("text", ["-1", "1.0", "", "\u0661", "9" * 30, "11", "0x1", "1_0"])
def test_no_number(text):
    with pytest.raises(Exception, match="not a number within 0..10"):
        number(0, 10)(text)


def test_numbers():
    assert [number(0, 10)(text) for text in ("0", "10", "007")] == [0, 10, 7]


def test_reason():
    assert reason(OSError(2, "not there")) == "not there"
    assert reason(ValueError("wrong")) == "wrong"
    assert reason(KeyError()) == "KeyError"


class Stream(io.StringIO):
    """Counts flushes; raises once `error` is set."""

    error = None
    flushes = 0

    def write(self, text):
        if self.error is not None:
            raise self.error
        return super().write(text)

    def flush(self):
        self.flushes += 1


async def test_a_burst_is_flushed_once(asyncio_turn):
    stream = Stream()
    log = LineLog(stream)
    log.write("one")
    log.write("two")
    assert stream.getvalue() == ""
    await asyncio_turn()
    assert (stream.getvalue(), stream.flushes) == ("one\ntwo\n", 1)
    log.write("three")
    await asyncio_turn()
    assert (stream.getvalue(), stream.flushes) == ("one\ntwo\nthree\n", 2)
    log.flush()
    assert stream.flushes == 2


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
async def test_a_reader_that_went_away(error, asyncio_turn):
    stream = Stream()
    stream.error = error
    log = LineLog(stream)
    log.write("one")
    await asyncio_turn()
    stream.error = None
    log.write("two")
    await asyncio_turn()
    assert stream.getvalue() == ""


@pytest.fixture
def asyncio_turn():
    import asyncio

    async def turn():
        for _ in range(2):
            await asyncio.sleep(0)
    return turn
