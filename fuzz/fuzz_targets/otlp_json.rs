//! Any bytes are a batch or an error; and what was read survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spanring_cli::otlp_json::{parse_line, write_line};

fuzz_target!(|line: &[u8]| {
    match parse_line(line) {
        Ok(batch) => {
            let mut written = Vec::new();
            write_line(&batch, &mut written).expect("a parsed batch is consistent");
            let again = parse_line(&written).expect("what was written can be read");
            // By their text: NaN is not equal to itself.
            assert_eq!(format!("{again:?}"), format!("{batch:?}"));
        }
        Err(error) => assert!(!error.problem.is_empty(), "an error says what is wrong"),
    }
});
