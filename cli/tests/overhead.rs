//! `spanring overhead`, as a process.

mod common;

use common::{json, run, stderr};

#[test]
fn it_says_what_a_span_costs_its_thread_and_the_flusher_and_what_share_that_is() {
    let output = run(&["overhead", "--seconds", "1", "--attributes", "6", "--json"]);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let report = json(&output);
    let ns = |name: &str| report["ns"][name].as_f64().expect("it is a number");
    assert_eq!(
        (report["ns"]["attributes"].as_u64(), report["rate"].as_u64()),
        (Some(6), Some(10_000))
    );
    assert!(ns("rounds") >= 11.0);
    assert!(ns("bare") > 0.0 && ns("two_clock_reads") > 0.0, "{report}");
    // What they do differs by so much that no other program hides it.
    assert!(ns("with_attributes") > ns("bare") && ns("bare") > ns("disabled"), "{report}");
    let share = |of: &str| report["share_of_a_core"][of].as_f64().expect("it is a number");
    for (of, nanos) in [("threads", "with_attributes"), ("flusher", "flusher_with_attributes")] {
        assert!((share(of) - ns(nanos) * 10_000.0 / 1e9).abs() < 1e-12, "{report}");
        assert!(share(of) > 0.0);
    }
}

#[test]
fn as_text_it_names_the_rate_and_the_attributes() {
    let arguments = ["overhead", "--seconds", "1", "--attributes", "1", "--rate", "500"];
    let output = run(&arguments);
    assert_eq!((output.status.code(), &*stderr(&output)), (Some(0), ""));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    assert_eq!(printed.lines().count(), 7, "{printed}");
    assert!(printed.contains("\n  with 1 attribute "), "{printed}");
    let last = "At 500 spans a second with 1 attribute, the threads that make them take ";
    assert!(printed.lines().last().is_some_and(|line| line.starts_with(last)), "{printed}");
}

#[test]
fn what_cannot_be_is_wrong_usage() {
    for wrong in [["--attributes", "129"], ["--seconds", "0"], ["--rate", "0"]] {
        let output = run(&["overhead", wrong[0], wrong[1]]);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
