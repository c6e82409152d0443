//! Sinks that a test steers.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use spanring_exporter::MemorySink;
use spanring_exporter::sink::{SealedBatch, Sink, SinkError};

/// A sink that keeps what it gets, and holds the flusher in each delivery until the test lets it go.
#[derive(Debug)]
pub struct GatedSink {
    memory: MemorySink,
    entered: Sender<u64>,
    go_on: Receiver<()>,
}

/// The test's side of a [`GatedSink`]. Dropping it opens the gate for good.
#[derive(Debug)]
pub struct Gate {
    /// What was delivered.
    pub memory: MemorySink,
    entered: Receiver<u64>,
    go_on: Sender<()>,
}

impl GatedSink {
    /// A sink and its gate.
    pub fn new() -> (GatedSink, Gate) {
        let memory = MemorySink::new();
        let (entered, entered_at) = channel();
        let (open, go_on) = channel();
        let gate = Gate { memory: memory.clone(), entered: entered_at, go_on: open };
        (GatedSink { memory, entered, go_on }, gate)
    }
}

impl Gate {
    /// Waits until the flusher stands in a delivery; returns the batch's sequence number.
    ///
    /// # Panics
    ///
    /// If nothing is delivered for a long time.
    pub fn wait_entered(&self) -> u64 {
        self.entered.recv_timeout(crate::LONG).expect("a batch is delivered")
    }

    /// Lets the flusher out of one delivery.
    pub fn let_one_go(&self) {
        // A sink that is gone needs no permission.
        let _ = self.go_on.send(());
    }

    /// Opens the gate for good, and returns what was and will be delivered.
    pub fn open(self) -> MemorySink {
        self.memory
    }
}

impl Sink for GatedSink {
    fn name(&self) -> &str {
        "gated"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        // Both ends of the gate are gone once it is open.
        let _ = self.entered.send(batch.sequence);
        let _ = self.go_on.recv();
        self.memory.deliver(batch)
    }
}

/// What a [`ScriptedSink`] does with one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Takes the batch.
    Take,
    /// Fails; the batch may be offered again.
    Fail,
    /// Refuses the batch for good.
    Refuse,
    /// Panics.
    Panic,
}

/// A sink that acts by a script, then for good by one act. Clones share everything.
#[derive(Clone, Debug)]
pub struct ScriptedSink {
    /// What was delivered.
    pub memory: MemorySink,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug)]
struct Script {
    acts: VecDeque<Act>,
    then: Act,
    offered: Vec<u64>,
}

impl ScriptedSink {
    /// Acts by `acts`, one a delivery, then by `then`.
    pub fn new(acts: impl IntoIterator<Item = Act>, then: Act) -> Self {
        let acts = acts.into_iter().collect();
        let script = Arc::new(Mutex::new(Script { acts, then, offered: Vec::new() }));
        ScriptedSink { memory: MemorySink::new(), script }
    }

    /// From now on acts by `then` alone.
    pub fn act(&self, then: Act) {
        let mut script = self.script();
        script.acts.clear();
        script.then = then;
    }

    /// The sequence numbers of all batches that were offered, repetitions included.
    pub fn offered(&self) -> Vec<u64> {
        self.script().offered.clone()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for ScriptedSink {
    fn name(&self) -> &str {
        "scripted"
    }

    fn deliver(&mut self, batch: &SealedBatch) -> Result<(), SinkError> {
        let act = {
            let mut script = self.script();
            script.offered.push(batch.sequence);
            let then = script.then;
            script.acts.pop_front().unwrap_or(then)
        };
        match act {
            Act::Take => self.memory.deliver(batch),
            Act::Fail => Err(SinkError { retry: true, message: "the script says so".into() }),
            Act::Refuse => Err(SinkError { retry: false, message: "the script says so".into() }),
            Act::Panic => panic!("the script says so"),
        }
    }
}
