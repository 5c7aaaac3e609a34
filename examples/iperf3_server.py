"""A server that speaks iperf3's protocol (TCP tests, both directions) on the sockets of a stack.

    python examples/iperf3_server.py --device vhost-user:vm.sock --address 10.0.2.2/24

The control connection carries one byte per state and JSON with a 32-bit length; every data connection begins with the
37-byte cookie of its test.  UDP tests are refused.
"""

import argparse
import asyncio
import json
import resource
import time

import swos_net.asyncio

COOKIE_BYTES = 37
TEST_START, TEST_RUNNING, TEST_END, PARAM_EXCHANGE, CREATE_STREAMS = 1, 2, 4, 9, 10
EXCHANGE_RESULTS, DISPLAY_RESULTS, IPERF_DONE, ACCESS_DENIED = 13, 14, 16, 255
JSON_BYTES_MAX = 1 << 16


class DataStream(asyncio.BufferedProtocol):
    """One data connection: finds its test by the cookie, then discards or sends."""

    def __init__(self, tests: dict[bytes, "Test"]):
        self._tests = tests
        self._buffer = memoryview(bytearray(1 << 18))
        self._cookie = b""
        self._payload = bytes(1 << 19)
        self._sending = False
        self.transport: asyncio.Transport | None = None
        self.bytes = 0
        self.test: Test | None = None

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        return self._buffer

    def buffer_updated(self, count):
        if self.test is not None:
            self.bytes += count
            return
        self._cookie += bytes(self._buffer[:count])
        if len(self._cookie) < COOKIE_BYTES:
            return
        cookie = self._cookie[:COOKIE_BYTES]
        test = self._tests.get(cookie)
        if test is None:
            # not a data connection: the first one of a test carries its control messages
            control = Control(self._tests, cookie)
            control.connection_made(self.transport)
            self.transport.set_protocol(control)
            if len(self._cookie) > COOKIE_BYTES:
                control.data_received(self._cookie[COOKIE_BYTES:])
            return
        self.test = test
        self.bytes = len(self._cookie) - COOKIE_BYTES
        test.stream_ready(self)

    def start_sending(self):
        self._sending = True
        self.resume_writing()

    def pause_writing(self):
        self._sending = False

    def resume_writing(self):
        self._sending = True
        while self._sending and self.test is not None and self.test.running:
            self.transport.write(self._payload)
            self.bytes += len(self._payload)

    def eof_received(self):
        return False

    def connection_lost(self, error):
        self._sending = False


class Test:
    """What one control connection asked for."""

    def __init__(self, control: "Control", parameters: dict):
        self.control = control
        self.reverse = bool(parameters.get("reverse"))
        self.expected = int(parameters.get("parallel", 1))
        self.streams: list[DataStream] = []
        self.running = False
        self.started = 0.0
        self.seconds = 0.0

    def stream_ready(self, stream: DataStream):
        self.streams.append(stream)
        if len(self.streams) == self.expected:
            self.control.send_state(TEST_START)
            self.control.send_state(TEST_RUNNING)
            self.running = True
            self.started = time.monotonic()
            if self.reverse:
                for each in self.streams:
                    each.start_sending()

    def finish(self):
        self.running = False
        self.seconds = time.monotonic() - self.started

    def results(self) -> dict:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        streams = []
        for index, stream in enumerate(self.streams):
            # iperf3 numbers its streams 1, 3, 4, 5 ...
            sent = stream.bytes - (stream.transport.get_write_buffer_size() if self.reverse else 0)
            streams.append({"id": index + 1 + (index > 0), "bytes": sent, "retransmits": -1, "jitter": 0, "errors": 0,
                            "packets": 0, "start_time": 0, "end_time": self.seconds})  # fmt: skip
        return {"cpu_util_total": 0, "cpu_util_user": usage.ru_utime, "cpu_util_system": usage.ru_stime,
                "sender_has_retransmits": -1, "streams": streams}  # fmt: skip


class Control(asyncio.Protocol):
    """The control connection of one test."""

    def __init__(self, tests: dict[bytes, Test], cookie: bytes):
        self._tests = tests
        self._cookie = cookie
        self._received = b""
        self._waiting_for = PARAM_EXCHANGE
        self.test: Test | None = None

    def connection_made(self, transport):
        self.transport = transport
        self.send_state(PARAM_EXCHANGE)

    def send_state(self, state: int):
        self.transport.write(bytes((state,)))

    def _take_json(self) -> dict | None:
        if len(self._received) < 4:
            return None
        length = int.from_bytes(self._received[:4], "big")
        if length > JSON_BYTES_MAX:
            raise ValueError(f"a JSON message of {length} bytes")
        if len(self._received) < 4 + length:
            return None
        body, self._received = self._received[4 : 4 + length], self._received[4 + length :]
        return json.loads(body)

    def data_received(self, data):
        self._received += data
        try:
            while self._received and self._step():
                pass
        except (ValueError, AttributeError) as error:
            print(f"iperf3: bad message from the client: {error}", flush=True)
            self.transport.abort()

    def _step(self) -> bool:
        if self._waiting_for == PARAM_EXCHANGE:
            parameters = self._take_json()
            if parameters is None:
                return False
            if not parameters.get("tcp"):
                self.send_state(ACCESS_DENIED)
                self.transport.close()
                return False
            self.test = self._tests[self._cookie] = Test(self, parameters)
            self._waiting_for = TEST_END
            self.send_state(CREATE_STREAMS)
            return True
        if self._waiting_for == EXCHANGE_RESULTS:
            if self._take_json() is None:
                return False
            body = json.dumps(self.test.results()).encode()
            self.transport.write(len(body).to_bytes(4, "big") + body)
            self.send_state(DISPLAY_RESULTS)
            self._waiting_for = IPERF_DONE
            return True
        state, self._received = self._received[0], self._received[1:]
        if state == TEST_END:
            self.test.finish()
            self._waiting_for = EXCHANGE_RESULTS
            self.send_state(EXCHANGE_RESULTS)
        elif state == IPERF_DONE:
            self.transport.close()
        return True

    def connection_lost(self, error):
        test = self._tests.pop(self._cookie, None)
        if test is not None:
            test.running = False
            for stream in test.streams:
                stream.transport.close()


async def serve(port: int = 5201) -> asyncio.Server:
    """A listening iperf3 server in the loop that runs."""
    tests: dict[bytes, Test] = {}
    return await asyncio.get_running_loop().create_server(lambda: DataStream(tests), None, port)


async def run(port: int) -> None:
    server = await serve(port)
    print(f"iperf3: listening on {port}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="vhost-user:PATH, tap:NAME, stream:PATH ...")
    parser.add_argument("--address", action="append", default=[], help="address and prefix length, repeatable")
    parser.add_argument("--port", type=int, default=5201)
    arguments = parser.parse_args()
    try:
        swos_net.asyncio.run(run(arguments.port), arguments.device, addresses=arguments.address)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
