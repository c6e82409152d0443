"""What comes with the package: the README's examples, type stubs, the way it is built."""
import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

import spanring
from conftest import ROOT, read

PYTHON = ROOT / "ffi" / "python"
EXAMPLES = [
    (page.name, at, text)
    for page in (PYTHON / "README.md", ROOT / "docs" / "python.md", ROOT / "docs" / "recipes.md")
    for at, text in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))
]


@pytest.mark.parametrize("page, at, text", EXAMPLES, ids=[f"{page} {at}" for page, at, _ in EXAMPLES])
def test_examples_run_as_they_are_printed(tmp_path, page, at, text):
    if "opentelemetry" in text:
        pytest.importorskip("opentelemetry")
    file = tmp_path / "example.py"
    file.write_text(text)
    done = subprocess.run([sys.executable, "-W", "error", str(file)], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "spans")


def test_the_first_example_does_what_it_says(tmp_path):
    page, _, text = EXAMPLES[0]
    assert page == "README.md"
    (tmp_path / "example.py").write_text(text)
    subprocess.run([sys.executable, str(tmp_path / "example.py")], check=True, cwd=tmp_path)
    buy, query = read(tmp_path / "spans")
    assert (buy.name, buy.attributes, buy.events) == ("buy", {"customer": 7, "total": 12.5}, [("paid", {"by": "card"})])
    assert (query.name, query.parent) == ("db.query", buy.span_id)
    assert query.attributes == {"system": "postgresql", "statement": "select ..."}


def test_the_stub_names_what_there_is():
    stub = ast.parse((PYTHON / "src" / "spanring" / "__init__.pyi").read_text())
    names = set()
    members = {}
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
            members[node.name] = {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.add(node.targets[0].id)
    assert {name for name in names if not name.startswith("_")} == set(spanring.__all__)
    for kind in (spanring.Span, spanring.Context):
        there = {name for name in vars(kind) if not name.startswith("_")} | {"__enter__", "__exit__"}
        assert members[kind.__name__] - {"__new__"} == there
    assert (pathlib.Path(spanring.__file__).parent / "py.typed").exists()
    assert (pathlib.Path(spanring.__file__).parent / "__init__.pyi").exists()


def test_the_version_is_the_workspaces():
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    assert spanring.__version__ == version
    from importlib.metadata import version as installed

    assert installed("spanring") == version


def build(tmp_path, *command, **environment):
    command = command or ("setup.py", "build_ext", "--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp"))
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=PYTHON,
        env={**{name: text for name, text in os.environ.items() if name != "SPANRING_PREFIX"}, **environment},
    )


def test_a_build_without_cargo_says_so(tmp_path):
    done = build(tmp_path, PATH=str(tmp_path))
    assert done.returncode != 0
    assert "cargo is missing" in done.stderr and "rustup" in done.stderr


def test_a_prefix_without_a_library_says_so(tmp_path):
    done = build(tmp_path, SPANRING_PREFIX=str(tmp_path))
    assert done.returncode != 0
    assert "has no lib/libspanring.a" in done.stderr


def test_a_build_without_pythons_headers_says_so(tmp_path):
    elsewhere = "import setuptools, runpy, distutils.sysconfig as of; of.get_python_inc = lambda *_, **__: '/nowhere'; runpy.run_path('setup.py')"
    done = build(tmp_path, "-c", elsewhere, "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path))
    assert done.returncode != 0
    assert "Python's headers are missing" in done.stderr and "/nowhere" in done.stderr


def test_a_source_distribution_says_that_there_is_none(tmp_path):
    done = build(tmp_path, "setup.py", "sdist", "--dist-dir", str(tmp_path))
    assert done.returncode != 0
    assert "has no source distribution" in done.stderr
    assert not list(tmp_path.iterdir())
