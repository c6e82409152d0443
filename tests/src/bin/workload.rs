//! A program that records spans and then ends in the way that its argument names.
//!
//! The installed pipeline writes to `SPANRING_DIR`. `tests/tests/processes.rs` looks at what is left.

use std::io::BufRead;
use std::process::exit;
use std::time::Duration;

use spanring::span;
use spanring_exporter::Pipeline;

/// Spans that each ending records before it ends.
const SPANS: usize = 1000;

fn record(count: usize) {
    for i in 0..count {
        let _span = span!("work", "number" = i);
    }
}

/// Says `text` on standard output, and waits for a line on standard input.
fn say_and_wait(text: &str) {
    println!("{text}");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("standard input can be read");
}

fn main() {
    let ending = std::env::args().nth(1).unwrap_or_default();
    let pipeline = Pipeline::builder().service_name("workload").install().expect("it starts");
    match ending.as_str() {
        "return" => {
            record(SPANS);
            // Neither flushed nor shut down nor dropped.
            std::mem::forget(pipeline);
        }
        "exit" => {
            record(SPANS);
            exit(7);
        }
        "exit-in-thread" => {
            let thread = std::thread::spawn(|| {
                record(SPANS);
                exit(7);
            });
            let _ = thread.join();
        }
        "panic-in-thread" => {
            let thread = std::thread::spawn(|| {
                record(SPANS - 1);
                let _span = span!("work");
                panic!("on purpose");
            });
            assert!(thread.join().is_err());
            std::mem::forget(pipeline);
        }
        "panic" => {
            record(SPANS);
            panic!("on purpose");
        }
        "abort" => {
            record(SPANS);
            pipeline.flush(Duration::from_secs(60)).expect("it flushes");
            record(SPANS);
            std::process::abort();
        }
        "wait" => {
            // Flushed spans, then some more that nobody flushes; then whatever signal comes.
            record(SPANS);
            pipeline.flush(Duration::from_secs(60)).expect("it flushes");
            record(10);
            say_and_wait("recorded");
        }
        "busy" => {
            // Never stops recording: it is killed in the middle of writing.
            std::thread::spawn(|| {
                loop {
                    record(SPANS);
                }
            });
            loop {
                pipeline.flush(Duration::from_secs(60)).expect("it flushes");
                if pipeline.stats().batches > 20 {
                    break;
                }
            }
            println!("writing");
            loop {
                record(SPANS);
            }
        }
        "fork" => {
            record(SPANS);
            // SAFETY: the child goes on with the one thread that forked.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                // Without a pipeline of its own it records nothing.
                record(SPANS);
                drop(pipeline);
                let own = Pipeline::builder().service_name("child").install().expect("it starts");
                for _ in 0..5 {
                    let _span = span!("child");
                }
                drop(own);
                exit(0);
            }
            let mut status = 0;
            // SAFETY: our own child; `status` is valid for writes.
            unsafe { libc::waitpid(pid, &raw mut status, 0) };
            assert_eq!(status, 0, "the child ended badly");
            drop(pipeline);
        }
        other => panic!("no ending is called {other:?}"),
    }
}
