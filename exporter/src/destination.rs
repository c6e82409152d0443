//! Where a sender's batches go: the options of each kind of sender, and what a pipeline makes of them.

use std::sync::Arc;

use spanring::settings::Settings;

use crate::openai_sink::OpenAiOptions;
use crate::otlp_sink::OtlpOptions;
use crate::outlet::Source;
use crate::pipeline::StartError;
use crate::sender::{Courier, Sender};
use crate::spool::{Spool, SpoolOptions};

/// Length at which the spool begins its next segment.
const SPOOL_SEGMENT_BYTES: u64 = 8 << 20;

#[derive(Clone, Debug)]
pub(crate) enum Destination {
    Otlp(OtlpOptions),
    OpenAi(OpenAiOptions),
}

impl Destination {
    /// Those that the settings name.
    pub(crate) fn of_settings(settings: &Settings) -> impl Iterator<Item = Self> {
        let otlp = OtlpOptions::from_settings(settings).map(Destination::Otlp);
        otlp.into_iter().chain(OpenAiOptions::from_settings(settings).map(Destination::OpenAi))
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Destination::Otlp(options) => &options.name,
            Destination::OpenAi(options) => &options.name,
        }
    }

    fn place(&self) -> String {
        match self {
            Destination::Otlp(options) => options.place(),
            Destination::OpenAi(options) => options.place(),
        }
    }

    /// The name of its spool's directory.
    pub(crate) fn spool_key(&self) -> String {
        match self {
            Destination::Otlp(options) => options.spool_key(),
            Destination::OpenAi(options) => options.spool_key(),
        }
    }

    /// Connections that it may have, each with one request.
    pub(crate) fn pool_size(&self) -> usize {
        match self {
            Destination::Otlp(options) => options.pool_size,
            Destination::OpenAi(_) => 1,
        }
    }

    fn error(&self, message: String) -> StartError {
        match self {
            Destination::Otlp(_) => StartError::Otlp(message),
            Destination::OpenAi(_) => StartError::OpenAi(message),
        }
    }

    /// What sends there; it has not been opened yet.
    ///
    /// # Errors
    ///
    /// What is wrong with the options, and what to do.
    pub(crate) fn sender(&self) -> Result<Box<dyn Sender>, StartError> {
        Ok(match self {
            Destination::Otlp(options) => Box::new(options.sink().map_err(|it| self.error(it))?),
            Destination::OpenAi(options) => Box::new(options.sink().map_err(|it| self.error(it))?),
        })
    }

    /// The sender with its spool, if there is a directory.
    ///
    /// # Errors
    ///
    /// As [`sender`](Self::sender), or that the spool cannot be opened.
    pub(crate) fn courier(&self, settings: &Settings) -> Result<Source, StartError> {
        let sender = self.sender()?;
        let spool = match &settings.dir {
            None => None,
            Some(dir) => {
                let options = SpoolOptions {
                    directory: dir.join("spool").join(self.spool_key()),
                    max_bytes: settings.spool_max_bytes,
                    max_age: settings.spool_max_age,
                    segment_max_bytes: SPOOL_SEGMENT_BYTES.min(settings.spool_max_bytes / 4),
                    fsync: settings.fsync,
                    clock: Arc::new(std::time::SystemTime::now),
                };
                Some(Spool::open(options).map_err(StartError::Directory)?)
            }
        };
        Ok(Source::Sender(Box::new(Courier { sender, spool })))
    }

    /// Enters the spool of a new sink, unless another sink of the pipeline has the same: each would deliver what the
    /// other left, with its own headers.
    ///
    /// # Errors
    ///
    /// That another has it.
    pub(crate) fn enter(
        &self,
        spools: &mut Vec<(String, String)>,
        settings: &Settings,
    ) -> Result<(), StartError> {
        if settings.dir.is_none() {
            return Ok(());
        }
        let spool = (self.name().to_owned(), self.spool_key());
        if spools.contains(&spool) {
            return Err(self.error(format!(
                "two sinks are named {:?} and send to {}; with DIR each needs a name of its own, by which what waits \
                 on disk is found again",
                self.name(),
                self.place()
            )));
        }
        spools.push(spool);
        Ok(())
    }
}
