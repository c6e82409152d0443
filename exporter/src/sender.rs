//! Senders: sinks that send over a network, without ever waiting for it.
//!
//! The flusher's loop drives them: readiness of sockets and deadlines in, bytes out. A sender takes parcels as
//! long as it [can](Sender::can_send), and says later what became of each. It keeps no queue and retries
//! nothing: that is the outbox's part, which knows the spool, the caps and the counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::http::{Io, ProxySettings};
use crate::model::SpanBatch;
use crate::sink::InstanceId;

/// Spans on their way: a batch, or a part of one that was split.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// What the outbox calls it.
    pub(crate) id: u64,
    pub(crate) instance: InstanceId,
    pub(crate) sequence: u64,
    /// The first span of the batch that is meant, and how many.
    pub(crate) first: u32,
    pub(crate) spans: u32,
    /// The whole batch.
    pub(crate) content: Content,
    /// These spans in the sender's own form, if they were encoded when the batch was sealed.
    pub(crate) body: Option<Bytes>,
}

/// The spans of a batch.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// As they were sealed.
    Frame(Bytes),
    /// As somebody read them.
    Spans(Arc<SpanBatch>),
}

/// What became of a parcel.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The receiver has it, except for so many spans that it refused, and why.
    Accepted { rejected: u64, message: String },
    /// It may be sent again: after a wait, if the receiver asked for one. `repeats` says that the receiver may
    /// have taken it all the same.
    Retry { message: String, wait: Option<Duration>, repeats: bool },
    /// It is to be sent in parts.
    TooLarge { message: String },
    /// The receiver does not want it, now or later.
    Refused { message: String },
}

/// A sink that sends.
pub(crate) trait Sender: Send {
    /// A short name for logs and stats.
    fn name(&self) -> &str;
    /// Whether it wants spans as OTLP.
    fn wants_otlp(&self) -> bool;
    /// Takes what it needs of the flusher's loop; called once, before everything else.
    ///
    /// # Errors
    ///
    /// Why it cannot work at all, and what to do.
    fn open(&mut self, io: Io) -> Result<(), String>;
    /// Whether it takes a parcel now.
    fn can_send(&self) -> bool;
    /// Takes a parcel.
    fn send(&mut self, parcel: Parcel, now: Instant);
    /// A socket of its tokens is ready.
    fn ready(&mut self, event: &mio::event::Event, now: Instant);
    /// Does what is due, or what a thread that looks up names has found.
    fn tick(&mut self, now: Instant);
    /// When it wants to be called.
    fn deadline(&self) -> Option<Instant>;
    /// Says goodbye on connections that nobody uses; nothing is sent afterwards.
    fn close(&mut self);
    /// What a person should know of how it sends: what works, but not as it was asked for.
    fn note(&self) -> Option<String>;
    /// What became of a parcel; each is told once.
    fn finished(&mut self) -> Option<(u64, Outcome)>;
}

/// What a sender's outbox is made with.
pub(crate) struct Courier {
    pub(crate) sender: Box<dyn Sender>,
    /// Where its batches are kept until their answer was seen.
    pub(crate) spool: Option<crate::spool::Spool>,
}

/// The flusher's own part of an [`Io`]: what all senders share.
pub(crate) struct IoSource {
    pub(crate) registry: mio::Registry,
    pub(crate) waker: Arc<mio::Waker>,
    /// As they were when the pipeline was built: the host may change the environment while the flusher runs, and nobody may read it then.
    pub(crate) proxy: ProxySettings,
}
