"""Blocking libraries that know nothing of swos_net, over two stacks in this process; the kernel's network is watched."""

import random
import threading

import pytest
import sync_http_server
from sync_hosts import SERVER_NAME, make_certificate, two_hosts

from swos_net.capability import why


@pytest.fixture
def hosts():
    with two_hosts() as both:
        yield both


def test_http_server_and_urllib(hosts, tmp_path):
    client, server = hosts
    content = random.Random(1).randbytes(3_000_000)
    (tmp_path / "big.bin").write_bytes(content)
    with sync_http_server.serving(server, tmp_path) as web:
        results = {}
        threads = [threading.Thread(target=lambda n: results.update({n: sync_http_server.fetch(client, "big.bin")}), args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == dict.fromkeys(range(4), content) and web.accepted == 4


@pytest.mark.parametrize("example", ["http_server", "requests", "paramiko", "redis"])
def test_the_program(example, capsys):
    pytest.importorskip(f"sync_{example}").main()
    assert "hello" in capsys.readouterr().out.lower()


def test_requests_reuses_a_verified_connection(hosts, tmp_path):
    """urllib3 polls the descriptor of an idle connection to learn whether it has been dropped."""
    requests = pytest.importorskip("requests")
    pytest.importorskip("cryptography")
    import sync_requests

    client, server = hosts
    certificate = make_certificate(tmp_path / "server.pem")
    content = random.Random(2).randbytes(1_000_000)
    (tmp_path / "file").write_bytes(content)
    with sync_requests.serving_tls(server, tmp_path, certificate) as web, sync_requests.session(client, certificate) as session:
        for _ in range(5):
            assert session.get(f"{sync_requests.URL}/file", timeout=10).content == content
        assert web.accepted == 1
        with pytest.raises(requests.exceptions.SSLError, match="verify failed"):
            session.get(f"{sync_requests.URL}/file", verify=True, timeout=10)
        with pytest.raises(requests.ConnectionError) as refused:
            session.get(f"http://{SERVER_NAME}/", timeout=10)
        assert why(refused.value).operation == "connect", "urllib3 hides the refusal, but not beyond recovery"


def test_requests_times_out(hosts):
    requests = pytest.importorskip("requests")
    import socket

    client, server = hosts
    with server.activate():
        silent = socket.create_server(("", 80))
    with silent, client.activate(), pytest.raises(requests.exceptions.ReadTimeout):
        requests.get(f"http://{SERVER_NAME}/", timeout=0.1)


def test_paramiko_moves_much_both_ways(hosts):
    paramiko = pytest.importorskip("paramiko")
    import sync_paramiko

    client, server = hosts
    key = paramiko.ECDSAKey.generate()
    data = bytes(random.Random(3).choices(b"abc", k=500_000))
    with sync_paramiko.serving(server, key), sync_paramiko.connected(client, key) as ssh:
        assert sync_paramiko.run(ssh, "upper", data) == (0, data.upper(), b"")
        assert sync_paramiko.run(ssh, "lower") == (127, b"", b"no such command\n")


def test_redis_pipelines_and_reports_errors(hosts):
    redis = pytest.importorskip("redis")
    import sync_redis

    client, server = hosts
    with sync_redis.serving(server) as store, sync_redis.connected(client) as database:
        with database.pipeline(transaction=False) as pipeline:
            for number in range(200):
                pipeline.set(f"key{number}", str(number) * 100)
            assert pipeline.execute() == [True] * 200
        assert store.values[b"key7"] == b"7" * 100 and database.get("missing") is None
        with pytest.raises(redis.ResponseError, match="unknown command"):
            database.lpush("list", "x")
        assert database.delete("key1", "key2", "none") == 2
