"""One run on several devices and processes."""
