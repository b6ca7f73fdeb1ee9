"""A signal ends a program with one line; a reader of its output that goes away does not end it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.shared import signals
from optimiz import training
from tests.conftest import ROOT

# What `python -m examples.…` does first, and then something that lasts.
BEGIN = "import sys; sys.argv = ['-m', *sys.argv[1:]]; import examples; "
READY = "print('ready', flush=True); "


# Signals that nohup, or a shell in the background, has its children ignore.
HANDLED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
HANDLED += "signal.signal(signal.SIGHUP, signal.SIG_DFL); "


def start(code, *arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, "-c", HANDLED + code, *arguments], cwd=ROOT, text=True, **options)


def ended(process):
    """Exit code, and the lines on standard error."""
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()  # else one that does not exit would stay
    return process.returncode, errors.splitlines()


def test_the_exit_code_is_that_of_a_run():
    assert training.EXIT_PREEMPTED == signals.EXIT_PREEMPTED


BUSY = {
    "waiting": "import time; time.sleep(60)",
    "working": "exec('while True: pass')",
    # An exception would be lost in it.
    "in a callback": "import weakref; f = lambda: 0; "
    "r = weakref.ref(f, lambda _: __import__('time').sleep(60)); del f",
    "catching all": "exec('try:\\n while True: pass\\nexcept BaseException:\\n while True: pass')",
}
ENDS = {
    signal.SIGTERM: (75, "preempted (SIGTERM)"),
    signal.SIGHUP: (75, "preempted (SIGHUP)"),
    signal.SIGINT: (130, "interrupted"),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("number", "busy"),
    [(number, "waiting") for number in ENDS]
    + [(signal.SIGTERM, "working"), (signal.SIGHUP, "in a callback"), (signal.SIGINT, "catching all")],
)
def test_a_program_outside_of_a_run_exits_at_once_with_one_line(number, busy):
    code, reason = ENDS[number]
    process = start(BEGIN + READY + BUSY[busy])
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert ended(process) == (
        code,
        [f"{reason}: the same command continues from what is saved, with --resume if it has that flag"],
    )


@pytest.mark.parametrize("program", ["finetune_text", "pretrain", "compare_optimizers", "pmap_digits"])
def test_a_program_that_is_still_importing_exits_at_once(program, tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", f"examples.{program}", f"--output={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "examples.shared.signals" in line:  # the handler is next
            break
    time.sleep(0.1)
    process.terminate()
    code, lines = ended(process)
    assert code == 75 and lines[-1].startswith("preempted (SIGTERM)")
    assert all(line.startswith("import time:") for line in lines[:-1])


@pytest.mark.long
def test_what_is_ignored_stays_ignored():
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " + BEGIN + READY + "input()"
    process = start(code, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.communicate("\n", timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.quick(1)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_a_child_and_all_of_its_group(number):
    child = (
        f"import subprocess, sys; {READY} subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    code = BEGIN + f"from examples.shared import signals; signals.run([sys.executable, '-c', {child!r}])"
    process = start(code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    # Pipes end with the last process that holds them.
    assert ended(process)[0] == (130 if number == signal.SIGINT else 75)


@pytest.mark.long
def test_a_program_that_another_replaces_leaves_no_child_behind(tmp_path):
    then = BEGIN + "import os; print(os.getpid(), sys.argv[1:], flush=True); import time; time.sleep(60)"
    code = BEGIN + f"from examples.shared import signals; signals.replace_process('-c', {then!r}, '--a=b c')"
    process = start(code)
    assert process.stdout.readline() == f"{process.pid} ['--a=b c']\n"
    process.terminate()
    assert ended(process)[0] == 75


SHOWN = BEGIN + "from examples.shared import terminal; from optimiz import training\n"
SHOWN += """
import absl.logging
from pathlib import Path
with terminal.bar("±", 1) as update:
    for step in range(2000):
        update(training.Progress(step + 1, 2000, 1.0, {"loss": 1.0}))
terminal.show("± done " * 1000)
print("±" * 100_000)
print("±" * 100_000, file=sys.stderr)
absl.logging.warning("±")
Path(sys.argv[1]).touch()
"""


def shown(tmp_path, redirected):
    """Run a program that shows much, in a shell, and say whether it came to its end."""
    (tmp_path / "shown.py").write_text(SHOWN)
    command = f"{sys.executable} {tmp_path / 'shown.py'} {tmp_path / 'done'} {redirected}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
    )
    assert (tmp_path / "done").exists(), done.stderr[-2000:]
    return done


@pytest.mark.long
@pytest.mark.parametrize(
    "redirected",
    [
        "2>&1 | head -2",
        pytest.param(
            "> /dev/full 2> /dev/full",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it"),
        ),
        ">&- 2>&- <&-",
    ],
)
def test_what_cannot_be_shown_is_never_fatal(tmp_path, redirected):
    assert shown(tmp_path, redirected).returncode == 0


def test_an_ascii_locale_is_never_fatal(tmp_path, monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = shown(tmp_path, "")
    assert done.returncode == 0 and "± done".encode() in done.stdout


@pytest.mark.long
def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path):
    code = (
        BEGIN + f"import os; file = open({str(tmp_path / 'metrics')!r}, 'w'); os.write(2, b'a library speaks')"
    )
    code = code.replace('"', r"\"")
    assert subprocess.run(["bash", "-c", f'{sys.executable} -c "{code}" 2>&-'], cwd=ROOT).returncode == 0
    assert (tmp_path / "metrics").read_bytes() == b""
