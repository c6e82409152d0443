//! A span in Ruby: what ffi/ruby/bench.rb measures.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Run, made, root};
use crate::measure::{Numbers, two_clock_reads};

/// The interpreter that is to be measured.
fn interpreter() -> String {
    std::env::var("RUBY").unwrap_or_else(|_| "ruby".into())
}

/// Its version, if it is there with the headers that the gem needs.
fn version() -> Option<String> {
    let script =
        "exit 1 unless File.exist?(RbConfig::CONFIG['rubyhdrdir'] + '/ruby.h'); print RUBY_VERSION";
    let output = Command::new(interpreter()).args(["-e", script]).stderr(Stdio::null()).output();
    let output = output.ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()
}

/// Where the gem is installed, for one version of Ruby each.
fn gems(version: &str) -> PathBuf {
    root().join("target/bench/ruby").join(version)
}

/// Installs the gem; false if there is nothing to do so with.
pub fn prepare() -> Result<bool, String> {
    let Some(version) = version() else {
        eprintln!("bench: skipped: ruby, as there is no {} with headers", interpreter());
        return Ok(false);
    };
    // The same library as in C.
    let prefix = root().join("target/ffi");
    made(Command::new(root().join("ffi/install")).arg(&prefix))?;
    made(
        Command::new(root().join("ffi/ruby/install"))
            .args(["--quiet", "--install-dir"])
            .arg(gems(&version))
            .env("SPANRING_PREFIX", &prefix),
    )?;
    Ok(true)
}

/// Measures.
pub fn run(run: &Run) -> Numbers {
    let version = version().expect("a section that is not skipped has one");
    let before = two_clock_reads();
    let output = Command::new(interpreter())
        .arg(root().join("ffi/ruby/bench.rb"))
        .args(["--json", if run.quick { "21" } else { "101" }])
        .env("GEM_PATH", gems(&version))
        .stderr(Stdio::inherit())
        .output()
        .expect("it was there before");
    assert!(output.status.success(), "it said why");
    let measured: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("what it always prints");
    assert_eq!(measured["dropped"], 0, "spans were dropped, so not all of them were measured");
    let mut numbers = Numbers::default();
    numbers.set("two clock reads ns", (before + two_clock_reads()) / 2.0);
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
    numbers.set("Ruby 3.", minor.expect("a version"));
    for (name, case) in measured["cases"].as_object().expect("what it always prints") {
        for unit in ["ns", "objects"] {
            numbers.set(format!("{name} {unit}"), case[unit].as_f64().expect("a number"));
        }
    }
    numbers
}
