//! Bars on a terminal, and silence in a pipe: long work of etcdctl and etcdutl, in a pseudo-terminal as a person sees it.

use crate::harness::Cluster;
use crate::harness::turn;
use portable_pty::CommandBuilder;
use portable_pty::PtySize;
use portable_pty::native_pty_system;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const ETCDCTL: &str = env!("CARGO_BIN_EXE_etcdctl");
const ETCDUTL: &str = env!("CARGO_BIN_EXE_etcdutl");

/// What a program shows on a terminal: both outputs, and its exit code.
fn on_a_terminal(program: &str, words: &[&str], folder: &Path) -> (u32, String) {
    let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).expect("a pseudo-terminal");
    let mut command = CommandBuilder::new(program);
    command.args(words);
    command.cwd(folder);
    let mut child = pair.slave.spawn_command(command).expect("our own program");
    // Without this the reader would wait for us.
    drop(pair.slave);
    let mut reader = pair.master.try_clone_reader().expect("its screen");
    let shown = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // On Linux the last reader of a terminal that is gone gets an error, after all that was written.
        let _ = reader.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let code = child.wait().expect("it ended").exit_code();
    drop(pair.master);
    (code, shown.join().expect("no panic"))
}

/// The percentages of the bars that were drawn, in their order.
fn percentages(shown: &str) -> Vec<u32> {
    let bars = shown.split('\r').filter(|part| part.starts_with('['));
    bars.map(|bar| {
        bar.split(']').nth(1).and_then(|rest| rest.trim().split('%').next()?.parse().ok()).expect("a number")
    })
    .collect()
}

#[test]
fn long_work_has_a_bar_on_a_terminal_and_none_in_a_pipe() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let dir = cluster.dir().to_owned();
        let endpoint = cluster.spec(0).client_url.clone();
        for number in 0..400 {
            cluster.client.put(0, &format!("k{number:04}"), &"v".repeat(2000)).await.expect("a put");
        }
        let other = Cluster::start(1).await;
        let there = other.spec(0).client_url.replace("http://", "");
        let lines: [(&str, Vec<&str>); 3] = [
            (ETCDCTL, vec!["--endpoints", &endpoint, "snapshot", "save", "s.db"]),
            (ETCDCTL, vec!["--endpoints", &endpoint, "defrag"]),
            (ETCDUTL, vec!["snapshot", "restore", "s.db", "--data-dir", "restored"]),
        ];
        for (program, words) in &lines {
            let quiet = Command::new(program).args(words).current_dir(&dir).output().expect("our own program");
            let err = String::from_utf8_lossy(&quiet.stderr);
            assert!(quiet.status.success() && !err.contains('\r') && !err.contains("100%"), "{words:?}: {err}");
            // A restore goes to a new folder only.
            let _ = std::fs::remove_dir_all(dir.join("restored"));
            let (code, shown) = on_a_terminal(program, words, &dir);
            let drawn = percentages(&shown);
            assert_eq!(code, 0, "{words:?}: {shown}");
            // What a restore reads twice it does not read twice to the last page.
            let is_whole = drawn.last().is_some_and(|last| *last >= 99);
            assert!(drawn.is_sorted() && is_whole, "{words:?}: {drawn:?} in {shown:?}");
        }
        // It ends when it is told to: the bar is there before that.
        let script = format!(
            "{ETCDCTL} --endpoints {endpoint} make-mirror {there} & pid=$!; while ! {ETCDCTL} --endpoints {there} get k0399 | grep -q v; do :; done; kill $pid"
        );
        let (_, shown) = on_a_terminal("sh", &["-c", &script], &dir);
        assert_eq!(percentages(&shown).last(), Some(&100), "{shown:?}");
    });
}
