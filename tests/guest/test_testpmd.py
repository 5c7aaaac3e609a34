"""A third-party client that polls at full speed: DPDK's testpmd with its virtio-user driver, no guest and no huge pages."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("guest")

PLUGINS = next(iter(sorted(Path("/usr/lib").glob("*/dpdk/pmds-*"))), None)


def client_command(path: Path, *, queue_pairs: int, queue_size: int, mode: str) -> list[str]:
    plugins = [argument for name in ("librte_net_virtio", "librte_mempool_ring") for argument in ("-d", str(next(PLUGINS.glob(f"{name}.so.*"))))]
    device = f"net_virtio_user0,path={path},queues={queue_pairs},queue_size={queue_size},mac=52:54:00:aa:bb:01"
    return [
        "dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-shconf", "--no-telemetry", "-l", "0,1", *plugins, f"--vdev={device}",
        "--", "-i", "--auto-start", "--no-mlockall", "--total-num-mbufs=8192", f"--rxq={queue_pairs}", f"--txq={queue_pairs}",
        f"--forward-mode={mode}",
    ]  # fmt: skip


def run_client(path: Path, seconds: float, **options) -> str:
    process = subprocess.Popen(client_command(path, **options), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(seconds)  # the client runs in real time
        output, _ = process.communicate("stop\nshow port stats all\nquit\n", timeout=30)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == 0, f"testpmd ended with {process.returncode}:\n{output[-2000:]}"
    return output


@pytest.mark.kernel_sockets
@pytest.mark.parametrize(("queue_pairs", "queue_size", "mode"), [(1, 256, "txonly"), (2, 1024, "txonly"), (1, 256, "flowgen")])
def test_testpmd_transmits_at_full_speed(serve, queue_pairs, queue_size, mode):
    if shutil.which("dpdk-testpmd") is None or PLUGINS is None:
        pytest.skip("dpdk-testpmd is missing: apt-get install dpdk-dev librte-net-virtio23 librte-mempool-ring23")
    served = serve(queue_pairs=queue_pairs)
    output = run_client(served.path, 5.0, queue_pairs=queue_pairs, queue_size=queue_size, mode=mode)
    sent = max(map(int, re.findall(r"TX-packets:\s+(\d+)", output)))
    counters = served.device.counters()
    assert sent > 1000
    assert not served.happened("ring_broken") and not served.happened("protocol_error"), served.events
    # every frame that the client gave away arrived whole and was understood (it addresses nobody here)
    assert counters["receive_dropped"] == 0
    assert counters["receive_frames"] >= sent * 0.99
    drops = {name: count for name, count in served.interface.counters.items() if name.startswith("Drop")}
    assert set(drops) <= {"DropNotForUs"}, drops
