"""A pod's limits on this machine: read-only root, user 1000, no capabilities; then `ray start` and a submitted run.

    unshare ──own mounts──> / read-only, /tmp and /dev/shm fresh ──setpriv──> user 1000 ──> ray start, ray job submit

Needs root, for the mounts. They are those of a mount namespace of its own, which ends with the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support import fast_engines
from tests.support.ray_cluster import OBJECT_STORE, RAY, TOKEN, free_port

pytestmark = pytest.mark.soak

AS_ROOT = r"""set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/python /mnt/tmp /mnt/scratch /mnt/spill
mount --bind "$PYTHON_HOME" /mnt/python
cp -r "$CODE" /mnt/code
chown 1000:1000 /mnt/tmp /mnt/scratch /mnt/spill
case "$PYTHON_HOME" in /root/*)  # where user 1000 may not look
    mount -t tmpfs -o mode=755 tmpfs /root; mkdir -p "$PYTHON_HOME"; mount --bind /mnt/python "$PYTHON_HOME";;
esac
mount -t tmpfs -o mode=1777,size=300m tmpfs /dev/shm
mount --bind / /
mount --bind /mnt/tmp /tmp
mount -o remount,ro,bind /
for place in "$CHECKED" /etc /usr; do test ! -w "$place"; done  # not even for root
limits="--reuid 1000 --regid 1000 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all"
exec setpriv $limits bash -e /mnt/code/as_user.sh
"""
AS_USER = r"""cd /tmp
test "$(id -u)" = 1000
test ! -w /mnt/code
python -c "from tests.support import fast_engines; fast_engines.write_crawl('/mnt/scratch/crawl', 20, seed=3)"
ray start --head $OPTIONS --num-cpus=4 --object-spilling-directory=/mnt/spill
ray job submit --address=http://127.0.0.1:$DASHBOARD -- bash /mnt/code/run.sh
ls -R /mnt/scratch/run/shards
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare to make a read-only root"
)
def test_a_run_needs_no_rights(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for package in ("operators", "stages", "pipeline", "tests"):
        shutil.copytree(REPOSITORY / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    settings = fast_engines.settings("/mnt/scratch/run", "/mnt/scratch/crawl", "execution.scratch=/mnt/scratch")
    (code / "empty.yaml").write_text("{}\n")
    (code / "run.sh").write_text(
        "python -m pipeline run /mnt/code/empty.yaml " + " ".join(f'"{s}"' for s in settings) + "\n"
    )
    (code / "as_user.sh").write_text(AS_USER)
    (tmp_path / "as_root.sh").write_text(AS_ROOT)
    dashboard = free_port()
    ports = {"port": free_port(), "dashboard-port": dashboard, "dashboard-agent-listen-port": free_port()}
    ports |= {
        "ray-client-server-port": free_port(),
        "metrics-export-port": free_port(),
        "object-store-memory": OBJECT_STORE,
    }
    environment = {
        "PATH": f"{Path(RAY).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": "/tmp",
        "PYTHONPATH": "/mnt/code",
        "PYTHONDONTWRITEBYTECODE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "OMP_NUM_THREADS": "1",
        "PYTHON_HOME": sys.base_prefix,
        "CODE": str(code),
        "CHECKED": str(REPOSITORY),
        "DASHBOARD": str(dashboard),
        "OPTIONS": " ".join(f"--{name}={value}" for name, value in ports.items()),
    }
    # A process namespace too: when its first process ends, all of Ray's end.
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "bash",
        str(tmp_path / "as_root.sh"),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "audiobook-000000.parquet" in done.stdout
