"""Promises about saving and restoring a state."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np

from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import params, train, trained


@promise("a state that is saved and restored goes on bit for bit")
def restored_goes_on(subject: Subject) -> None:
    """All that an optimizer remembers is in its state, as arrays; anything else is lost at a restart."""
    p, state = trained(subject.tx, subject.update, params(), 2)
    leaves, structure = jax.tree.flatten(state)
    saved = [(np.asarray(x).tobytes(), x.dtype, x.shape) for x in leaves]
    *_, (_, _, straight, _) = train(subject.update, p, state, range(2, 5))
    arrays = [jnp.asarray(np.frombuffer(data, dtype).reshape(shape)) for data, dtype, shape in saved]
    tx = subject.make()  # as in a new process
    *_, (_, _, resumed, _) = train(jax.jit(tx.update), p, structure.unflatten(arrays), range(2, 5))
    with expect.at(step=5):
        expect.equal(resumed, straight, "parameters of the resumed run")


@promise("the state can be pickled")
def can_be_pickled(subject: Subject) -> None:
    """Processes, caches and simple checkpoints use pickle, which cannot find a class inside a function."""
    state = subject.tx.init(params())
    restored = pickle.loads(pickle.dumps(state))
    expect.same_dtypes(restored, state, "state")
    expect.equal(restored, state, "state")
