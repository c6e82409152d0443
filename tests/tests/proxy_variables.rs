//! When the proxy's variables are read. Alone in its process, whose environment it changes.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::SystemTime;

use spanring::{Span, StatusCode};
use spanring_tests::receiver::{Answer, Receiver, Request};
use spanring_tests::{LONG, memory_pipeline, settings};

/// The flusher opens the webhook on its own thread, and must not read what the host may be writing.
#[test]
fn they_are_those_from_when_the_pipeline_was_built() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let answer = move |_: &Request| {
        let _ = tell.lock().unwrap().send(());
        Answer::status(200)
    };
    let proxy = Receiver::taking(answer, |_| Ok(Vec::new()));
    // SAFETY: nobody else in this process reads or writes the environment now.
    unsafe { std::env::set_var("http_proxy", proxy.address().to_string()) };
    let hook = settings().alert_webhook("http://hook.invalid/").health_max_memory(1 << 40);
    let (pipeline, _) = memory_pipeline(hook);
    // SAFETY: as above; the flusher runs from the first span on.
    unsafe { std::env::remove_var("http_proxy") };
    let _attached = pipeline.attach();
    for _ in 0..1000 {
        let mut span = Span::builder("watched").start_time(SystemTime::now()).start();
        span.set_status(StatusCode::Error, "no");
    }
    pipeline.flush(LONG).unwrap();
    told.recv_timeout(LONG).expect("the alert goes to the proxy");
}
