"""What a run may spend: the price of a step, the clock that charges it, the milestones it reaches."""
