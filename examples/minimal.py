"""A small network on scikit-learn's digits, in plain Flax NNX and Optax: python -m examples.minimal."""

import jax
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import optimiz
from optimiz import groups, schedules

BATCH, STEPS = 64, 400

images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = train_test_split(images / 16, labels, test_size=0.25, random_state=0)

rngs = nnx.Rngs(0)
hidden = nnx.Linear(64, 128, rngs=rngs), nnx.LayerNorm(128, rngs=rngs), nnx.gelu
model = nnx.Sequential(*hidden, nnx.Linear(128, 10, rngs=rngs))

schedule = schedules.over_steps(schedules.warmup_cosine(3e-3, warmup=0.1), steps=STEPS)
tx = optimiz.adamw(schedule, weight_decay=0.1, weight_decay_mask=groups.no_decay())
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, x, y):
    """Update the model on one batch."""

    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

    optimizer.update(model, nnx.grad(loss)(model))


for step in range(STEPS):
    batch = jax.random.choice(jax.random.key(step), len(train_x), (BATCH,), replace=False)
    train_step(model, optimizer, train_x[batch], train_y[batch])

print(f"test accuracy: {(model(test_x).argmax(-1) == test_y).mean():.3f}")
