//! A span in Python beside the OpenTelemetry SDK: what ffi/python/bench.py measures.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Run, made, root};
use crate::measure::{Numbers, two_clock_reads};

/// Where spanring and OpenTelemetry are installed, for one version of Python each.
fn venv(version: &str) -> PathBuf {
    root().join("target/bench/python").join(version)
}

/// The interpreter that is to be measured.
fn interpreter() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".into())
}

/// Its version, if it is there and can make environments that have pip.
fn version() -> Option<String> {
    let script = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])";
    let output = Command::new(interpreter()).args(["-c", script]).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Installs both; false if there is nothing to do so with.
pub fn prepare() -> Result<bool, String> {
    let Some(version) = version() else {
        eprintln!("bench: skipped: python, as there is no {} with venv and pip", interpreter());
        return Ok(false);
    };
    let venv = venv(&version);
    let pip = venv.join("bin/pip");
    if !pip.exists() {
        made(Command::new(interpreter()).args(["-m", "venv"]).arg(&venv))?;
    }
    let install = || {
        let mut command = Command::new(&pip);
        command.args(["install", "--quiet", "--disable-pip-version-check"]);
        command
    };
    if let Err(error) = made(install().args(["opentelemetry-sdk", "setuptools>=77"])) {
        eprintln!("bench: skipped: python, as opentelemetry-sdk cannot be installed: {error}");
        return Ok(false);
    }
    // The same library as in C.
    let prefix = root().join("target/ffi");
    made(Command::new(root().join("ffi/install")).arg(&prefix))?;
    made(
        install()
            .arg("--no-build-isolation")
            .arg(root().join("ffi/python"))
            .env("SPANRING_PREFIX", &prefix),
    )?;
    Ok(true)
}

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let version = version().expect("a section that is not skipped has one");
    let before = two_clock_reads();
    let output = Command::new(venv(&version).join("bin/python"))
        .arg(root().join("ffi/python/bench.py"))
        .args(["--json", if run.quick { "5" } else { "15" }])
        .stderr(Stdio::inherit())
        .output()
        .expect("it was installed");
    assert!(output.status.success(), "it said why");
    let mut numbers = Numbers::default();
    numbers.set("two clock reads ns", (before + two_clock_reads()) / 2.0);
    let measured: std::collections::BTreeMap<String, f64> =
        serde_json::from_slice(&output.stdout).expect("names and numbers");
    for (name, number) in measured {
        numbers.set(name, number);
    }
    numbers
}
