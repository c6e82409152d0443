//! Real processes: several on one directory, killed ones, a user without permission, a fork child.
//!
//! A child is this test binary again, told by the environment which part to play; it says on its
//! standard output how far it is and waits on its standard input, so nothing here depends on time.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::*;

const DIRECTORY: &str = "SPANRING_TEST_DIRECTORY";
const PART: &str = "SPANRING_TEST_PART";

/// A child that plays a part; killed when dropped.
struct Player {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Player {
    fn start(part: &str, directory: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "file_sink::tests::processes::play", "--ignored", "--nocapture"])
            .env(PART, part)
            .env(DIRECTORY, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Player { child, input, output }
    }

    /// Waits until the child says so.
    fn wait_for(&mut self, said: &str) {
        let mut line = String::new();
        while !line.contains(said) {
            line.clear();
            let read = self.output.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the child ended before it said {said:?}");
        }
    }

    fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    fn finish(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What children do; without the environment it is no test.
#[test]
#[ignore = "a part that a child process plays"]
fn play() {
    let (Ok(part), Ok(directory)) = (env::var(PART), env::var(DIRECTORY)) else { return };
    let directory = Path::new(&directory);
    let wait = |said: &str| {
        println!("{said}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    match &part[..] {
        // Holds a segment open.
        "hold" => {
            let mut sink = FileSink::create(directory, options(1 << 20, 1 << 24)).unwrap();
            for sequence in 0..100 {
                sink.deliver(&batch(INSTANCE, sequence)).unwrap();
            }
            wait("holding");
            // To read a file drops the process's lock on it; to write takes it again.
            drop(SegmentReader::open(&sink.segment().unwrap().path()).unwrap());
            sink.deliver(&batch(INSTANCE, 100)).unwrap();
            // Nor does it by what a second sink does, which wants the room.
            let mut second = FileSink::create(directory, options(500, 2000)).unwrap();
            second.deliver(&batch(InstanceId(u128::MAX), 0)).unwrap();
            wait("still holding");
        }
        // Writes many segments, from when it is told.
        "many" => {
            let instance = InstanceId(u128::from(std::process::id()));
            let mut sink = FileSink::create(directory, options(700, 1 << 24)).unwrap();
            wait("ready");
            for sequence in 0..200 {
                sink.deliver(&batch(instance, sequence)).unwrap();
            }
            sink.close().unwrap();
        }
        other => panic!("there is no part {other:?}"),
    }
}

#[test]
fn a_living_process_keeps_its_segment_and_a_killed_one_loses_it_to_retention() {
    let directory = tempfile::tempdir().unwrap();
    let mut holder = Player::start("hold", directory.path());
    holder.wait_for("holding");
    let held = find_segments(directory.path()).unwrap().remove(0);
    assert!(!held.name.is_closed() && held.bytes > 2000);

    // The held segment is the oldest, and alone above this sink's cap.
    let mut sink = FileSink::create(directory.path(), options(500, 2000)).unwrap();
    sink.deliver(&batch(InstanceId(1), 0)).unwrap();
    assert!(held.path.exists());
    holder.go_on();
    holder.wait_for("still holding");
    sink.close().unwrap();
    sink.deliver(&batch(InstanceId(1), 1)).unwrap();
    assert!(held.path.exists());

    holder.kill();
    assert_eq!(read(&held.path), ((0..101).collect(), false));
    sink.close().unwrap();
    sink.deliver(&batch(InstanceId(1), 2)).unwrap();
    assert!(!held.path.exists());
}

#[test]
fn two_processes_on_one_directory_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut players = [(); 2].map(|()| Player::start("many", directory.path()));
    for player in &mut players {
        player.wait_for("ready");
    }
    for player in &mut players {
        player.go_on();
    }
    players.into_iter().for_each(Player::finish);
    let mut found = BTreeMap::<u128, Vec<u64>>::new();
    for segment in find_segments(directory.path()).unwrap() {
        let instance = SegmentReader::open(&segment.path).unwrap().header().instance;
        let (sequences, closed) = read(&segment.path);
        assert!(closed && segment.name.is_closed());
        found.entry(instance.0).or_default().extend(sequences);
    }
    assert_eq!(found.len(), 2);
    assert!(found.values().all(|sequences| *sequences == (0..200).collect::<Vec<_>>()));
}

/// Root has every permission: then the test runs again in a child as somebody else.
#[test]
fn lost_permission_is_an_error_until_it_is_back() {
    if env::var_os(PART).is_none() && is_root() {
        let binary = env::current_exe().unwrap();
        let name = "file_sink::tests::processes::lost_permission_is_an_error_until_it_is_back";
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let output = Command::new(binary)
            .args(["--exact", name, "--nocapture"])
            .env(PART, "nobody")
            .env("TMPDIR", directory.path())
            .uid(65_534)
            .gid(65_534)
            .output();
        match output {
            Ok(output) => assert!(
                output.status.success(),
                "{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => eprintln!("skipped: cannot run as another user here: {error}"),
        }
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let permit = |mode| {
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut sink = FileSink::create(directory.path(), options(500, 1 << 24)).unwrap();
    let mut errors = 0;
    for sequence in 0..40 {
        // Read-only, so that nothing can be created or renamed; or closed altogether.
        permit(if sequence % 2 == 0 { 0o500 } else { 0 });
        let refused = sink.deliver(&batch(INSTANCE, sequence));
        permit(0o700);
        if let Err(error) = refused {
            assert!(error.retry && error.message.contains("the permission"), "{error}");
            sink.deliver(&batch(INSTANCE, sequence)).unwrap();
            errors += 1;
        }
    }
    assert!(errors > 20, "{errors}");
    sink.close().unwrap();
    assert_eq!(read_all(directory.path(), true), (0..40).collect::<Vec<_>>());

    permit(0o500);
    let error = FileSink::create(directory.path(), options(500, 1 << 24)).unwrap_err();
    permit(0o700);
    assert_eq!(error.io_kind(), Some(io::ErrorKind::PermissionDenied));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // What this process creates is its own.
    tempfile::tempfile().unwrap().metadata().unwrap().uid() == 0
}

#[test]
fn a_fork_child_leaves_its_parents_segment_alone() {
    type Act = fn(&mut FileSink);
    let acts: [Act; 4] = [
        |sink| sink.deliver(&batch(INSTANCE, 1)).unwrap(),
        |sink| assert_eq!(sink.tick(Instant::now() + Duration::from_secs(1 << 20)), None),
        |sink| sink.close().unwrap(),
        |_| {},
    ];
    for act in acts {
        let directory = tempfile::tempdir().unwrap();
        let mut sink = FileSink::create(directory.path(), options(1 << 20, 1 << 24)).unwrap();
        sink.deliver(&batch(INSTANCE, 0)).unwrap();
        let parents = sink.segment().unwrap().path();
        let before = fs::read(&parents).unwrap();
        sink.current.as_mut().unwrap().writer.pretend_inherited();
        act(&mut sink);
        drop(sink);
        assert_eq!(fs::read(&parents).unwrap(), before);
    }
}
