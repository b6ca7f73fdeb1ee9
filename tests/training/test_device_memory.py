"""A step that needs more memory than a device has is refused before anything is trained."""

import jax
import jax.numpy as jnp
import optax
import pytest
from absl import flags

from examples.shared import command, program_flags
from optimiz import training
from optimiz.training import device_memory
from tests.training import tiny


def fit(directory, **arguments):
    return training.fit(
        tiny.task(), optax.adam(0.1), training.Settings(steps=3), directory, identity={}, **arguments
    )


def test_what_a_step_needs_is_what_lies_on_the_device_while_it_runs():
    x = jnp.zeros((256, 256))
    step = jax.jit(lambda x, y: (x + 1, (x @ y).sum()), donate_argnums=0).lower(x, x).compile()
    temporary = step.memory_analysis().temp_size_in_bytes
    inputs, table = 2 * x.nbytes, 64  # the first is updated in place; results have a table
    assert inputs + 4 <= device_memory.needed(step) - temporary < inputs + table


def test_a_run_tells_what_it_needs_and_what_there_is(tmp_path):
    seen = []
    fit(tmp_path, progress=seen.append)
    assert seen[0].memory["device_bytes"] > 2**28 > seen[0].memory["peak_bytes"] > 0


def test_a_step_that_does_not_fit_is_refused_and_another_takes_its_place(tmp_path, monkeypatch):
    with monkeypatch.context() as small:
        small.setattr(device_memory, "available", lambda: 16)
        with pytest.raises(
            training.DoesNotFit, match=r"^a step needs .* GiB on a device, more than its 1.49e-08"
        ):
            fit(tmp_path)
    assert fit(tmp_path, resume=True).steps == 3


def test_a_compiler_that_runs_out_of_memory_is_understood():
    message = "a step needs memory on a device, more than"
    with pytest.raises(training.DoesNotFit, match=message), device_memory.compiling():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), device_memory.compiling():
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")


def test_a_program_names_its_own_flags(monkeypatch, capsys):
    flags.FLAGS.mark_as_parsed()
    own = program_flags.Flags()
    own.DEFINE_integer("batch_size", 8, "Examples per update.")
    monkeypatch.setattr(flags, "FLAGS", own)

    def main():
        raise training.DoesNotFit(2**35, 2**34)

    with pytest.raises(SystemExit):
        command.guarded(main)
    error = capsys.readouterr().err
    assert "needs 32 GiB on a device, more than its 16 GiB" in error and error.endswith("; see --batch_size\n")
