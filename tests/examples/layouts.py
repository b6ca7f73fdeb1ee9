"""A trainer as a user starts it: on one device, on a mesh of several, and in two processes."""

import socket
import subprocess
import sys
from pathlib import Path

from optimiz import compare
from tests.conftest import ROOT, on_devices


def trained(trainer, arguments, directory, devices):
    """Run a trainer in every layout: the output directories of one device, of the mesh, and of the processes.

    Args:
        trainer: its module's name.
        arguments: of the trainer, without those of the layout and the output.
        directory: of the outputs.
        devices: of the mesh.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    hosts = {"coordinator": address, "processes": 2}
    layouts = [
        ("one", 1, {}),
        ("mesh", devices, {"mesh": f"data:{devices}", "shard_state": True}),
        *(("hosts", 1, hosts | {"process": index}) for index in (0, 1)),
    ]
    children = []
    for name, count, given in layouts:
        argv = [
            f"--{flag}={value}" for flag, value in (arguments | given | {"output": directory / name}).items()
        ]
        command = [sys.executable, "-m", f"examples.{trainer}", *argv]
        children.append(subprocess.Popen(command, cwd=ROOT, env=on_devices(count)))
    try:
        assert [child.wait(timeout=600) for child in children] == [0] * len(children)
    finally:
        for child in children:
            child.kill()
    return [directory / name for name in ("one", "mesh", "hosts")]


def losses(output: Path):
    """The training losses of the only run of a report."""
    (run,) = compare.Record.read(output / "record.json").runs
    return run.training_loss()[1]
