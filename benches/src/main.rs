//! Runs every section, each in a process of its own, and says how the numbers stand to what they should be.
//!
//! ```text
//! bench [--quick | --docs] [--data DIR] [--out DIR] [SECTION...]
//! bench --section NAME [--quick] [--data DIR]      one section here, its numbers as JSON
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use spanring_benches::sections::{self, ALL, Run, Section};
use spanring_benches::targets::{self, Results};
use spanring_benches::{docs, machine, measure::median, plot};

const USAGE: &str = "usage: bench [--quick | --docs] [--data DIR] [--out DIR] [SECTION...]
       bench --section NAME [--quick] [--data DIR]";

/// Processes that measure single spans, recorded or not; the medians of their numbers count.
const PROCESSES: usize = 7;

struct Options {
    run: Run,
    out: PathBuf,
    /// Write the numbers into the documents.
    docs: bool,
    here: Option<&'static Section>,
    sections: Vec<&'static Section>,
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("bench: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(section) = options.here {
        (section.run)(&options.run).print();
        return ExitCode::SUCCESS;
    }
    match drive(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("bench: {message}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options, String> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    let mut options =
        Options { run: Run { quick: false, data }, out, docs: false, here: None, sections: vec![] };
    let section = |name: &str| {
        ALL.iter().find(|section| section.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|section| section.name).collect();
            format!("there is no section {name}; there are: {}", names.join(", "))
        })
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--quick" => options.run.quick = true,
            "--docs" => options.docs = true,
            "--data" => options.run.data = value()?.into(),
            "--out" => options.out = value()?.into(),
            "--section" => options.here = Some(section(&value()?)?),
            name if name.starts_with('-') => return Err(format!("there is no option {name}")),
            name => options.sections.push(section(name)?),
        }
    }
    if options.docs && (options.run.quick || !options.sections.is_empty()) {
        return Err("--docs writes the numbers of a whole run".into());
    }
    if options.sections.is_empty() {
        options.sections = ALL.iter().collect();
    }
    Ok(options)
}

/// Runs the sections; true if every number that must be reached was.
fn drive(options: &Options) -> Result<bool, String> {
    let mut results = Results::new();
    let mut ready = Vec::new();
    for section in &options.sections {
        if sections::prepare(section.name)? {
            ready.push(section);
        } else if options.docs {
            return Err("--docs writes the numbers of all sections".into());
        }
    }
    for section in ready {
        eprintln!("bench: {} ({})", section.name, section.about);
        results.insert(section.name.to_owned(), medians(section, &options.run)?);
    }
    let describe = |path: &Path, error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&options.out).map_err(|error| describe(&options.out, error))?;
    let machine = machine::describe();
    let json =
        serde_json::json!({ "machine": machine, "quick": options.run.quick, "results": results });
    let mut files = vec![("results.json".to_owned(), format!("{json:#}\n"))];
    files.extend(plot::all(&results));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let write =
        |path: &Path, text: &str| std::fs::write(path, text).map_err(|error| describe(path, error));
    for (name, text) in files {
        write(&options.out.join(&name), &text)?;
        if options.docs && name.ends_with(".svg") {
            write(&root.join("docs/plots").join(&name), &text)?;
        }
    }
    if options.docs {
        let read =
            |path: &Path| std::fs::read_to_string(path).map_err(|error| describe(path, error));
        let counts = read(&root.join("benches/counts.baseline"))?;
        for page in
            ["docs/performance.md", "README.md", "ffi/python/README.md", "ffi/ruby/README.md"]
        {
            let page = root.join(page);
            write(&page, &docs::rewrite(&read(&page)?, &results, &machine, &counts)?)?;
        }
    }
    println!("{machine}\n");
    print!("{}", targets::numbers(&results));
    let (table, reached) = targets::table(&results);
    print!("\n{table}");
    println!("\nresults and plots: {}", options.out.display());
    Ok(reached)
}

/// The median of each number of several processes, where the placement of code and memory counts.
fn medians(section: &Section, run: &Run) -> Result<BTreeMap<String, f64>, String> {
    let single = matches!(section.name, "hot" | "off" | "c" | "python" | "ruby");
    let processes = if single { PROCESSES } else { 1 };
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for _ in 0..processes {
        for (name, value) in measure(section, run)? {
            all.entry(name).or_default().push(value);
        }
    }
    Ok(all.into_iter().map(|(name, mut values)| (name, median(&mut values))).collect())
}

fn measure(section: &Section, run: &Run) -> Result<BTreeMap<String, f64>, String> {
    let program = std::env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let mut command = Command::new(program);
    command.args(["--section", section.name]).arg("--data").arg(&run.data);
    if run.quick {
        command.arg("--quick");
    }
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|error| format!("section {}: {error}", section.name))?;
    if !output.status.success() {
        return Err(format!("section {} failed: {}", section.name, output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("section {}: its numbers: {error}", section.name))
}
