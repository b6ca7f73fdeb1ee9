"""Flags that distribute a run over devices and processes, shared by the trainers.

    python -m examples.finetune_text --mesh=data:8 --output=runs/mesh
    python -m examples.finetune_text --offload --output=runs/offload
    python -m examples.finetune_text --coordinator=10.0.0.1:1234 --processes=2 --process=0 --output=runs/hosts

On a cluster that JAX supports, such as Slurm, ``--cluster`` replaces the address and the numbers.
"""

import jax
from absl import flags

from optimiz import training

_MESH = flags.DEFINE_string(
    "mesh", None, "Axes of the mesh, such as data:4; default: one device of one process."
)
_SHARD_STATE = flags.DEFINE_bool("shard_state", False, "Split the optimizer's state along data (ZeRO-1).")
_OFFLOAD = flags.DEFINE_bool("offload", False, "Keep the optimizer's state in the host's memory between steps.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "Address and port of the first of several processes.")
_PROCESSES = flags.DEFINE_integer("processes", None, "Number of processes that share the run.", lower_bound=1)
_PROCESS = flags.DEFINE_integer("process", None, "Index of this process.", lower_bound=0)
_JOIN_SECONDS = flags.DEFINE_float("join_seconds", 60.0, "How long to wait for the other processes.", 1e-3)
_CLUSTER = flags.DEFINE_bool("cluster", False, "Join the processes that the cluster's environment names.")


def layout() -> training.Layout | None:
    """Join the other processes, if there are any, and return the layout of the run; None for one device.

    Raises:
        ValueError: the flags contradict each other, or do not fit the available devices.
        RunError: the processes do not find each other.
    """
    joined = (_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    if _CLUSTER.value and joined != (None, None, None):
        raise ValueError("--cluster replaces --coordinator, --processes and --process; give one or the other")
    if None in joined and joined != (None, None, None):
        raise ValueError("--coordinator, --processes and --process go together")
    if _CLUSTER.value or joined != (None, None, None):
        training.join(*joined, seconds=_JOIN_SECONDS.value)
    elif _MESH.value is None:
        if _SHARD_STATE.value:
            raise ValueError("--shard_state needs a --mesh to split the state over")
        if not _OFFLOAD.value:
            return None
        return training.Layout(training.make_mesh("data:1", jax.devices()[:1]), offload_state=True)
    mesh = training.make_mesh(f"data:{jax.device_count()}" if _MESH.value is None else _MESH.value)
    unused = [name for name, devices in mesh.shape.items() if name != "data" and devices > 1]
    if unused:
        raise ValueError(
            f"--mesh={_MESH.value}: batches are split along data only, so devices along {unused[0]} would "
            f"repeat the same work; give --mesh=data:{mesh.size}"
        )
    return training.Layout(mesh, shard_state=_SHARD_STATE.value, offload_state=_OFFLOAD.value)


def share(layout: training.Layout | None) -> tuple[int, int]:
    """The part of each batch that this process reads, see ``training.Layout.share``; all on one device."""
    return (0, 1) if layout is None else layout.share


def refuse() -> None:
    """Refuse these flags, in a program whose runs are of one device.

    Raises:
        ValueError: one of them is given.
    """
    own = (_MESH, _SHARD_STATE, _OFFLOAD, _COORDINATOR, _PROCESSES, _PROCESS, _JOIN_SECONDS, _CLUSTER)
    for flag in own:
        if flag.present:
            raise ValueError(f"--{flag.name} is of the trainers; a comparison runs on one device")
