"""paramiko, unmodified, at both ends of an SSH connection: a command with its input, output and exit status.

    python3 examples/sync_paramiko.py        needs: pip install paramiko
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

import paramiko
from sync_hosts import SERVER_NAME, two_hosts

from swos_net import Capability

USER, PASSWORD = "guest", "swordfish"


class Shell(paramiko.ServerInterface):
    """Takes one user and knows one command, `upper`, which answers its input in capitals."""

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if (username, password) == (USER, PASSWORD) else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "password"

    def check_channel_request(self, kind: str, number: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel, command)).start()
        return True

    def _run(self, channel: paramiko.Channel, command: bytes) -> None:
        with channel:
            while data := channel.recv(65536):  # to its end, before which paramiko may not have told that we accepted
                if command == b"upper":
                    channel.sendall(data.upper())
            if command != b"upper":
                channel.sendall_stderr(b"no such command\n")
            channel.send_exit_status(0 if command == b"upper" else 127)


@contextlib.contextmanager
def serving(capability: Capability, key: paramiko.PKey) -> Iterator[None]:
    """One SSH connection on port 22."""
    with capability.activate():
        listener = socket.create_server(("", 22))
    transports = []

    def serve() -> None:
        connection, _ = listener.accept()
        transport = paramiko.Transport(connection)
        transports.append(transport)
        transport.add_server_key(key)
        with contextlib.suppress(EOFError, paramiko.SSHException):
            transport.start_server(server=Shell(), event=threading.Event())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        for transport in transports:
            transport.close()
            transport.join()
        listener.close()


@contextlib.contextmanager
def connected(capability: Capability, key: paramiko.PKey) -> Iterator[paramiko.SSHClient]:
    """A client that knows the server's key."""
    with capability.attenuate("tcp:connect:10.0.0.2:22").activate(), paramiko.SSHClient() as client:
        client.get_host_keys().add(SERVER_NAME, key.get_name(), key)
        client.connect(SERVER_NAME, username=USER, password=PASSWORD, allow_agent=False, look_for_keys=False, timeout=10)
        yield client


def run(client: paramiko.SSHClient, command: str, data: bytes = b"") -> tuple[int, bytes, bytes]:
    """(exit status, output, errors) of a command that is given `data`."""
    stdin, stdout, stderr = client.exec_command(command, timeout=30)
    writer = threading.Thread(target=lambda: (stdin.write(data), stdin.channel.shutdown_write()))
    writer.start()
    output, errors = stdout.read(), stderr.read()
    writer.join()
    return stdout.channel.recv_exit_status(), output, errors


def main() -> None:
    key = paramiko.ECDSAKey.generate()
    with two_hosts() as (client, server), serving(server, key), connected(client, key) as ssh:
        print(*run(ssh, "upper", b"hello over ssh"))


if __name__ == "__main__":
    main()
