"""Builds the C library of spanring with ffi/install, and the extension module against it.

SPANRING_PREFIX=DIR takes a library that ffi/install put there instead.
"""
import os
import pathlib
import re
import shutil
import subprocess

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


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
        at = prefix()
        ext.include_dirs.append(str(at / "include"))
        ext.extra_objects.append(str(at / "lib" / "libspanring.a"))
        ext.depends.append(str(at / "lib" / "libspanring.a"))
        super().build_extension(ext)


setup(
    version=version(),
    ext_modules=[
        Extension(
            "spanring._spanring",
            ["src/_spanring.c"],
            extra_compile_args=["-std=c11", "-O2", "-fno-plt", "-fvisibility=hidden", "-Wall", "-Wextra"],
            # Nobody else sees the library's symbols, and it stays loaded: it has a thread and exit handlers.
            extra_link_args=["-Wl,--exclude-libs,ALL", "-Wl,-z,nodelete", "-lpthread", "-ldl", "-lm"],
        )
    ],
    cmdclass={"build_ext": Build},
)
