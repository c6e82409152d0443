//! OpenAI's trace ingest on loopback, as far as its protocol is known: it answers as a test tells it, and keeps the objects
//! that it took.
//!
//! With `SPANRING_INGEST_BODIES` in the environment every body that comes, taken or not, is added to that file as a line,
//! to be held against the SDK's own types (`tests/openai/shapes.py`).

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::receiver::{Answer, Receiver, Request, plain_body};

/// A running ingest; stopped when dropped.
#[derive(Debug)]
pub struct Ingest {
    /// What takes its requests.
    pub receiver: Receiver,
    objects: Arc<Mutex<Vec<Value>>>,
}

impl Ingest {
    /// Starts one that takes everything.
    pub fn start() -> Self {
        Self::answering(|_| Answer::status(200))
    }

    /// Starts one that answers as `behaviour` says.
    ///
    /// # Panics
    ///
    /// If no port can be had.
    pub fn answering(behaviour: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let objects = Arc::new(Mutex::new(Vec::new()));
        let taken = objects.clone();
        let receiver = Receiver::taking(
            move |request| {
                keep(request);
                behaviour(request)
            },
            move |request| {
                let came = objects_of(request)?;
                let spans = came.iter().filter(|object| object["object"] == "trace.span");
                let read = |span: &Value| {
                    let id = span["id"].as_str().unwrap_or_default();
                    (id.as_bytes().to_vec(), span["span_data"]["data"]["number"].as_u64())
                };
                let spans = spans.map(read).collect();
                lock(&taken).extend(came);
                Ok(spans)
            },
        );
        Ingest { receiver, objects }
    }

    /// The setting for it.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.receiver.address())
    }

    /// The objects that it took, in order.
    pub fn objects(&self) -> Vec<Value> {
        lock(&self.objects).clone()
    }

    /// Those that are spans.
    pub fn spans(&self) -> Vec<Value> {
        let mut objects = self.objects();
        objects.retain(|object| object["object"] == "trace.span");
        objects
    }

    /// How often the object of each trace came.
    pub fn traces(&self) -> HashMap<String, u32> {
        let mut traces = HashMap::new();
        for object in self.objects().iter().filter(|object| object["object"] == "trace") {
            *traces.entry(object["id"].as_str().unwrap_or_default().to_owned()).or_insert(0) += 1;
        }
        traces
    }

    /// Checks that a trace's object came before each of its spans.
    ///
    /// # Panics
    ///
    /// If it did not.
    pub fn check_order(&self) {
        let mut known = std::collections::HashSet::new();
        for object in self.objects() {
            if object["object"] == "trace" {
                known.insert(object["id"].clone());
            } else {
                assert!(known.contains(&object["trace_id"]), "its trace is not there: {object}");
            }
        }
    }
}

/// The objects in a request.
///
/// # Errors
///
/// If it is no JSON of the known form.
pub fn objects_of(request: &Request) -> io::Result<Vec<Value>> {
    let mut body: Value = serde_json::from_slice(&plain_body(request)?)?;
    match body["data"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Err(io::Error::other("a body without data")),
    }
}

fn keep(request: &Request) {
    let Some(path) = std::env::var_os("SPANRING_INGEST_BODIES") else { return };
    // A body that is cut or compressed wrongly is the test's own doing.
    let Ok(mut line) = plain_body(request) else { return };
    line.push(b'\n');
    // One write a line: tests run side by side.
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(&line)).expect("bodies can be kept");
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
