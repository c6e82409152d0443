"""The program of the fork storm in Python: forks.py DIR ENDPOINT FORKS, run by ffi/tests/storm.py, which says what it prints."""
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings

import spanring

AT_ONCE, SPANS = 4, 30
process = 0


def record(number, under=False):
    with spanring.span("forked", process=process, number=number) as span:
        if under:
            span.set(under=1)


def keep_recording(stop):
    number = 0
    while not stop.is_set():
        with spanring.span("outer", process=process):
            record(number, under=True)
        number += 1
        time.sleep(0.002)


def say(spans):
    """All is delivered, and the counts say so."""
    spanring.flush(None)
    stats = spanring.stats()
    assert (stats["created"], stats["sealed"], stats["resident"]) == (spans, spans, 0), stats
    assert not any(stats["dropped"].values()), stats
    for sink in stats["sinks"]:
        assert sink["sealed"] == spans and sink["delivered"] == spans + sink["adopted"], sink
        assert not any(sink["dropped"].values()) and sink["queued"] == sink["spooled"] == 0, sink
    os.write(1, f"{process} {spans}\n".encode())


def record_all(number):
    """What a child does. Its parent's span is current."""
    global process
    process = number
    # Kills, if it hangs.
    signal.alarm(120)
    for number in range(SPANS):
        record(number, under=True)


def in_process(number):
    record_all(number)
    say(SPANS)


def child(number):
    # At its end, Python would join those of its parent.
    multiprocessing.process._children.clear()
    way = number % 6
    forked = os.fork() if way == 1 else None
    if forked == 0:
        # By a child that had recorded nothing yet.
        number = -number
    if way == 2:
        parent = spanring.current_span()
        signal.alarm(120)
        global process
        process = number

        def work():
            for number in range(SPANS // 3):
                with spanring.span("in a thread", None, "internal", parent, process=process, under=1):
                    pass

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        record_all(number)
    if way == 3:
        forked = os.fork()
        if forked == 0:
            record_all(-number)
    say(SPANS)
    if forked:
        assert os.waitpid(forked, 0)[1] == 0
    if way in (3, 4):
        sys.exit()
    os._exit(0)


def wait(started):
    """For a child: a number, or a process of multiprocessing, which waits for its own."""
    if isinstance(started, int):
        assert os.waitpid(started, 0)[1] == 0
    else:
        started.join()
        assert started.exitcode == 0


def main():
    _, place, endpoint, forks = sys.argv
    warnings.simplefilter("ignore", DeprecationWarning)
    spanring.start(dir=place, endpoint=endpoint, ignore_environment=True)
    stop = threading.Event()
    threads = [threading.Thread(target=keep_recording, args=(stop,), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    running = []
    for number in range(1, int(forks) + 1):
        with spanring.span("fork", process=process):
            if number % 6 == 5:
                running.append(context.Process(target=in_process, args=(number,)))
                running[-1].start()
            else:
                running.append(os.fork())
                if running[-1] == 0:
                    child(number)
        if len(running) == AT_ONCE:
            wait(running.pop(0))
    for started in running:
        wait(started)
    stop.set()
    for thread in threads:
        thread.join()
    say(spanring.stats()["created"])


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        # In a child, too, so that its parent hears of it.
        if not isinstance(error, SystemExit):
            import traceback

            traceback.print_exc()
            os._exit(1)
        raise
