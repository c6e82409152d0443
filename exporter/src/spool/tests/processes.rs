//! Real processes: killed ones, living ones, and two that adopt at once; and threads of one.
//!
//! A child is this test binary again, told by the environment which part to play; it says on its
//! standard output how far it is and waits on its standard input, so nothing here depends on time.

use std::env;
use std::io::{BufRead, BufReader, Write};
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
            .args(["--exact", "spool::tests::processes::play", "--ignored", "--nocapture"])
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

    /// The next line that begins with `said`, without it.
    fn next(&mut self, said: &str) -> Option<String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            // The test harness does not end its own line before the first.
            if let Some((_, rest)) = line.trim_end().split_once(said) {
                return Some(rest.to_owned());
            }
        }
    }

    fn wait_for(&mut self, said: &str) {
        assert!(self.next(said).is_some(), "the child ended before it said {said:?}");
    }

    fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Kills it, and returns what it had said by then.
    fn kill(mut self, said: &str) -> Vec<String> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::iter::from_fn(|| self.next(said)).collect()
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
    let mut spool = open_small(Path::new(&directory));
    let wait = |said: &str| {
        println!("{said}");
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    match &part[..] {
        // Appends without end, and settles every third.
        "append" => {
            for sequence in 0.. {
                let place = spool.append_now(&batch(sequence));
                println!("appended {sequence}");
                if sequence % 3 == 0 {
                    spool.done(place, 0, spans_of(sequence)).unwrap();
                    println!("settled {sequence}");
                }
            }
        }
        "hold" => {
            let places: Vec<Place> = (0..7).map(|n| spool.append_now(&batch(n))).collect();
            // To read drops the writer's own lock on the segment, which is not the one that counts.
            spool.read(places[6]).unwrap();
            wait("holding");
        }
        "adopt" => {
            wait("ready");
            for sequence in spool.adopt_all().into_keys() {
                println!("adopted {sequence}");
            }
            wait("adopted all");
        }
        other => panic!("there is no part {other:?}"),
    }
}

fn adopted_by(player: &mut Player) -> Vec<u64> {
    let mut adopted = Vec::new();
    while let Some(said) = player.next("adopted ") {
        match said.parse() {
            Ok(sequence) => adopted.push(sequence),
            Err(_) => return adopted,
        }
    }
    panic!("the child ended early: {adopted:?}");
}

#[test]
fn a_process_killed_while_it_appends_loses_no_batch_whose_append_returned() {
    for round in 1..6 {
        let directory = tempfile::tempdir().unwrap();
        let mut player = Player::start("append", directory.path());
        for sequence in 0..40 * round {
            assert_eq!(player.next("appended ").unwrap(), sequence.to_string());
        }
        // It goes on while the signal is on its way, so it dies anywhere.
        let said = player.kill(" ");
        let last: u64 =
            said.iter().filter_map(|said| said.parse().ok()).max().unwrap_or(40 * round - 1);

        let mut spool = open(directory.path(), 900, 1 << 30);
        let mut found = BTreeMap::new();
        loop {
            let adopted = spool.adopt().unwrap();
            assert!(adopted.errors.is_empty(), "{:?}", adopted.errors);
            for part in &adopted.parts {
                let sequence = spool.read(part.place).unwrap().sequence;
                assert_eq!((part.first, part.spans), (0, spans_of(sequence)));
                assert!(found.insert(sequence, part.spans).is_none());
                spool.done(part.place, 0, part.spans).unwrap();
            }
            if !adopted.more {
                break;
            }
        }
        // The last may have been settled or appended without a word.
        let missing: Vec<u64> =
            (0..=last).filter(|n| n % 3 != 0 && !found.contains_key(n)).collect();
        assert_eq!(missing, [0; 0], "of {last}");
        assert!(found.keys().all(|n| n % 3 != 0 || *n >= last), "settled ones came again");
        spool.close().unwrap();
        assert_eq!(names(directory.path()), [""; 0]);
    }
}

#[test]
fn nobody_touches_a_living_processs_segments_and_a_killed_ones_are_adopted() {
    let directory = tempfile::tempdir().unwrap();
    let mut player = Player::start("hold", directory.path());
    player.wait_for("holding");
    let before = snapshot(directory.path());
    let mut spool = open(directory.path(), 10, 1000);
    assert!(directory_bytes(directory.path()) > 1000);
    for _ in 0..2 {
        assert_eq!(spool.adopt_all(), BTreeMap::new());
        assert_eq!(spool.enforce(Instant::now() + Duration::from_secs(1 << 20)), []);
    }
    assert_eq!(snapshot(directory.path()), before);
    assert_eq!(spool.bytes(), directory_bytes(directory.path()));
    player.kill("");
    assert_eq!(spool.adopt_all(), whole(0..7));
}

#[test]
fn two_processes_that_adopt_at_once_never_get_the_same_segment() {
    for _ in 0..4 {
        let directory = tempfile::tempdir().unwrap();
        for sequence in 0..30 {
            let mut dead = open_small(directory.path());
            dead.append_now(&batch(sequence));
            if sequence % 2 == 0 {
                dead.kill()
            } else {
                dead.close().unwrap()
            }
            if sequence % 5 == 0 {
                // Those without a sidecar are raced for too.
                let names = names(directory.path());
                let sidecar = names.iter().rfind(|name| name.ends_with(".done")).unwrap();
                fs::remove_file(directory.path().join(sidecar)).unwrap();
            }
        }
        let mut players = [(); 2].map(|()| Player::start("adopt", directory.path()));
        players.iter_mut().for_each(|player| player.wait_for("ready"));
        players.iter_mut().for_each(Player::go_on);
        let [first, second] = players.each_mut().map(adopted_by);
        let mut all = [&first[..], &second[..]].concat();
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>(), "{first:?} {second:?}");
        // And a third gets those of the one that dies, no others.
        let [one, _two] = players;
        one.kill("");
        let mut spool = open_small(directory.path());
        assert_eq!(spool.adopt_all(), whole(first));
    }
}

#[test]
fn another_spool_of_the_process_takes_nothing_and_costs_no_lock() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = open_small(directory.path());
    (0..7).for_each(|sequence| _ = first.append_now(&batch(sequence)));
    // Not by opening the files: to close them again would cost the locks.
    let seen = || (names(directory.path()), directory_bytes(directory.path()));
    let before = seen();
    let mut second = open(directory.path(), 10, 1000);
    assert_eq!(second.adopt_all(), BTreeMap::new());
    assert_eq!(second.enforce(Instant::now()), []);
    second.close().unwrap();
    assert_eq!(seen(), before);

    let mut player = Player::start("adopt", directory.path());
    player.wait_for("ready");
    player.go_on();
    assert_eq!(adopted_by(&mut player), [0; 0]);
    drop(player);
    first.close().unwrap();
    assert_eq!(open_small(directory.path()).adopt_all(), whole(0..7));
}

#[test]
fn threads_that_adopt_at_once_never_get_the_same_segment() {
    for _ in 0..10 {
        let directory = tempfile::tempdir().unwrap();
        for sequence in 0..24 {
            let mut dead = open_small(directory.path());
            dead.append_now(&batch(sequence));
            dead.kill();
        }
        let barrier = std::sync::Barrier::new(4);
        let spools: Vec<_> = std::thread::scope(|scope| {
            let adopt = || {
                let mut spool = open_small(directory.path());
                barrier.wait();
                let mut adopted = spool.adopt_all();
                // They begin segments meanwhile, too.
                spool.append_now(&batch(100));
                adopted.append(&mut spool.adopt_all());
                (spool, adopted)
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(adopt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let mut all: Vec<u64> =
            spools.iter().flat_map(|(_, found)| found.keys().copied()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..24).collect::<Vec<_>>());
    }
}
