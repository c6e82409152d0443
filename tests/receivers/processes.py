"""Receivers as processes: started on free ports, waited for with a deadline, and always ended."""

import os
import signal
import socket
import subprocess
import time

START_TIMEOUT = 60
STOP_TIMEOUT = 10
# Between a free port's choice and its use somebody else may take it.
START_ATTEMPTS = 3


class Failure(Exception):
    """What keeps the checks from going on."""


def end_with_signals():
    """Turns signals into an exit, so that `with` ends what was started."""

    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)


def free_ports(count):
    """So many TCP ports of the loopback interface that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until(what, condition, timeout):
    """Polls `condition` until it is true; fails after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {timeout} s")
        time.sleep(0.02)


class Receiver:
    """A running receiver; its output goes to the file `log`."""

    def __init__(self, name, ports, command, logs, environment=None):
        """Starts what `command` makes of `ports` free ports, and waits until it listens on the first."""
        self.name = name
        self.log = os.path.join(logs, f"{name}.log")
        for attempt in range(START_ATTEMPTS):
            numbers = free_ports(ports)
            self.port = numbers[0]
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    command(*numbers),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **(environment or {})},
                    cwd=logs,
                )
            try:
                wait_until(f"{name} listens on port {self.port}", self.is_ready, START_TIMEOUT)
            except BaseException:
                self.stop()
                raise
            if self.process.poll() is None:
                return
        raise Failure(f"{name} ended {START_ATTEMPTS} times at its start: {self.tail()}")

    def is_ready(self):
        """Whether it listens, or ended."""
        if self.process.poll() is not None:
            return True
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def tail(self):
        """The end of what it said."""
        with open(self.log, "rb") as log:
            return log.read()[-2000:].decode("utf-8", "replace").strip()

    def text(self):
        """All that it said so far."""
        with open(self.log, encoding="utf-8", errors="replace", newline="") as log:
            return log.read()

    def clear(self):
        """Forgets what it said; it goes on at the beginning of the file."""
        os.truncate(self.log, 0)

    def stop(self):
        """Ends the process."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
