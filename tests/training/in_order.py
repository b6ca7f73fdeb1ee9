"""A dataset that is read in order, and knows how often it was read."""


class InOrder:
    """Batches of a function of the step, one after the other."""

    def __init__(self, batches, steps=10**9):
        self.batches, self.steps, self.read = batches, steps, []

    def __iter__(self):
        return _Iterator(self)


class _Iterator:
    def __init__(self, dataset):
        self.dataset, self.state = dataset, {"step": 0}

    def __iter__(self):
        return self

    def __next__(self):
        step = self.state["step"]
        if step == self.dataset.steps:
            raise StopIteration
        self.dataset.read.append(step)
        self.state["step"] += 1  # in place: a position must not change with the iterator
        return self.dataset.batches(step)

    def get_state(self):
        return self.state

    def set_state(self, state):
        if not 0 <= state["step"] <= self.dataset.steps:
            raise ValueError(f"there is no step {state['step']}")
        self.state = dict(state)
