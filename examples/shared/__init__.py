"""What the programs share: flags, optimizers by name, records, messages."""
