//! Arbitrary bytes as the file that `CONFIG` names: never a panic; a refusal names a line that there is, and changes nothing; what is taken is
//! in force, and taking it again changes nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring::settings::Settings;
use spanring_exporter::fuzzing::config_lines;

fuzz_target!(|text: &[u8]| {
    let last = 1 + text.iter().filter(|byte| **byte == b'\n').count();
    let in_text = |line: u32| (1..=last).contains(&(line as usize));
    let lines = match config_lines(text) {
        Ok(lines) => lines,
        Err(problem) => return assert!(problem.starts_with("line "), "{problem}"),
    };
    assert!(lines.iter().all(|(line, ..)| in_text(*line)));
    let pairs = || lines.iter().map(|(line, name, value)| (*line, name.as_str(), value.as_str()));
    let settings = Settings::default();
    for running in [false, true] {
        match settings.with_file(pairs(), running) {
            Ok((changed, notes)) => {
                assert!(running || notes.is_empty());
                assert_eq!(changed.with_file(pairs(), running).unwrap(), (changed.clone(), vec![]));
                assert_eq!(changed.with_file([], false).unwrap().0, settings);
            }
            Err(problem) => assert!(in_text(problem.line)),
        }
    }
});
