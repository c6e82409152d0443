"""Forks, multiprocessing, and the ways in which a process ends."""
import http.server
import multiprocessing
import pathlib
import signal
import subprocess
import sys

import pytest

import spanring
from conftest import COMMAND, ROOT

EXITS = {
    "normal": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "uncaught": ("raise ValueError('uncaught')", 1),
    "in the block": ("with spanring.span('left'): raise ValueError('uncaught')", 1),
    "sys.exit in the block": ("with spanring.span('left'): sys.exit(4)", 4),
    "shut down": ("spanring.shutdown()", 0),
    "flushed and os._exit": ("spanring.flush(); os._exit(5)", 5),
    "in a daemon thread": (
        "import threading\n"
        "begun = threading.Event()\n"
        "def work():\n"
        "    with spanring.span('in a thread'): begun.set(); threading.Event().wait()\n"
        "threading.Thread(target=work, daemon=True).start(); begun.wait()",
        0,
    ),
    "atexit": ("import atexit\n@atexit.register\ndef last():\n    with spanring.span('left'): pass", 0),
    "a span that is never ended": ("kept = spanring.span('left')", 0),
    "sys.exit in a thread": (
        "import threading\n"
        "def work():\n"
        "    with spanring.span('left'): sys.exit(6)\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()",
        0,
    ),
    "a thread that outlives main": (
        "import threading\n"
        "def work():\n"
        "    threading.main_thread().join()\n"
        "    with spanring.span('left'): pass\n"
        "threading.Thread(target=work).start()",
        0,
    ),
    "a SIGTERM handler that exits": (
        "import signal\n"
        "def handle(*_):\n"
        "    with spanring.span('left'): sys.exit(7)\n"
        "signal.signal(signal.SIGTERM, handle); os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        7,
    ),
    "a SIGTERM handler that ends at once": (
        "import signal\n"
        "def handle(*_):\n"
        "    spanring.flush(); os._exit(8)\n"
        "signal.signal(signal.SIGTERM, handle); os.kill(os.getpid(), signal.SIGTERM); signal.pause()",
        8,
    ),
    "SIGTERM after a flush": ("import signal\nspanring.flush(); os.kill(os.getpid(), signal.SIGTERM); signal.pause()", -signal.SIGTERM),
    "KeyboardInterrupt": (
        "import signal\nwith spanring.span('left'): os.kill(os.getpid(), signal.SIGINT); signal.pause()",
        -signal.SIGINT,
    ),
    "KeyboardInterrupt that is caught": (
        "import signal\n"
        "try:\n"
        "    with spanring.span('left'): os.kill(os.getpid(), signal.SIGINT); signal.pause()\n"
        "except KeyboardInterrupt: sys.exit(9)",
        9,
    ),
    "os.abort after a flush": ("spanring.flush(); os.abort()", -signal.SIGABRT),
    "another program after a flush": ("spanring.flush(); os.execv('/bin/true', ['true'])", 0),
    "an exception in atexit": ("import atexit\n@atexit.register\ndef last():\n    with spanring.span('left'): raise ValueError", 0),
}


@pytest.mark.parametrize("way", EXITS)
def test_everything_is_there_after_an_exit(script, way):
    text, status = EXITS[way]
    script.run("begin()\nfor _ in range(1000):\n    with spanring.span('span', key=1): pass\n" + text, status)
    names = script.names()
    assert names.count("span") == 1000
    assert ("left" in names) == ("left" in text)


def test_atexit_handlers_of_before_and_after_the_import_may_record(script):
    script.run(
        """
        begin()
        def last(name):
            with spanring.span(name): pass
        import atexit
        atexit.register(last, "after")
        with spanring.span("span"): pass
        """,
        before="""
        import atexit
        def first():
            import spanring
            with spanring.span("before"): pass
        atexit.register(first)
        """,
    )
    assert script.names() == ["after", "before", "span"]


def test_os_exit_loses_what_was_not_flushed_and_no_more(script):
    script.run(
        """
        begin()
        with spanring.span("flushed"): pass
        spanring.flush()
        with spanring.span("lost"): pass
        os._exit(0)
        """
    )
    assert "flushed" in script.names()


def test_a_fork_has_a_pipeline_of_its_own(script):
    script.run(
        """
        begin()
        with spanring.span("parent"):
            for number in range(5):
                child = os.fork()
                if child == 0:
                    with spanring.span(f"child {number}", pid=os.getpid()):
                        pass
                    if number % 2:
                        spanring.flush()
                        os._exit(0)
                    sys.exit(0)
                assert os.waitpid(child, 0)[1] == 0
            with spanring.span("after"):
                pass
        """
    )
    spans = script.spans()
    names = {span.name: span for span in spans}
    # sys.exit leaves the block of `parent` in the children, too, where it is not theirs to record.
    assert sorted(names) == ["after", "child 0", "child 1", "child 2", "child 3", "child 4", "parent"] and len(spans) == 7
    for name, span in names.items():
        if name != "parent":
            assert (span.trace_id, span.parent) == (names["parent"].trace_id, names["parent"].span_id)
    assert len({names[f"child {number}"].resource.get("process.pid") for number in range(5)}) in (1, 5)


def test_a_fork_in_a_thread(script):
    script.run(
        """
        import threading, warnings
        warnings.simplefilter("ignore")
        begin()
        def work():
            with spanring.span("thread"):
                child = os.fork()
                if child == 0:
                    with spanring.span("child"): pass
                    spanring.flush()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        with spanring.span("main"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        """
    )
    names = {span.name: span for span in script.spans()}
    assert sorted(names) == ["child", "main", "thread"]
    assert names["child"].parent == names["thread"].span_id and names["thread"].parent is None


def test_a_child_has_none_of_its_parents_messages(script):
    script.run(
        """
        os.environ["SPANRING_MAX_SPANS"] = "many"
        spanring.start(dir=place)
        child = os.fork()
        if child == 0:
            os._exit(len(spanring.messages()))
        assert os.waitpid(child, 0)[1] == 0
        assert "many" in spanring.messages()[0].text
        """
    )


def test_a_hundred_forks_while_threads_record_and_the_flusher_sends():
    storm = [sys.executable, ROOT / "ffi/tests/storm.py", COMMAND, "1", "100"]
    program = [sys.executable, pathlib.Path(__file__).with_name("forks.py")]
    done = subprocess.run([*storm, *program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_forks_while_threads_record(script):
    script.run(
        """
        import threading, warnings
        warnings.simplefilter("ignore")
        begin()
        stop = threading.Event()
        def work():
            while not stop.is_set():
                with spanring.span("work", key=1): pass
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        children = []
        for number in range(20):
            child = os.fork()
            if child == 0:
                for _ in range(10):
                    with spanring.span("child", number=number): pass
                spanring.flush(30)
                os._exit(0)
            children.append(child)
        stop.set()
        for thread in threads: thread.join()
        for child in children: assert os.waitpid(child, 0)[1] == 0
        """
    )
    spans = script.spans()
    assert len([span for span in spans if span.name == "child"]) == 200
    assert len({span.span_id for span in spans}) == len(spans)


MULTIPROCESSING = """
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor
warnings.simplefilter("ignore")

def work(number, headers):
    {each}
    with spanring.attach(headers), spanring.span(f"work {{number}}"):
        with spanring.span(f"inner {{number}}"):
            return number

if __name__ == "__main__":
    begin()
    context = multiprocessing.get_context({method!r})
    with spanring.span("main"):
        headers = spanring.inject({{}})
        processes = [context.Process(target=work, args=(number, headers)) for number in range(3)]
        for process in processes: process.start()
        for process in processes: process.join()
        assert [process.exitcode for process in processes] == [0] * 3
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            assert list(pool.map(work, range(3, 9), [headers] * 6)) == list(range(3, 9))
        pool = context.Pool(2)
        pool.starmap(work, [(number, headers) for number in range(9, 12)])
        pool.close()
        pool.join()
"""


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_multiprocessing(script, method):
    # A process that is not forked from ours starts a pipeline itself.
    each = "pass" if method == "fork" else "\n    ".join(["try: begin()", "except spanring.SpanringError as error: assert error.code == 6"])
    script.run(MULTIPROCESSING.format(method=method, each=each))
    spans = script.spans()
    names = {span.name: span for span in spans}
    assert len(names) == len(spans) == 25, sorted(span.name for span in spans)
    for number in range(12):
        assert names[f"work {number}"].parent == names["main"].span_id
        assert names[f"inner {number}"].parent == names[f"work {number}"].span_id


def test_multiprocessing_that_is_imported_later(script):
    script.run(
        """
        def work():
            with spanring.span("work"): pass
        if __name__ == "__main__":
            begin()
            assert "multiprocessing.util" not in sys.modules
            import multiprocessing
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start(); process.join()
        """
    )
    assert script.names() == ["work"]


def test_pools_whose_workers_are_replaced(script):
    script.run(
        """
        import multiprocessing, warnings
        from concurrent.futures import ProcessPoolExecutor
        warnings.simplefilter("ignore")
        def work(number):
            with spanring.span(f"work {number:02}"): return number
        if __name__ == "__main__":
            begin()
            with spanring.span("main"):
                pool = multiprocessing.get_context("fork").Pool(2, maxtasksperchild=2)
                assert pool.map(work, range(10), chunksize=1) == list(range(10))
                pool.close()
                pool.join()
                if sys.version_info >= (3, 11):
                    # Python replaces no forked workers there. (With several workers, or tasks that wait, its pool itself may hang.)
                    context = multiprocessing.get_context("spawn")
                    with ProcessPoolExecutor(1, context, begin, max_tasks_per_child=2) as pool:
                        assert [pool.submit(work, number).result() for number in range(10, 15)] == list(range(10, 15))
        """
    )
    last = 15 if sys.version_info >= (3, 11) else 10
    assert script.names() == ["main"] + [f"work {number:02}" for number in range(last)]


def test_programs_that_are_started_from_spans(script):
    script.run(
        """
        import subprocess
        begin()
        with spanring.span("outer"):
            for number in range(5):
                with spanring.span("run", number=number):
                    subprocess.run(["/bin/true"], check=True)
                    subprocess.run(["/bin/true"], check=True, preexec_fn=lambda: None)
                    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
        """
    )
    assert script.names() == ["outer"] + ["run"] * 5


LAST_WORDS = {"after a flush": ("", "spanring.flush()"), "flush_each_span": (", flush_each_span=True", "pass")}


@pytest.mark.parametrize("way", LAST_WORDS)
def test_what_is_flushed_survives_a_kill(script, way):
    setting, then = LAST_WORDS[way]
    script.run(
        f"""
        spanring.start(dir=place, ignore_environment=True{setting})
        child = os.fork()
        for number in range(20):
            with spanring.span("span", number=number): pass
            {then}
        os.kill(os.getpid(), 9) if child == 0 else os.waitpid(child, 0)
        os.kill(os.getpid(), 9)
        """,
        status=-signal.SIGKILL,
    )
    assert len(script.names()) == 40


def test_a_receiver_that_is_away_costs_each_span_a_second_at_most(script):
    script.run(
        """
        import time
        spanring.start(endpoint="http://127.0.0.1:9", ignore_environment=True, log_level="fatal", flush_each_span=True)
        for _ in range(2):
            with spanring.span("span"): pass
        assert spanring.stats()["created"] == 2
        os._exit(0)
        """
    )


def test_the_resource_says_that_it_is_python(script):
    script.run("begin()\nwith spanring.span('span'): pass")
    (span,) = script.spans()
    assert span.resource["telemetry.sdk.language"] == "python"


def test_a_signal_handler_in_python_may_have_spans(script):
    script.run(
        """
        import signal, time
        begin()
        count = 0
        def handle(*_):
            global count
            with spanring.span("handled", key=1): count += 1
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while count < 50:
            with spanring.span("work", it=lambda: str(count)): pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        spanring.flush()
        stats = spanring.stats()
        assert sum(stats["dropped"].values()) == 0, stats
        """
    )
    assert script.names().count("handled") >= 50


def test_flush_lets_other_threads_run(script):
    script.run(
        """
        import threading, time
        spanring.start(endpoint="http://127.0.0.1:9", ignore_environment=True, log_level="fatal")
        with spanring.span("span"): pass
        running = threading.Event()
        took = []
        def work():
            running.set()
            before = time.monotonic()
            try: spanring.flush(1.0)
            except spanring.SpanringError as error: assert error.code == 9, error
            took.append(time.monotonic() - before)
        thread = threading.Thread(target=work)
        thread.start()
        running.wait()
        turns = 0
        while thread.is_alive():
            turns += 1
            time.sleep(0.001)
        assert turns > 20, turns
        os._exit(0)
        """
    )


def test_subinterpreters_are_refused(script):
    if sys.version_info >= (3, 13):
        pytest.importorskip("_interpreters")
        text = """
        import _interpreters
        inner = _interpreters.create()
        found = _interpreters.run_string(inner, "import spanring")
        assert found is not None and "ImportError" in str(found.type) + str(found), found
        """
    else:
        pytest.importorskip("_xxsubinterpreters")
        text = """
        import _xxsubinterpreters as interpreters
        inner = interpreters.create()
        try:
            interpreters.run_string(inner, "import spanring")
        except Exception as error:
            assert "ImportError" in str(error), error
        else:
            raise AssertionError
        """
    script.run(text)


def test_beside_another_zstd(script):
    pytest.importorskip("zstandard")
    for order in ("import zstandard, spanring", "import spanring, zstandard"):
        script.run(
            f"""
            {order}
            begin()
            for number in range(2000):
                with spanring.span("span", number=number): pass
                if number % 10 == 0:
                    data = os.urandom(1000) * 10
                    assert zstandard.decompress(zstandard.compress(data, 5)) == data
            """
        )
    assert len(script.names()) == 4000


def test_the_extension_shows_one_symbol():
    import subprocess

    from spanring import _spanring

    shown = subprocess.run(["nm", "-D", "--defined-only", _spanring.__file__], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines()] == ["PyInit__spanring"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_process_that_ends_itself_by_a_signal_has_flushed(script, name):
    # As uvicorn does, when it was told to stop and has answered what was asked.
    script.run(
        f"""
        import signal
        begin()
        for _ in range(1000):
            with spanring.span("span"): pass
        signal.raise_signal(signal.{name})
        """,
        -getattr(signal, name),
    )
    assert script.names() == ["span"] * 1000


def test_signals_that_do_not_end_it_are_raised_as_ever(script):
    done = script.run(
        """
        import signal
        begin()
        signal.signal(signal.SIGTERM, lambda number, frame: print("handled", number))
        spanring.flush = None
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signalnum := signal.SIGCHLD)
        for wrong in ("x", 12345):
            try:
                signal.raise_signal(wrong)
            except (TypeError, OSError, ValueError) as error:
                print(type(error).__name__)
        """
    )
    assert done.stdout.split() == ["handled", "15", "TypeError", "OSError"]


def test_a_request_to_terminate_does_not_cut_off_the_exit(tmp_path):
    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            # The process is at its exit by now: nothing else has it deliver.
            child.send_signal(signal.SIGTERM)
            self.server.asked += 1
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        server.asked = 0
        text = f"""
import spanring
spanring.start(endpoint="http://127.0.0.1:{server.server_port}", flush_interval=3600, batch_size=10, max_spans=1000, ignore_environment=True)
for _ in range(5):
    spanring.span("span").end()
print("recorded", flush=True)
"""
        child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "recorded\n"
        server.timeout = 60
        server.handle_request()
        assert child.wait(60) == 0
        assert server.asked == 1


def test_a_child_has_the_settings_that_changed(script):
    script.run(
        """
        with open("spans.toml", "w") as file:
            file.write('sampler = "always_on"\\nbatch_size = 20\\n')
        spanring.start(dir=place, config="spans.toml", ignore_environment=True)
        with spanring.span("parent's"):
            pass
        spanring.change_settings(sampler="always_off")
        child = os.fork()
        if child == 0:
            with spanring.span("child's") as span:
                found = spanring.settings()
                os._exit(3 if span.is_recording else 4 if found["batch_size"]["value"] != "20" else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """
    )
    assert script.names() == ["parent's"]
