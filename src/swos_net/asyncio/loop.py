"""An event loop on which asyncio programs run unchanged: its Internet sockets are those of a stack.

Read first: driver.py, selector.py, transport.py.  AF_UNIX and other sockets that are given, pipes, subprocesses, signals
and `add_reader` are the kernel's, as in asyncio's own loop.  Made by `new_event_loop` and `run` of entry.py.
"""

import asyncio
import itertools
import socket as stdlib
import sys
import weakref
from asyncio import constants, sslproto
from asyncio.log import logger
from collections.abc import Iterable
from typing import Any

from swos_net import clock
from swos_net.asyncio.acceptor import Acceptor
from swos_net.asyncio.datagram_transport import DatagramTransport
from swos_net.asyncio.deliveries import Deliveries
from swos_net.asyncio.driver import LoopDriver
from swos_net.asyncio.selector import StackSelector
from swos_net.asyncio.socket_calls import SocketCalls
from swos_net.asyncio.stream_transport import StreamTransport
from swos_net.asyncio.transport import core_of
from swos_net.capability import Capability, active_capability, current_capability
from swos_net.socket.core import SocketCore
from swos_net.socket.handle import wrap
from swos_net.socket.resolver import getaddrinfo_steps, getnameinfo_steps, run_async

INTERNET = (stdlib.AF_INET, stdlib.AF_INET6)
SHUTDOWN_TIMEOUT = {} if sys.version_info < (3, 11) else {"ssl_shutdown_timeout": constants.SSL_SHUTDOWN_TIMEOUT}


class SwosEventLoop(SocketCalls, asyncio.SelectorEventLoop):
    """`asyncio.SelectorEventLoop` on the stack of `capability`, or of the one that is active where a call is made.

    A stack that is used is served by this loop from then on, as long as the loop runs.
    """

    time = staticmethod(clock.monotonic)  # without asyncio's function around it: a turn asks it several times

    def __init__(self, capability: Capability | None = None):
        """`capability`: what holds where none is active.  Sockets are then made under its authority."""
        self.capability = capability
        self._selector = None
        self._deliveries = Deliveries(self._wake_if_asleep)
        # the transports on stack sockets, by the id of their core
        self._core_transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._acceptors: dict[SocketCore, Acceptor] = {}
        self._owned: list[LoopDriver] = []  # to be stopped with this loop
        super().__init__(self._make_selector())
        self._delivery = asyncio.Handle(self._deliveries.run, (), self)  # one for all turns; each sink has a context of its own
        if capability is not None:
            try:
                self.serve(capability.issuer)
            except BaseException:
                self.close()
                raise

    def _make_selector(self) -> StackSelector:
        return StackSelector(self.time, self._has_work, self._stacks_polled)

    # Serving stacks

    @property
    def drivers(self) -> list[LoopDriver]:
        """Those of the stacks that this loop serves."""
        return self._selector.drivers if self._selector is not None else []

    def serve(self, stack: Any) -> LoopDriver:
        """Serves a stack whenever the loop runs.  RuntimeError when something else than loops serves it."""
        driver = stack.driver
        if driver in self._selector.drivers:
            return driver
        if not isinstance(driver, LoopDriver):
            served = "nobody serves it: make a LoopDriver of its Poller" if driver is None else f"{driver!r} serves it"
            raise RuntimeError(f"{stack.name} cannot be used from an event loop, {served}")
        driver.check_serving()
        self._selector.attach(driver)
        if self.is_running():
            driver.begin(self)
        return driver

    def own(self, driver: LoopDriver) -> None:
        """Closing the loop stops this driver, after closed connections have had a moment to deliver."""
        self._owned.append(driver)

    def run_forever(self) -> None:
        self._check_closed()
        self._check_running()
        for driver in self.drivers:
            driver.begin(self)
        try:
            super().run_forever()
        finally:
            for driver in self.drivers:
                driver.end(self)

    def close(self) -> None:
        if self.is_running() or self.is_closed():
            super().close()  # raises, or does nothing
            return
        for acceptor in self._acceptors.values():
            acceptor.stop()
        self._acceptors.clear()
        for transport in list(self._core_transports.values()):
            transport._abandon()
        self._deliveries.abandon()
        for driver in list(self.drivers):
            self._selector.detach(driver)
        super().close()
        for driver in self._owned:
            driver.finish(LINGER)
            driver.stop()

    @property
    def turns(self) -> int:
        return self._selector.turns

    @property
    def asleep(self) -> bool:
        return self._selector.asleep

    def wake(self) -> None:
        self._write_to_self()

    def stack_entered(self, due: float | None) -> None:
        if due is not None and self._selector.sleeps_beyond(due):
            self._write_to_self()

    def device_failed(self, driver: LoopDriver, error: OSError) -> None:
        self.call_soon_threadsafe(self._device_failed, driver, error)

    def _device_failed(self, driver: LoopDriver, error: OSError) -> None:
        if driver not in self.drivers:
            return  # it has been said
        self._selector.detach(driver)
        message = f"{driver.stack.name} is no longer served: {error}"
        self.call_exception_handler({"message": message, "exception": error})

    def _wake_if_asleep(self) -> None:
        if self._selector.asleep:
            self._write_to_self()

    def _has_work(self) -> bool:
        return bool(self._ready or self._deliveries.waiting)

    def _stacks_polled(self) -> None:
        if self._deliveries.waiting:
            self._ready.append(self._delivery)

    # Sockets

    def _capability_now(self) -> Capability:
        capability = active_capability() or self.capability or current_capability()
        self.serve(capability.issuer)
        return capability

    def _new_socket(self, family: int, type: int, proto: int = 0) -> Any:
        """A non-blocking socket object under the capability of the moment."""
        capability = self._capability_now()
        with capability.issuer.driver.entered():
            core = SocketCore(capability.issuer, capability, family, type, proto)
        sock = wrap(core)
        sock.setblocking(False)
        return sock

    def _core_of(self, sock: Any) -> SocketCore | None:
        core = core_of(sock)
        if core is not None and core.stack.driver not in self._selector.drivers:
            self.serve(core.stack)
        return core

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        core = core_of(getattr(fd, "_sock", fd))  # a TransportSocket is told by what is inside
        if core is None:
            for driver in self._selector.drivers:
                if fd in driver.descriptors:
                    core = driver.descriptors[fd].core
        if core is None:
            super()._ensure_fd_no_transport(fd)
            return
        transport = self._core_transports.get(id(core))
        if transport is not None and not transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    async def getaddrinfo(self, host, port, *, family=0, type=0, proto=0, flags=0):
        if getattr(stdlib.getaddrinfo, "__globals__", None) is not vars(stdlib):
            # a program that has put another function there means it to be asked
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        found = await run_async(getaddrinfo_steps(self._capability_now(), host, port, family, type, proto, flags))
        return [(stdlib.AddressFamily(af), stdlib.SocketKind(kind), *rest) for af, kind, *rest in found]

    async def getnameinfo(self, sockaddr, flags=0):
        return await run_async(getnameinfo_steps(self._capability_now(), sockaddr, flags))

    # Connections: asyncio resolves, races and reports; here are the sockets and transports it asks for

    async def _connect_sock(self, exceptions, addr_info, local_addr_infos=None):
        family, type_, proto, _, address = addr_info
        if family not in INTERNET:
            return await super()._connect_sock(exceptions, addr_info, local_addr_infos)
        failures: list[OSError] = []
        exceptions.append(failures)
        sock = None
        try:
            sock = self._new_socket(family, type_, proto)
            if local_addr_infos is not None:
                self._bind_local(sock, family, local_addr_infos, failures)
            await self.sock_connect(sock, address)
            return sock
        except OSError as error:
            failures.append(error)
            if sock is not None:
                sock.close()
            raise
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        finally:
            exceptions = failures = None  # an exception must not keep itself alive

    @staticmethod
    def _bind_local(sock: Any, family: int, infos: Iterable[tuple], failures: list[OSError]) -> None:
        for info in infos:
            if info[0] != family:
                continue
            try:
                sock.bind(info[4])
                return
            except OSError as error:
                text = f"error while attempting to bind on address {info[4]!r}: {str(error).lower()}"
                failures.append(OSError(error.errno, text))
        if failures:
            raise failures.pop()
        raise OSError(f"no matching local address with {family=} found")

    def _make_socket_transport(self, sock, protocol, waiter=None, *, extra=None, server=None):
        core = self._core_of(sock)
        if core is None:
            return super()._make_socket_transport(sock, protocol, waiter, extra=extra, server=server)
        self._ensure_fd_no_transport(core)
        transport = StreamTransport(self, self._deliveries, core, protocol, waiter, extra, server, None if sock is core else sock)
        self._core_transports[id(core)] = transport
        return transport

    def _make_ssl_transport(self, rawsock, protocol, sslcontext, waiter=None, *, server_side=False, server_hostname=None,
                            extra=None, server=None, ssl_handshake_timeout=constants.SSL_HANDSHAKE_TIMEOUT, **timeouts):  # fmt: skip
        if core_of(rawsock) is None:
            return super()._make_ssl_transport(
                rawsock, protocol, sslcontext, waiter, server_side=server_side, server_hostname=server_hostname,
                extra=extra, server=server, ssl_handshake_timeout=ssl_handshake_timeout, **timeouts,
            )  # fmt: skip
        self._ensure_fd_no_transport(rawsock)
        ssl_protocol = sslproto.SSLProtocol(
            self, protocol, sslcontext, waiter, server_side, server_hostname, ssl_handshake_timeout=ssl_handshake_timeout,
            **{**SHUTDOWN_TIMEOUT, **timeouts},
        )  # fmt: skip
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server)
        return ssl_protocol._app_transport

    async def _sendfile_native(self, transp, file, offset, count):
        if not isinstance(transp, StreamTransport):
            return await super()._sendfile_native(transp, file, offset, count)
        self._check_sendfile_params(transp._core, file, offset, count)
        resume_reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        try:
            return await self._send_file(transp._core, file, offset, count)
        finally:
            transp._reset_empty_waiter()
            if resume_reading:
                transp.resume_reading()

    # Servers

    async def create_server(self, protocol_factory, host=None, port=None, *, family=stdlib.AF_UNSPEC, flags=stdlib.AI_PASSIVE,
                            sock=None, reuse_address=None, reuse_port=None, keep_alive=None, start_serving=True, **options):  # fmt: skip
        if sock is not None or host is None and port is None:
            if host is not None or port is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            return await super().create_server(protocol_factory, sock=sock, start_serving=start_serving, **options)
        sockets = await self._listening_sockets(host, port, family, flags, reuse_address is not False, reuse_port, keep_alive)
        try:
            server = await super().create_server(protocol_factory, sock=sockets[0], start_serving=False, **options)
            server._sockets.extend(sockets[1:])
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        if start_serving:
            await server.start_serving()
        return server

    async def _listening_sockets(self, host, port, family, flags, reuse_address, reuse_port, keep_alive) -> list[Any]:
        """Bound sockets for every address of the hosts."""
        single = isinstance(host, str) or not isinstance(host, Iterable)
        hosts = [host or None] if single else host
        found = await asyncio.gather(*(self._create_server_getaddrinfo(item, port, family=family, flags=flags) for item in hosts))
        infos = dict.fromkeys(itertools.chain.from_iterable(found))
        sockets: list[Any] = []
        try:
            for af, socktype, proto, _, address in infos:
                try:
                    sock = self._new_socket(af, socktype, proto)
                except PermissionError:
                    raise
                except OSError:
                    if self._debug:
                        logger.warning("create_server() failed to create a socket of family %r, type %r", af, socktype, exc_info=True)
                    continue
                sockets.append(sock)
                if reuse_address:
                    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEADDR, True)
                if reuse_port:
                    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, True)
                if keep_alive:
                    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_KEEPALIVE, True)
                if af == stdlib.AF_INET6:
                    sock.setsockopt(stdlib.IPPROTO_IPV6, stdlib.IPV6_V6ONLY, True)
                if not self._bind_listening(sock, address):
                    sockets.pop().close()
            if not sockets:
                raise OSError(f"could not bind on any address out of {[info[4] for info in infos]!r}")
            return sockets
        except BaseException:
            for sock in sockets:
                sock.close()
            raise

    def _bind_listening(self, sock: Any, address: Any) -> bool:
        """False for an address that this host does not have, such as one of a family without any."""
        try:
            sock.bind(address)
            return True
        except OSError as error:
            message = f"error while attempting to bind on address {address!r}: {str(error).lower()}"
            if error.errno == 99:  # EADDRNOTAVAIL
                if self._debug:
                    logger.warning(message)
                return False
            if isinstance(error, PermissionError):
                raise  # says which capability refused
            raise OSError(error.errno, message) from None

    def _start_serving(self, protocol_factory, sock, sslcontext=None, server=None, backlog=100, *timeouts):
        core = self._core_of(sock)
        if core is None:
            super()._start_serving(protocol_factory, sock, sslcontext, server, backlog, *timeouts)
            return

        def accepted(connection: SocketCore, address: Any) -> None:
            if self._debug:
                logger.debug("%r got a new connection from %r", server, address)
            if sslcontext is not None:
                extra = {"peername": address}
                self.create_task(self._accept_connection2(protocol_factory, connection, extra, sslcontext, server, *timeouts))
                return
            try:
                self._make_socket_transport(connection, protocol_factory(), extra={"peername": address}, server=server)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                with connection.stack.driver.lock:
                    connection.close(self.time())
                if self._debug:
                    message = "Error on transport creation for incoming connection"
                    self.call_exception_handler({"message": message, "exception": error})

        self._acceptors[core] = Acceptor(self, self._deliveries, core, backlog, accepted)

    def _stop_serving(self, sock):
        core = core_of(sock)
        if core is None:
            super()._stop_serving(sock)
            return
        acceptor = self._acceptors.pop(core, None)
        if acceptor is not None:
            acceptor.stop()
        sock.close()

    # Datagrams

    async def create_datagram_endpoint(self, protocol_factory, local_addr=None, remote_addr=None, *, family=0, proto=0, flags=0,
                                       reuse_port=None, allow_broadcast=None, sock=None, **options):  # fmt: skip
        if sock is not None or family not in (0, *INTERNET) or options or family == 0 and not (local_addr or remote_addr):
            return await super().create_datagram_endpoint(
                protocol_factory, local_addr, remote_addr, family=family, proto=proto, flags=flags, reuse_port=reuse_port,
                allow_broadcast=allow_broadcast, sock=sock, **options,
            )  # fmt: skip
        failures: list[OSError] = []
        for af, protocol_number, local, remote in await self._datagram_addresses(local_addr, remote_addr, family, proto, flags):
            sock = None
            try:
                sock = self._new_socket(af, stdlib.SOCK_DGRAM, protocol_number)
                if reuse_port:
                    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_REUSEPORT, 1)
                if allow_broadcast:
                    sock.setsockopt(stdlib.SOL_SOCKET, stdlib.SO_BROADCAST, 1)
                if local_addr:
                    sock.bind(local)
                if remote_addr and not allow_broadcast:
                    await self.sock_connect(sock, remote)
                break
            except OSError as error:
                failures.append(error)
                if sock is not None:
                    sock.close()
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
        else:
            raise failures[0]
        protocol = protocol_factory()
        waiter = self.create_future()
        transport = self._make_datagram_transport(sock, protocol, remote, waiter)
        try:
            await waiter
        except BaseException:
            transport.close()
            raise
        return transport, protocol

    async def _datagram_addresses(self, local_addr, remote_addr, family, proto, flags) -> list[tuple]:
        """(family, protocol, local address, remote address) of every way to open the endpoint."""
        if not (local_addr or remote_addr):
            return [(family, proto, None, None)]
        found: dict[tuple[int, int], list] = {}
        for index, address in enumerate((local_addr, remote_addr)):
            if address is None:
                continue
            if not (isinstance(address, tuple) and len(address) == 2):
                raise TypeError("2-tuple is expected")
            infos = await self._ensure_resolved(address, family=family, type=stdlib.SOCK_DGRAM, proto=proto, flags=flags, loop=self)
            if not infos:
                raise OSError("getaddrinfo() returned empty list")
            for af, _, number, _, resolved in infos:
                found.setdefault((af, number), [None, None])[index] = resolved
        ways = [(*key, local, remote) for key, (local, remote) in found.items()
                if not (local_addr and local is None or remote_addr and remote is None)]  # fmt: skip
        if not ways:
            raise ValueError("can not get address information")
        return ways

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        core = self._core_of(sock)
        if core is None:
            return super()._make_datagram_transport(sock, protocol, address, waiter, extra)
        self._ensure_fd_no_transport(core)
        transport = DatagramTransport(self, self._deliveries, core, protocol, address, waiter, extra, sock)
        self._core_transports[id(core)] = transport
        return transport


LINGER = 1.0  # seconds
