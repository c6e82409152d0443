//! A span through the C library, against `span!`: programs in C, each with its own library and flusher, are asked for bursts in turn
//! with the Rust path here. All on one core, nothing dropped.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use spanring::{Settings, span};
use spanring_exporter::Pipeline;

use super::{Run, hot, made, root};
use crate::measure::{Numbers, median, pin};

const PATIENCE: Duration = Duration::from_secs(30);
/// Spans before each burst that are not timed.
const FIRST: usize = 64;
/// How a program is linked.
const LIBRARIES: [&str; 2] = ["shared", "static"];
/// A name, what it is called for the C program, and the same in Rust.
type Shape = (&'static str, &'static str, fn() -> u64);

/// A burst, and the letter that asks a program for it.
const SHAPES: [Shape; 2] = [("bare", "b", hot::bare), ("4 attributes", "a", hot::four_attributes)];

/// Builds the library and the programs.
pub fn prepare() -> Result<(), String> {
    let prefix = root().join("target/ffi");
    made(Command::new(root().join("ffi/install")).arg(&prefix))?;
    for library in LIBRARIES {
        let program = program(library);
        let place = program.parent().expect("it lies in a folder");
        std::fs::create_dir_all(place).map_err(|error| format!("{}: {error}", place.display()))?;
        let lib = prefix.join("lib");
        let mut cc = Command::new("cc");
        cc.args(["-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
            .arg(prefix.join("include"))
            .arg(root().join("benches/spans.c"))
            .arg("-o")
            .arg(&program);
        match library {
            "shared" => cc
                .arg(format!("-Wl,-rpath,{}", lib.display()))
                .arg("-L")
                .arg(&lib)
                .arg("-lspanring"),
            _ => cc.arg(lib.join("libspanring.a")).args(["-lpthread", "-ldl", "-lm"]),
        };
        made(&mut cc)?;
    }
    Ok(())
}

fn program(library: &str) -> PathBuf {
    root().join("target/bench/c").join(library)
}

/// Measures.
pub fn run(run: &Run) -> Numbers {
    pin(0);
    let spans = root().join("target/bench/c/spans");
    // Those of the run before.
    let _ = std::fs::remove_dir_all(&spans);
    let settings = Settings::builder().dir(spans.join("rust")).build();
    let pipeline = Pipeline::builder().settings(settings).install().expect("nothing is installed");
    let mut programs = LIBRARIES.map(|library| Program::start(library, &spans.join(library)));
    let rounds = if run.quick { 51 } else { 201 };
    let mut samples = [const { [const { Vec::new() }; SHAPES.len()] }; LIBRARIES.len() + 1];
    for _ in 0..rounds {
        for (shape, (_, letter, burst)) in SHAPES.iter().enumerate() {
            for _ in 0..FIRST {
                let _span = span!("bench.first");
            }
            let before = Instant::now();
            burst();
            samples[0][shape].push(before.elapsed().as_nanos() as f64 / hot::BURST as f64);
            pipeline.flush(PATIENCE).expect("the flusher runs");
            for (program, samples) in programs.iter_mut().zip(&mut samples[1..]) {
                samples[shape].push(program.burst(letter));
            }
        }
    }
    assert_eq!(
        pipeline.stats().engine.dropped.total(),
        0,
        "a benchmark that drops measures nothing"
    );
    programs.into_iter().for_each(Program::end);
    let mut numbers = Numbers::default();
    for (name, samples) in ["rust"].iter().chain(&LIBRARIES).zip(&mut samples) {
        for ((shape, _, _), samples) in SHAPES.iter().zip(samples) {
            numbers.set(format!("{name}, {shape} ns"), median(samples));
        }
    }
    numbers
}

/// A program in C that makes a burst whenever it is asked for one.
struct Program {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Program {
    fn start(library: &str, dir: &Path) -> Self {
        let mut child = Command::new(program(library))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the run has built it");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Program { child, input, output }
    }

    /// Nanoseconds a span.
    fn burst(&mut self, letter: &str) -> f64 {
        self.input.write_all(letter.as_bytes()).expect("it reads");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        line.trim().parse().expect("it said why it has no number")
    }

    /// It fails if it has dropped anything.
    fn end(mut self) {
        drop(self.input);
        assert!(self.child.wait().expect("it was started").success(), "it said why");
    }
}
