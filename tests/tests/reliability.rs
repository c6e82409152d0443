//! Delivery through outages and the death of the process that sends: every span that was sealed arrives.
//!
//! 50,000 spans; `SPANRING_TEST_SPANS` asks for more, as `tests/soak` does.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use spanring_tests::LONG;
use spanring_tests::process::Process;
use spanring_tests::proxy::Proxy;
use spanring_tests::receiver::Receiver;

const SENDER: &str = env!("CARGO_BIN_EXE_sender");
const OUTAGES: u64 = 20;
const KILLS: u64 = 5;
/// What the sender may take beyond what it had when it began: its byte budget of 8 MiB, and as much for the encoder,
/// the compression's context, the allocator's slack and the stacks of threads.
const KIB_MAX: u64 = 16 << 10;

fn spans() -> u64 {
    let spans = std::env::var("SPANRING_TEST_SPANS").ok();
    spans.map_or(50_000, |spans| spans.parse().expect("SPANRING_TEST_SPANS is a number"))
}

/// Numbers that look random; the seed is said, so that what failed can be run again.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("SPANRING_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = seed.unwrap_or(now.as_nanos() as u64) | 1;
        println!("SPANRING_TEST_SEED={seed}");
        Random(seed)
    }

    /// Below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What the sender says, read as it comes.
#[derive(Default)]
struct Said {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    sealed: u64,
    failures: u64,
    recorded: bool,
}

impl Said {
    /// Waits until `when` holds; what it said last then.
    fn wait(&self, what: &str, when: impl Fn(&Counts) -> bool) -> Counts {
        let counts = self.counts.lock().unwrap();
        let (counts, timeout) =
            self.changed.wait_timeout_while(counts, LONG, |counts| !when(counts)).unwrap();
        assert!(!timeout.timed_out(), "the sender did not come to {what}");
        *counts
    }
}

/// A running sender, and the thread that reads what it says.
struct Sender {
    said: Arc<Said>,
    process: Arc<Mutex<Option<Process>>>,
    id: u32,
    reader: JoinHandle<()>,
}

impl Sender {
    fn start(endpoint: &str, directory: &Path, first: u64, count: u64) -> Self {
        let (first, count) = (first.to_string(), count.to_string());
        let arguments = [endpoint, directory.to_str().unwrap(), &first, &count];
        let mut process = Process::start(SENDER, &arguments, directory);
        let id = process.id();
        let said = Arc::new(Said::default());
        let done = Arc::new(Mutex::new(None));
        let (told, back) = (said.clone(), done.clone());
        let reader = std::thread::spawn(move || {
            while let Some(line) = process.line_or_end() {
                let mut counts = told.counts.lock().unwrap();
                if line == "recorded" {
                    counts.recorded = true;
                    told.changed.notify_all();
                    break;
                }
                let numbers = numbers(&line);
                (counts.sealed, counts.failures) = (numbers["sealed"], numbers["failures"]);
                told.changed.notify_all();
            }
            *back.lock().unwrap() = Some(process);
        });
        Sender { said, process: done, id, reader }
    }

    /// Kills it; how many spans it had said were sealed.
    fn kill(self) -> u64 {
        // SAFETY: our own child, which nobody has waited for.
        assert_eq!(unsafe { libc::kill(self.id as i32, libc::SIGKILL) }, 0);
        self.reader.join().unwrap();
        self.said.counts.lock().unwrap().sealed
    }

    /// Lets it shut down; its last counts.
    fn finish(self) -> HashMap<String, u64> {
        self.reader.join().unwrap();
        let mut process = self.process.lock().unwrap().take().unwrap();
        process.go_on();
        let counts = numbers(&process.line());
        assert!(process.finish().0.success());
        counts
    }
}

/// `name number name number`.
fn numbers(line: &str) -> HashMap<String, u64> {
    let words: Vec<_> = line.split_whitespace().collect();
    words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap())).collect()
}

/// Kills the proxy at the next of `points`, and starts it again when the sender has noticed.
fn outage(proxy: &mut Proxy, said: &Said) {
    let before = said.counts.lock().unwrap().failures;
    proxy.kill();
    said.wait("a failure", |counts| counts.failures > before || counts.recorded);
    proxy.restart();
}

#[test]
fn twenty_outages_cost_no_span_no_wait_and_no_memory_beyond_the_caps() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut proxy = Proxy::start(receiver.address());
    let (total, mut random) = (spans(), Random::new());
    let sender = Sender::start(&proxy.endpoint(), directory.path(), 0, total);
    // At random, one in each twentieth, and the last before the end.
    let part = (total - total / 20) / OUTAGES;
    for outage_number in 0..OUTAGES {
        receiver.wait_for((outage_number * part + random.below(part)) as usize);
        outage(&mut proxy, &sender.said);
    }
    sender.said.wait("its end", |counts| counts.recorded);
    let counts = sender.finish();
    println!("{counts:?}, {} came more than once", receiver.repeats());
    // One more than the numbered ones: the first.
    assert_eq!(receiver.numbers().len() as u64, total);
    assert_eq!(receiver.distinct() as u64, total + 1);
    assert_eq!((counts["delivered"], counts["dropped"]), (total + 1, 0));
    assert!(receiver.repeats() <= counts["repeated"]);
    assert_eq!(counts["waited"], 0, "a producer waited");
    assert!(counts["kib"] <= KIB_MAX, "{} KiB", counts["kib"]);
}

#[test]
fn five_kills_and_twenty_outages_cost_no_span_that_was_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let receiver = Receiver::start();
    let mut proxy = Proxy::start(receiver.address());
    let (total, mut random) = (spans(), Random::new());
    let share = total / (KILLS + 1);
    let mut sealed = Vec::new();
    for life in 0..KILLS {
        let sender = Sender::start(&proxy.endpoint(), directory.path(), life * share, share);
        for _ in 0..OUTAGES / (KILLS + 1) {
            let point = random.below(share / 2);
            sender.said.wait("the next outage", |counts| counts.sealed >= point || counts.recorded);
            outage(&mut proxy, &sender.said);
        }
        let point = share / 2 + random.below(share / 2);
        // Most of its spans wait on the disk when it dies.
        proxy.kill();
        sender.said.wait("its death", |counts| counts.sealed >= point || counts.recorded);
        sealed.push(sender.kill());
        proxy.restart();
    }
    let sender = Sender::start(&proxy.endpoint(), directory.path(), KILLS * share, share);
    for _ in 0..OUTAGES - OUTAGES / (KILLS + 1) * KILLS {
        outage(&mut proxy, &sender.said);
    }
    sender.said.wait("its end", |counts| counts.recorded);
    let counts = sender.finish();
    println!("sealed before each death {sealed:?}, then {counts:?}");
    let came = receiver.numbers();
    for (life, &sealed) in (0..).zip(&sealed) {
        // One of them is the first, which has no number.
        let missing: Vec<_> = (life * share..life * share + sealed.saturating_sub(1))
            .filter(|number| !came.contains(number))
            .collect();
        assert!(
            missing.is_empty(),
            "of life {life}: {} of {sealed}, {:?}",
            missing.len(),
            missing.first()
        );
    }
    assert!(
        (KILLS * share..total / (KILLS + 1) * (KILLS + 1)).all(|number| came.contains(&number))
    );
    assert!(counts["adopted"] > 0 && counts["dropped"] == 0);
}
