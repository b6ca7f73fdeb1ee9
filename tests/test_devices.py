"""Eight devices give the parameters that one gives, in every layout and with every optimizer."""

import json
import subprocess
import sys
from pathlib import Path

from tests.test_contract import TABLE

ROOT = Path(__file__).parents[1]


def test_every_layout_agrees_with_one_device():
    done = subprocess.run([sys.executable, "-m", "tests.devices"], cwd=ROOT, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    differences = json.loads(done.stdout.splitlines()[-1])
    assert differences.keys() == TABLE.keys()
    layouts = {"with_pmap", "with_sharded_state", "with_explicit_axes"}
    for name, by_layout in differences.items():
        assert by_layout.keys() == layouts
        assert max(by_layout.values()) <= 2e-5, (name, by_layout)
