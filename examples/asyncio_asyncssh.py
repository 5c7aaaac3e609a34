"""asyncssh, unmodified, at both ends of an SSH connection: a command, a file over SFTP, a forwarded port.

    python3 examples/asyncio_asyncssh.py        needs: pip install asyncssh
"""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncio_hosts
import asyncssh
from sync_hosts import SERVER_NAME

from swos_net import Capability

USER, PASSWORD = "guest", "swordfish"


class Account(asyncssh.SSHServer):
    """Takes one user, whose connections are forwarded wherever the server's capability lets them."""

    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == (USER, PASSWORD)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


async def run_command(process: asyncssh.SSHServerProcess) -> None:
    """Knows one command, `upper`, which answers its input in capitals."""
    if process.command == "upper":
        while data := await process.stdin.read(65536):
            process.stdout.write(data.upper())
            await process.stdout.drain()
        process.exit(0)
    else:
        process.stderr.write(b"no such command\n")
        process.exit(127)


@contextlib.asynccontextmanager
async def serving(capability: Capability, key: asyncssh.SSHKey, directory: Path) -> AsyncIterator[None]:
    """SSH on port 22, SFTP of `directory`, forwarding to what `capability` may connect to."""

    def sftp(channel: asyncssh.SSHServerChannel) -> asyncssh.SFTPServer:
        return asyncssh.SFTPServer(channel, chroot=str(directory).encode())

    options = {"server_factory": Account, "process_factory": run_command, "sftp_factory": sftp, "encoding": None}
    with capability.activate():
        async with asyncssh.listen("0.0.0.0", 22, server_host_keys=[key], **options):
            yield


@contextlib.asynccontextmanager
async def connected(capability: Capability, key: asyncssh.SSHKey) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A client that knows the server's key, and may listen on its own host's port 8080 for what it forwards."""
    known = asyncssh.import_known_hosts(f"{SERVER_NAME} {key.export_public_key().decode()}")
    options = {"config": None, "client_keys": None, "agent_path": None, "encryption_algs": ["aes128-gcm@openssh.com"]}
    with capability.attenuate("tcp:connect:10.0.0.2:22 tcp:bind,listen,accept:*:8080").activate():
        credentials = {"username": USER, "password": PASSWORD}
        async with asyncssh.connect(SERVER_NAME, known_hosts=known, **credentials, **options) as connection:
            yield connection


async def main(client: Capability, server: Capability) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    with tempfile.TemporaryDirectory() as name:
        Path(name, "hello.txt").write_text("Hello over SFTP.\n")
        async with serving(server, key, Path(name)), connected(client, key) as ssh:
            result = await ssh.run("upper", input="hello over ssh\n", check=True)
            print(result.stdout, end="")
            async with ssh.start_sftp_client() as sftp, sftp.open("/hello.txt") as file:
                print(await file.read(), end="")


if __name__ == "__main__":
    asyncio_hosts.run(main)
