"""Trainers, models and data readers built on the public face of `optimiz`."""

import sys

if sys.argv[:1] == ["-m"]:  # Python is about to run a module: here, before anything else is imported
    from examples.shared import signals, streams

    streams.keep()
    signals.exit_at_once()
    try:
        from examples.shared import _installed as _installed
    except ModuleNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
