"""Builds the C library of spanring with ffi/install, and the extension module against it.

SPANRING_PREFIX=DIR takes a library that ffi/install put there instead.
SPANRING_ABI3=1 builds the slower module that runs on every Python from 3.9 on, and a wheel that says so.
"""
import os
import pathlib
import re
import shutil
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ABI3 = os.environ.get("SPANRING_ABI3", "") not in ("", "0")


def version():
    manifest = ROOT / "Cargo.toml"
    if not manifest.exists():
        raise SystemExit(f"spanring is built from its repository: {manifest} is missing")
    return re.search(r'^version = "(.*)"', manifest.read_text(encoding="utf-8"), re.MULTILINE).group(1)


def prefix():
    given = os.environ.get("SPANRING_PREFIX")
    if given:
        found = pathlib.Path(given).resolve()
        if not (found / "lib" / "libspanring.a").exists():
            raise SystemExit(f"SPANRING_PREFIX={given} has no lib/libspanring.a; `ffi/install {given}` puts it there")
        return found
    if shutil.which("cargo") is None:
        raise SystemExit(
            "spanring's engine is written in Rust, and cargo is missing: install a Rust toolchain (https://rustup.rs), "
            "or set SPANRING_PREFIX to where ffi/install put the C library"
        )
    place = HERE / "build" / "prefix"
    subprocess.run([str(ROOT / "ffi" / "install"), str(place)], check=True)
    return place


class Build(build_ext):
    def build_extension(self, ext):
        # Before the engine, which takes minutes.
        if not any((pathlib.Path(place) / "Python.h").exists() for place in self.include_dirs):
            raise SystemExit(
                f"Python's headers are missing: no Python.h in {', '.join(self.include_dirs)}; "
                "install them (Debian and Ubuntu: python3-dev; Fedora: python3-devel)"
            )
        at = prefix()
        ext.include_dirs.append(str(at / "include"))
        ext.extra_objects.append(str(at / "lib" / "libspanring.a"))
        ext.depends.append(str(at / "lib" / "libspanring.a"))
        super().build_extension(ext)


class NoSource(sdist):
    def run(self):
        raise SystemExit(
            "spanring has no source distribution, since its engine lies outside ffi/python: build a wheel with `pip wheel ./ffi/python`"
        )


setup(
    version=version(),
    ext_modules=[
        Extension(
            "spanring._spanring",
            ["src/_spanring.c"],
            depends=["src/_limited.h", "src/_limited_types.h"],
            define_macros=[("Py_LIMITED_API", "0x03090000")] if ABI3 else [],
            py_limited_api=ABI3,
            # What the headers do not declare is not in the stable ABI.
            extra_compile_args=["-std=c11", "-O2", "-fno-plt", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
            # Nobody else sees the library's symbols, and it stays loaded: it has a thread and exit handlers.
            extra_link_args=["-Wl,--exclude-libs,ALL", "-Wl,-z,nodelete", "-lpthread", "-ldl", "-lm"],
        )
    ],
    cmdclass={"build_ext": Build, "sdist": NoSource},
    # A folder of its own: what lies in one goes into the wheel.
    options={"bdist_wheel": {"py_limited_api": "cp39"}, "build": {"build_base": "build/abi3"}} if ABI3 else {},
)
