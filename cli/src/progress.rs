//! A progress bar on standard error, where somebody may see it: only on a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Progress through files, by their bytes.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    is_wanted: bool,
}

impl Progress {
    /// A bar, if `is_wanted` and standard error is a terminal.
    pub fn new(is_wanted: bool) -> Self {
        Progress { bar: None, is_wanted }
    }

    /// Begins with the file `name` of `bytes_total` bytes; of unknown length if that is `None`.
    pub fn begin(&mut self, name: &str, bytes_total: Option<u64>) {
        self.end();
        let Some(total) = bytes_total.filter(|_| self.is_wanted) else { return };
        // Draws on standard error, and nothing if that is no terminal.
        let bar = ProgressBar::new(total).with_message(spanring_exporter::render::printable(name));
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %") {
            bar.set_style(style);
        }
        self.bar = Some(bar);
    }

    /// Moves the bar to `bytes` of the file.
    pub fn advance_to(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// Takes the bar away while `report` writes to standard error.
    pub fn suspend(&self, report: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(report),
            None => report(),
        }
    }

    /// Removes the bar.
    pub fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
