//! Helper programs as processes: they say on standard output how far they are and wait on standard
//! input, so nothing depends on time.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

/// A running helper program; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `program` with `arguments`, and `directory` as the place for segments. No setting comes
    /// from the environment.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn start(program: &str, arguments: &[&str], directory: &Path) -> Self {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["SPANRING_", "RAAF_", "OTEL_", "OPENAI_"]
                .iter()
                .any(|prefix| text.starts_with(prefix))
            {
                command.env_remove(&name);
            }
        }
        let mut child = command
            .args(arguments)
            .env("SPANRING_DIR", directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        Process { child, input, output }
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it says.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn line(&mut self) -> String {
        self.line_or_end().expect("the program says something before it ends")
    }

    /// The next line that it says, `None` if it ends instead, in the middle of a line too.
    ///
    /// # Panics
    ///
    /// If its output cannot be read.
    pub fn line_or_end(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output can be read");
        line.ends_with('\n').then(|| line.trim_end().to_owned())
    }

    /// Waits until it says exactly `said`.
    ///
    /// # Panics
    ///
    /// If it says something else, or ends.
    pub fn wait_for(&mut self, said: &str) {
        assert_eq!(self.line(), said);
    }

    /// Lets it go on that waits on its input.
    ///
    /// # Panics
    ///
    /// If it does not listen any more.
    pub fn go_on(&mut self) {
        self.input.as_mut().expect("still open").write_all(b"\n").expect("it listens");
    }

    /// Kills it with `SIGKILL`.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
    }

    /// Waits for its end; returns how it ended and what else it said.
    ///
    /// # Panics
    ///
    /// If it cannot be waited for.
    pub fn finish(mut self) -> (ExitStatus, String) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output can be read");
        (self.child.wait().expect("it can be waited for"), rest)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
