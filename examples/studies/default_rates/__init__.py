"""At which learning rate each optimizer is run by default, and what rates beside it lose."""
