//! The lab as its user meets it: in a terminal, with keys, on real members.
//!
//! Each journey starts `etcd-lab` in a pseudo-terminal, types, and waits for words on the screen. At its end no process of the lab is left.

#![expect(clippy::disallowed_methods, reason = "waits for a real program, with deadlines")]

use portable_pty::Child;
use portable_pty::CommandBuilder;
use portable_pty::MasterPty;
use portable_pty::PtySize;
use portable_pty::native_pty_system;
use std::io::Read as _;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

/// How long anything may take, on a machine that compiles beside it.
const WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One lab at a time: a lab looks for free ports, and two that look at once might find the same.
static TURN: Mutex<()> = Mutex::new(());

struct Lab {
    _turn: MutexGuard<'static, ()>,
    folder: TempDir,
    child: Box<dyn Child + Send + Sync>,
    keys: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    master: Box<dyn MasterPty + Send>,
}

impl Lab {
    fn open(args: &[&str], rows: u16, cols: u16) -> Lab {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::new().expect("a temporary directory");
        let pair = native_pty_system().openpty(PtySize { rows, cols, ..PtySize::default() }).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_etcd-lab"));
        command.args(args);
        // Labs live in a folder of this test's own.
        command.env("XDG_STATE_HOME", folder.path());
        command.env("TERM", "xterm-256color");
        command.env("SHELL", "/bin/sh");
        let child = pair.slave.spawn_command(command).expect("it starts");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(rows, cols, 0)));
        let mut reader = pair.master.try_clone_reader().expect("readable");
        let fed = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                fed.lock().expect("no panic").process(&bytes[..n]);
            }
        });
        let keys = pair.master.take_writer().expect("writable");
        Lab { _turn: turn, folder, child, keys, screen, master: pair.master }
    }

    fn text(&self) -> String {
        self.screen.lock().expect("no panic").screen().contents()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).and_then(|()| self.keys.flush()).expect("it listens");
    }

    fn until(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WITHIN;
        loop {
            let text = self.text();
            if is(&text) {
                return text;
            }
            let ended = self.child.try_wait().expect("asked");
            assert!(ended.is_none(), "it ended with {ended:?} before: {what}\n{text}");
            assert!(Instant::now() < deadline, "not within {WITHIN:?}: {what}\n{text}");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn shows(&mut self, words: &str) -> String {
        self.until(words, |text| text.contains(words))
    }

    /// Three members, and one of them leads.
    fn live(&mut self) {
        self.shows("Press Enter to start");
        self.press("\r");
        self.until("a leader", |text| text.contains(" LIVE ") && text.contains(" L leader"));
    }

    /// Waits for its end; nobody of the lab is left.
    fn ended(mut self) {
        let deadline = Instant::now() + WITHIN;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("asked") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.text());
            std::thread::sleep(LOOK_EVERY);
        };
        assert!(status.success(), "{status:?}\n{}", self.text());
        let mine = self.folder.path().display().to_string();
        let left: Vec<String> = commands().into_iter().filter(|line| line.contains(&mine)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its members end with it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The command lines of all processes.
fn commands() -> Vec<String> {
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let all = std::fs::read_dir(Path::new("/proc")).expect("Linux").flatten().filter_map(line);
    all.map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " ")).collect()
}

#[test]
fn a_first_walk_hold_step_break_and_go_back() {
    let mut lab = Lab::open(&[], 40, 120);
    lab.live();
    // A put by its key, with the line that it stands for.
    lab.press("wcolour blue\r");
    lab.shows("OK: put colour made revision");
    // Held: the put waits for steps, message by message.
    lab.press(" ");
    lab.shows("HELD");
    lab.press("wcolour red\r");
    lab.press("\t/+1\r");
    lab.shows("HELD at n");
    lab.press(">");
    // The answer to the put may come in the same moment and take the line.
    lab.until("the put is through", |text| {
        text.contains("there: an entry was") || text.contains("OK: put colour made")
    });
    lab.press("/\x7f\x7f\r\t ");
    lab.shows(" LIVE ");
    // The other screens, by their numbers.
    for (key, words) in [("3", "put colour"), ("4", "leases: 0"), ("6", "alarms: none")] {
        lab.press(key);
        lab.shows(words);
    }
    lab.press("5");
    lab.shows("colour  rev");
    lab.press("\r");
    let data = lab.shows("history: 2 versions");
    assert!(data.contains("red") && data.contains("blue"), "{data}");
    // A fault by its line, and its undo.
    lab.press("2:kill n1\r");
    lab.shows("n1 x DOWN");
    lab.press("u");
    lab.until("n1 is back", |text| !text.contains("DOWN") && text.contains("n1 F follower"));
    // Back in what was recorded, and to now.
    lab.press(",");
    lab.shows("REPLAY");
    lab.press("\x1b");
    lab.shows(" LIVE ");
    lab.press("q");
    lab.shows("leave the lab?");
    lab.press("\r");
    lab.ended();
}

#[test]
fn a_partition_from_another_terminal_is_shown_and_undone() {
    let mut lab = Lab::open(&["--ascii", "--theme", "mono"], 24, 80);
    lab.live();
    let state = lab.folder.path().to_owned();
    let fault = |line: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
        let output = command.arg("fault").args(line).env("XDG_STATE_HOME", &state).output();
        let output = output.expect("it runs");
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (done, said) = fault(&["partition", "n1", "|", "n2,n3"]);
    assert!(done && said.contains("undo it with: etcd-lab fault undo"), "{said}");
    let (done, said) = fault(&["kill", "n9"]);
    assert!(!done && said.contains("is no member"), "{said}");
    lab.shows("4 ways broken");
    assert!(lab.text().is_ascii());
    let (done, _) = fault(&["undo"]);
    assert!(done);
    lab.until("mended", |text| !text.contains("ways broken"));
    lab.press("\x03");
    lab.ended();
}

#[test]
fn a_tiny_terminal_is_a_list_and_a_shell_gives_the_screen_back() {
    let mut lab = Lab::open(&[], 12, 40);
    lab.shows("etcd-lab");
    lab.press("\r");
    lab.until("a leader", |text| text.contains("leader"));
    lab.master.resize(PtySize { rows: 24, cols: 80, ..PtySize::default() }).expect("resized");
    lab.screen.lock().expect("no panic").screen_mut().set_size(24, 80);
    lab.until("the ring", |text| text.contains(" L leader"));
    lab.press("0");
    lab.shows("Lab shell: 3 members");
    lab.press("etcdctl put a 1 && echo do''ne\r");
    lab.shows("done");
    lab.press("exit\r");
    lab.shows("back from the shell");
    lab.press("\x03");
    lab.ended();
}
