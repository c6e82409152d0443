//! The file with settings that `CONFIG` names: reading it, and watching it with the flusher's own event loop.
//!
//! It is taken whole or not at all. inotify tells of changes, so nobody is woken as long as there are none; where it cannot be had, the file
//! counts as it was at the start. Watched is the directory, since editors and deployments put a new file in an old one's place, and
//! that of the file itself where the path leads over a symbolic link.

use std::fmt::Write;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use mio::unix::SourceFd;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use spanring::settings::Settings;
use toml::de::{DeTable, DeValue};

use crate::http::Descriptors;

/// More is no file with settings.
const BYTES_MAX: u64 = 1 << 20;
/// Room for some events; what does not fit is read next.
const EVENT_BYTES: usize = 4096;

/// `settings` with those of the file that they name, if there is one; the second part is what to say about it.
///
/// A program does this by itself, when its pipeline starts.
///
/// # Errors
///
/// What is wrong with the file, and where. None of it is in force then.
pub fn with_config_file(settings: &Settings) -> Result<(Settings, Vec<String>), String> {
    match &settings.config {
        Some(path) => ConfigFile::new(path.clone()).apply(settings, false),
        None => Ok((settings.clone(), Vec::new())),
    }
}

/// The file, as far as it was read.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    seen: Seen,
}

#[derive(Debug, PartialEq)]
enum Seen {
    /// It was never looked for.
    Nothing,
    Text(Vec<u8>),
    Failure(String),
}

impl ConfigFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        // The program may go elsewhere.
        let path = std::path::absolute(&path).unwrap_or(path);
        ConfigFile { path, seen: Seen::Nothing }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; whether it is another than before.
    pub(crate) fn read(&mut self) -> bool {
        let seen = match read(&self.path) {
            Ok(text) => Seen::Text(text),
            Err(error) => Seen::Failure(error.to_string()),
        };
        let is_new = seen != self.seen;
        self.seen = seen;
        is_new
    }

    /// `settings` with what it says now, and what to say about that, in words.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and where.
    pub(crate) fn apply(
        &mut self,
        settings: &Settings,
        running: bool,
    ) -> Result<(Settings, Vec<String>), String> {
        if self.seen == Seen::Nothing {
            self.read();
        }
        let text = match &self.seen {
            Seen::Text(text) => text,
            Seen::Failure(failure) => return Err(self.said(failure)),
            Seen::Nothing => return Err(self.said("it was not read")),
        };
        let lines = lines(text).map_err(|problem| self.said(&problem))?;
        let lines = lines.iter().map(|(line, name, value)| (*line, &**name, &**value));
        let changed = settings.with_file(lines, running);
        let (settings, notes) = changed.map_err(|problem| self.said(&problem.to_string()))?;
        Ok((settings, notes.iter().map(|note| self.said(note)).collect()))
    }

    fn said(&self, what: &str) -> String {
        format!("the settings in {}: {what}", self.path.display())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Not to be stopped by a pipe that nobody writes to.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags);
    let file = options.read(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

/// What a text says: for each setting its line, its name, and its value as a variable would have it.
///
/// # Errors
///
/// The first line that is wrong, and what is wrong there.
pub fn lines(text: &[u8]) -> Result<Vec<(u32, String, String)>, String> {
    let ends: Vec<usize> =
        text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let line_at = |at: usize| 1 + ends.partition_point(|end| *end < at) as u32;
    let problem = |at: usize, message: String| format!("line {}: {message}", line_at(at));
    let text = std::str::from_utf8(text)
        .map_err(|error| problem(error.valid_up_to(), "it is not UTF-8".to_owned()))?;
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        problem(at, format!("it is not TOML: {}", error.message()))
    })?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let at = name.span().start;
        let is_list = LISTS.iter().any(|list| list.eq_ignore_ascii_case(name.get_ref()));
        let value = value_text(value.get_ref(), if is_list { "; " } else { "," })
            .map_err(|what| problem(at, format!("{} {what}", name.get_ref())))?;
        found.push((line_at(at), name.get_ref().to_string(), value));
    }
    Ok(found)
}

/// Settings whose parts have a semicolon between them.
const LISTS: [&str; 3] = ["rules", "levels", "details"];

/// A value as a variable would have it. Lists have `between` between their parts, tables a comma.
fn value_text(value: &DeValue<'_>, between: &str) -> Result<String, &'static str> {
    let plain = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        DeValue::Float(number) => Ok(number.as_str().to_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err("is a number that is too large"),
        },
        DeValue::Datetime(_) => Err("is a date, which no setting takes"),
        DeValue::Array(_) | DeValue::Table(_) => {
            Err("has lists or tables inside, which no setting takes")
        }
    };
    match value {
        DeValue::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(|item| plain(item.get_ref())).collect();
            Ok(items?.join(between))
        }
        DeValue::Table(pairs) => {
            let mut text = String::new();
            for (key, value) in pairs {
                let (key, value) = (key.get_ref(), plain(value.get_ref())?);
                let comma = if text.is_empty() { "" } else { "," };
                let [key, value] =
                    [key, &*value].map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC));
                let _ = write!(text, "{comma}{key}={value}");
            }
            Ok(text)
        }
        value => plain(value),
    }
}

/// Tells when the file changes.
#[derive(Debug)]
pub(crate) struct Watch {
    inotify: OwnedFd,
    /// By which a fork child closes it.
    descriptors: &'static Descriptors,
    path: PathBuf,
    /// Where the path leads, if that is another directory.
    target: Option<PathBuf>,
}

impl Watch {
    /// # Errors
    ///
    /// If inotify, or the file's directory, cannot be had.
    pub(crate) fn new(path: &Path, registry: &mio::Registry) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let descriptors = Descriptors::claim(1, registry);
        descriptors.set(0, inotify.as_raw_fd());
        let mut watch = Watch { inotify, descriptors, path: path.to_owned(), target: None };
        watch.add(directory_of(path))?;
        watch.follow();
        Ok(watch)
    }

    /// Has `token` mean that it is to be [`drained`](Self::drain).
    pub(crate) fn register(&self, registry: &mio::Registry, token: mio::Token) -> io::Result<()> {
        registry.register(&mut SourceFd(&self.inotify.as_raw_fd()), token, mio::Interest::READABLE)
    }

    fn add(&self, directory: &Path) -> io::Result<()> {
        let events = WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::DELETE;
        inotify::add_watch(&self.inotify, directory, events | WatchFlags::ONLYDIR)?;
        Ok(())
    }

    /// Watches where the path leads, too.
    fn follow(&mut self) {
        let target = self.path.canonicalize().ok().filter(|target| *target != self.path);
        if target != self.target
            && let Some(target) = &target
        {
            // Without it, a change of the link is seen all the same.
            let _ = self.add(directory_of(target));
        }
        self.target = target;
    }

    /// Takes what happened since the last call; whether that may be a change of the file.
    pub(crate) fn drain(&mut self) -> bool {
        let mut room = [MaybeUninit::uninit(); EVENT_BYTES];
        let mut events = inotify::Reader::new(&self.inotify, &mut room);
        let mut concerns = false;
        while let Ok(event) = events.next() {
            let events = event.events();
            let is_lost = events.contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().map(|name| name.to_bytes());
            // In a mounted Kubernetes ConfigMap, what changes is a link ..data that the file's own link leads through.
            let is_it = name.is_some_and(|name| self.is_named(name) || name == b"..data");
            // A file that was just created is still to be written; a link is whole.
            let is_whole = || !events.contains(ReadFlags::CREATE) || self.path.is_symlink();
            concerns |= is_lost || (is_it && is_whole());
        }
        if concerns {
            self.follow();
        }
        concerns
    }

    fn is_named(&self, name: &[u8]) -> bool {
        [Some(&self.path), self.target.as_ref()]
            .into_iter()
            .flatten()
            .any(|path| path.file_name().is_some_and(|known| known.as_encoded_bytes() == name))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.descriptors.empty(0);
        self.descriptors.release();
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
