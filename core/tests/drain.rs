//! What a drainer promises its flusher.

use std::sync::mpsc;
use std::thread;

use spanring::export::{Drainer, Engine, EngineOptions};
use spanring::record::Records;
use spanring::{Span, span};

/// A thread that records as many spans as it is told, and says when it has.
fn recorder(engine: &'static Engine) -> (mpsc::Sender<usize>, mpsc::Receiver<()>) {
    let (tell, told) = mpsc::channel::<usize>();
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || {
        let _attached = engine.attach();
        for count in told {
            (0..count).for_each(|_| drop(span!("busy")));
            let _ = answer.send(());
        }
    });
    (tell, answered)
}

#[test]
fn a_thread_that_records_faster_than_it_is_drained_does_not_hold_back_the_others() {
    let engine = Engine::start(&EngineOptions::default());
    let mut drainer = Drainer::new(engine);
    let recorders: Vec<_> = (0..3).map(|_| recorder(engine)).collect();
    let record = |index: usize, count: usize| {
        recorders[index].0.send(count).unwrap();
        recorders[index].1.recv().unwrap();
    };
    // The busy thread's ring lies between the other two, whichever way the rings are walked.
    for (index, count) in [(0, 1), (1, 100), (2, 1)] {
        record(index, count);
    }
    drainer.mark();
    let mut records = Records::new();
    let mut rounds = 0;
    while drainer.is_behind_mark() {
        assert!(rounds < 50, "spans recorded before the mark are never drained");
        rounds += 1;
        assert_eq!(drainer.drain(&mut records, 10), 10);
        drainer.settle(&mut records, None);
        record(1, 10);
    }
    let stats = engine.stats();
    for thread in &stats.threads {
        assert!(thread.recorded == 1 || thread.recorded >= 100);
    }
    assert!(stats.sealed >= 102, "all that was recorded before the mark is sealed: {stats:?}");
}

#[test]
fn one_drain_with_room_takes_all_there_is() {
    let engine = Engine::start(&EngineOptions::default());
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    let recorders: Vec<_> = (0..7).map(|_| recorder(engine)).collect();
    for round in 0..20 {
        for (index, (tell, answered)) in recorders.iter().enumerate() {
            tell.send(index + round).unwrap();
            answered.recv().unwrap();
        }
        let expected = 21 + 7 * round;
        assert_eq!(drainer.drain(&mut records, 1000), expected, "round {round}");
        drainer.settle(&mut records, None);
    }
}

#[test]
fn finishing_without_closing_takes_no_memory_from_threads_that_record() {
    let engine = Engine::start(&EngineOptions::default());
    let _attached = engine.attach();
    let mut drainer = Drainer::new(engine);
    let mut records = Records::new();
    drop(span!("before"));
    drainer.drain(&mut records, 100);
    drainer.settle(&mut records, None);
    drainer.finish();
    for _ in 0..50 {
        Span::start("after").set_attribute("x", 1i64 << 40);
    }
    assert_eq!(engine.stats().resident, 50);
}
