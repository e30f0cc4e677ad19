//! Bars on a terminal, and silence in a pipe: long work of etcdctl and etcdutl, in a pseudo-terminal as a person sees it.

use crate::harness::Cluster;
use crate::harness::turn;
use portable_pty::CommandBuilder;
use portable_pty::PtySize;
use portable_pty::native_pty_system;
use std::io::Read as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
const ETCDCTL: &str = env!("CARGO_BIN_EXE_etcdctl");
const ETCDUTL: &str = env!("CARGO_BIN_EXE_etcdutl");

/// What a program shows on a terminal: both outputs, and its exit code.
fn on_a_terminal(program: &str, words: &[&str], folder: &Path) -> (u32, String) {
    talk_on_a_terminal(program, words, folder, ("", ""))
}

/// The same; when the text is shown that `talk` begins with, the other is typed.
fn talk_on_a_terminal(program: &str, words: &[&str], folder: &Path, (asked, answer): (&str, &str)) -> (u32, String) {
    let size = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };
    let pair = native_pty_system().openpty(size).expect("a pseudo-terminal");
    let mut command = CommandBuilder::new(program);
    command.args(words);
    command.cwd(folder);
    let mut child = pair.slave.spawn_command(command).expect("our own program");
    // Without this the reader would wait for us.
    drop(pair.slave);
    let mut reader = pair.master.try_clone_reader().expect("its screen");
    let mut keyboard = pair.master.take_writer().expect("its keyboard");
    let (asked, answer) = (asked.to_owned(), answer.to_owned());
    let shown = std::thread::spawn(move || {
        let (mut bytes, mut piece, mut typed) = (Vec::new(), [0; 4096], answer.is_empty());
        // On Linux the last reader of a terminal that is gone gets an error, after all that was written.
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            bytes.extend_from_slice(&piece[..count]);
            if !typed && String::from_utf8_lossy(&bytes).contains(&asked) {
                keyboard.write_all(answer.as_bytes()).expect("typed");
                typed = true;
            }
        }
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
            assert!(drawn.is_sorted() && drawn.last() == Some(&100), "{words:?}: {drawn:?} in {shown:?}");
        }
        // It goes on until it is told to end: that comes when its bar is full.
        let script = format!("{ETCDCTL} --endpoints {endpoint} make-mirror {there} & pid=$!; read told; kill $pid");
        let (_, shown) = talk_on_a_terminal("sh", &["-c", &script], &dir, ("100%", "end\n"));
        assert_eq!(percentages(&shown).last(), Some(&100), "{shown:?}");
        let copied = other.client.get(0, "k0399").await.expect("a get");
        assert_eq!(copied.map(|value| value.len()), Some(2000));
    });
}

#[test]
fn a_check_has_a_bar_on_a_terminal_and_none_in_a_pipe() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let words = ["--endpoints", &cluster.spec(0).client_url, "check", "perf", "--duration=2"];
        let quiet = Command::new(ETCDCTL).args(words).output().expect("our own program");
        let said = String::from_utf8_lossy(&[quiet.stdout, quiet.stderr].concat()).into_owned();
        assert!(said.contains("Throughput") && !said.contains('\r') && !said.contains("100%"), "{said}");
        // Whether it passes is the machine's doing.
        let (_, shown) = on_a_terminal(ETCDCTL, &words, cluster.dir());
        let drawn = percentages(&shown);
        assert!(drawn.len() >= 2 && drawn.is_sorted() && drawn.last() == Some(&100), "{drawn:?} in {shown:?}");
    });
}

#[test]
fn an_interrupt_at_a_password_leaves_the_terminal_as_it_was() {
    // Nobody listens there: it is the question that counts.
    let ask = format!("{ETCDCTL} --endpoints 127.0.0.1:1 user add ann; echo code $?; stty -a");
    for (dialect, prompt) in [("3", "Password of ann: "), ("2", "New password: ")] {
        let script = format!("export ETCDCTL_API={dialect}; {ask}");
        let (_, shown) = talk_on_a_terminal("sh", &["-c", &script], Path::new("/"), (prompt, "secr\u{3}"));
        assert!(shown.contains("code 255") && !shown.contains("secr"), "{shown}");
        assert!(shown.contains("intr = ^C; ") && shown.contains(" echo ") && !shown.contains("-echo "), "{shown}");
    }
}
