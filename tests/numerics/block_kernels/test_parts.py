"""On eight devices, kernels on their parts make the codes and the noise of the whole array."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz import groups, training
from optimiz.training.compiled_step import traced_step
from optimiz.training.step import StepSpec
from optimiz.training.train_state import initial_state

DEVICES = {
    "tpu": (AbstractDevice("TPU v5 lite", 1, "tpu"), "tpu_custom_call"),
    "cuda": (AbstractDevice("NVIDIA H200", None, "gpu"), "xla.gpu.triton"),
}


@pytest.mark.long
def test_parts_are_updated_as_the_whole(program):
    report = program("tests.numerics.block_kernels.parts", devices=8)
    assert report.pop("tpu_turned")["whole"] < 2e-3
    assert report.keys() == {"tpu", "gpu"}
    for kernel, by_layout in report.items():
        whole = {"whole", "across", "ragged", "stacked", "layers", "state"}
        assert by_layout.keys() == {*whole, "pairs", "pairs across"}
        for layout, differing in by_layout.items():
            assert differing < 2e-3, (kernel, layout)


@pytest.mark.parametrize("platform", DEVICES)
def test_a_step_of_training_on_a_mesh_runs_kernels_on_its_parts(platform):
    device, kernel = DEVICES[platform]
    mesh = AbstractMesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2, abstract_device=device)
    task = training.Task(
        init=lambda key: {"w": jax.random.normal(key, (512, 1024))},
        loss=lambda params, batch, key: jnp.sum((batch["x"] @ params["w"]) ** 2, axis=1),
        batches=lambda step: {"x": jnp.ones((8, 512))},
    )
    tx = optimiz.low_bit(optimiz.lion(0.1), optimiz.Int8())
    spec = StepSpec.of(task, tx, jax.eval_shape(lambda: initial_state(task, tx, seed=0)), task.batches(0))
    layout = training.Layout(mesh, groups.label({P(None, "model"): groups.everything}))
    text = traced_step(spec, layout).lower(lowering_platforms=(platform,)).as_text()
    assert kernel in text
    assert "tensor<512x256x" in text  # a device's part, of which the kernel takes 1 of 4
