//! Promises on the screen; going on with what was kept; the clipboard, the mouse, markers; what is exported of a recording.

use super::frame;
use super::press;
use super::screens::all_sizes;
use super::script::Script;
use super::text;
use crate::lab::Board;
use crate::lab::Report;
use crate::lab::board::Order;
use crate::lab::close;
use crate::lab::close::Close;
use crate::lab::close::Files;
use crate::lab::cluster::Change;
use crate::lab::files::Job;
use crate::lab::files::Part;
use crate::lab::papers::Papers;
use crate::lab::recording::Recorder;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::survey::Standing;
use crate::lab::survey::Survey;
use crate::lab::workdir::Kept;
use crate::lab::workdir::Record;
use crate::proto::lab::Role;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::export;
use crate::tui::keys::Key;
use crate::tui::look::Theme;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;
use crate::tui::update;
use crate::types::Millis;
use std::path::Path;
use std::time::Duration;

#[test]
fn a_broken_promise_is_in_the_header_and_its_evidence_one_key_away() {
    let mut script = Script::put();
    press(&mut script.model, &[Key::Char('6')]);
    assert!(frame(&script.model, 80, 24).contains("of 12 checked, all hold"));
    press(&mut script.model, &[Key::Char('p')]);
    insta::assert_snapshot!("promises_80x24", frame(&script.model, 80, 24));
    press(&mut script.model, &[Key::Esc, Key::Char('2')]);
    script.state(2, Role::Leader, 3, 2, 3);
    all_sizes("broken_ring", &script.model);
    press(&mut script.model, &[Key::Char('p')]);
    all_sizes("broken_promises", &script.model);
    let screen = frame(&script.model, 80, 24);
    assert!(
        screen.contains("n2 at 00:00.") && screen.contains("n3 at 00:0") && screen.contains("leads term 3"),
        "{screen}"
    );
    // No meaning by colour alone: the frame has none, and says so in words.
    assert!(screen.contains("BROKEN: one leader per term (p)"), "{screen}");
    press(&mut script.model, &[Key::Esc, Key::Char(':')]);
    press(&mut script.model, &text("promises"));
    press(&mut script.model, &[Key::Enter]);
    assert!(matches!(script.model.overlay, Some(Overlay::Why { .. })));
}

#[test]
fn the_lab_that_runs_says_what_it_has_seen_of_promises() {
    let mut script = Script::put();
    script.state(2, Role::Leader, 3, 2, 3);
    let (said, cmd) = crate::tui::act::order(&mut script.model, "show promises").expect("asked");
    assert_eq!(cmd, None);
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON in one line");
    assert_eq!((&json["promises"][0]["broken"], said.lines().count()), (&1.into(), 1));
}

#[test]
fn a_second_start_offers_to_go_on() {
    let mut model = Model::new(Theme::Dark, false);
    assert!(!frame(&model, 80, 24).contains("go on"), "nothing was kept");
    assert_eq!(press(&mut model, &[Key::Char('g')]), None);
    let folder = "/home/ada/.local/state/etcd-lab/1";
    model.kept = Some(Kept { folder: folder.into(), members: 3, age: Duration::from_secs(2 * 3600 + 60) });
    all_sizes("go_on", &model);
    assert_eq!(press(&mut model, &[Key::Char('g')]), Some(Cmd::GoOn { folder: folder.into() }));
    assert!(model.starting);
    assert_eq!(press(&mut model, &[Key::Char('g')]), None, "once");
    update(&mut model, Msg::Refused("port 2379 is taken by etcd (pid 812)".into()));
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("is taken by etcd") && screen.contains(folder), "{screen}");
}

#[test]
fn the_line_of_the_last_action_is_copied() {
    let mut script = Script::steady(3);
    assert_eq!(press(&mut script.model, &[Key::Char('c')]), None);
    assert!(frame(&script.model, 80, 24).contains("nothing was done yet"));
    press(&mut script.model, &[Key::Char('w')]);
    press(&mut script.model, &text("colour deep blue"));
    press(&mut script.model, &[Key::Enter]);
    let copied = |line: &str| Some(Cmd::Copy { text: line.into() });
    assert_eq!(press(&mut script.model, &[Key::Char('c')]), copied("etcdctl put colour 'deep blue'"));
    press(&mut script.model, &[Key::Char('!'), Key::Enter, Key::Char(':')]);
    press(&mut script.model, &text("copy"));
    assert_eq!(press(&mut script.model, &[Key::Enter]), copied("etcd-lab fault kill n1"));
    // A menu's line before it is done.
    press(&mut script.model, &[Key::Char('!')]);
    press(&mut script.model, &[Key::Down; 7]);
    assert_eq!(press(&mut script.model, &[Key::Char('c')]), copied("etcd-lab fault partition 'n1 | n2,n3'"));
}

/// Clicks on where this text is.
fn click(model: &mut Model, on: &str) -> Option<Cmd> {
    let screen = frame(model, model.area.0, model.area.1);
    let (row, line) = screen.lines().enumerate().find(|(_, l)| l.contains(on)).expect(on);
    let column = line.split(on).next().expect("found").chars().count();
    update(model, Msg::Click { column: column as u16, row: row as u16 })
}

#[test]
fn clicks_select_and_never_break() {
    let mut script = Script::watched();
    let model = &mut script.model;
    update(model, Msg::Resized { width: 80, height: 24 });
    press(model, &[Key::Char(':')]);
    press(model, &text("mouse on"));
    assert_eq!(press(model, &[Key::Enter]), Some(Cmd::Mouse { on: true }));
    assert_eq!((click(model, "n3 F follower"), model.selected), (None, 2));
    click(model, "3 logs");
    assert_eq!(model.screen, Screen::Logs);
    click(model, "4 watch");
    click(model, "UNSYNCED");
    assert_eq!((model.screen, model.watcher), (Screen::Watch, 1));
    // In a menu a click marks, and what is behind it is not hit.
    press(model, &[Key::Char('2'), Key::Char('!')]);
    assert_eq!(click(model, "shut it down"), None);
    assert!(matches!(model.overlay, Some(Overlay::Menu { choice: 4, .. })));
    assert_eq!((click(model, "3 logs"), model.screen), (None, Screen::Ring));
    press(model, &[Key::Esc, Key::Char(':')]);
    press(model, &text("mouse off"));
    assert_eq!(press(model, &[Key::Enter]), Some(Cmd::Mouse { on: false }));
    let mut opening = Model::new(Theme::Dark, false);
    click(&mut opening, "survives the loss of two");
    assert_eq!(press(&mut opening, &[Key::Enter]), Some(Cmd::Start { nodes: 5 }));
}

#[test]
fn files_of_a_member_that_is_down_can_rot_and_be_mended() {
    let mut script = Script::steady(3);
    let order = |line: &str, model: &mut Model| {
        press(model, &[Key::Char(':')]);
        press(model, &text(line));
        press(model, &[Key::Enter])
    };
    assert_eq!(order("rot n1 log", &mut script.model), None);
    assert!(frame(&script.model, 80, 24).contains("has its files open: kill it first"));
    script.kill(0);
    let does = |job, line: &str| {
        Some(Cmd::Do { orders: vec![Order::Files { member: 0, job }], line: Some(format!("etcd-lab fault {line}")) })
    };
    assert_eq!(order("rot n1 log", &mut script.model), does(Job::Rot(Part::Log), "rot n1 log"));
    assert_eq!(press(&mut script.model, &[Key::Char('u')]), does(Job::Mend, "undo (mend n1)"));
    assert_eq!(order("wipe n1", &mut script.model), does(Job::Wipe, "wipe n1"));
    assert_eq!(press(&mut script.model, &[Key::Char('u')]), does(Job::Unwipe, "undo (unwipe n1)"));
}

fn recorded(script: &Script, folder: &Path) -> String {
    let path = folder.join("a.labrec");
    let mut recorder = Recorder::create(&path, &Record::sample(3)).expect("written");
    script.told.iter().for_each(|(at, report)| recorder.note(*at, report));
    recorder.flush();
    path.display().to_string()
}

#[test]
fn markers_are_put_and_gone_to() {
    let mut script = Script::put();
    assert_eq!(press(&mut script.model, &[Key::Char('M')]), Some(Cmd::Mark { text: "number 1".into() }));
    script.report(Report::Mark { text: "number 1".into() });
    script.pass(500);
    press(&mut script.model, &[Key::Char(':')]);
    press(&mut script.model, &text("mark here it goes wrong"));
    assert_eq!(press(&mut script.model, &[Key::Enter]), Some(Cmd::Mark { text: "here it goes wrong".into() }));
    assert!(frame(&script.model, 80, 24).contains("MARK: number 1"));
    let folder = tempfile::tempdir().expect("temp dir");
    let recording = Recording::read(Path::new(&recorded(&script, folder.path()))).expect("read");
    let mut model = Model::new(Theme::Mono, false);
    update(&mut model, Msg::Replay(Ok(Box::new(Replay::new(recording)))));
    press(&mut model, &[Key::Char('}')]);
    let marked = model.shown().expect("replayed").now;
    assert!(marked < script.now() && frame(&model, 80, 24).contains("MARK: number 1"));
    press(&mut model, &[Key::Char('}'), Key::Char('{')]);
    assert_eq!(model.shown().expect("replayed").now, marked);
    assert_eq!(press(&mut model, &[Key::Char('M')]), None, "nothing is recorded in a recording");
}

#[test]
fn a_recording_has_no_labs_and_says_where_they_are() {
    let folder = tempfile::tempdir().expect("temp dir");
    let recording = Recording::read(Path::new(&recorded(&Script::watched(), folder.path()))).expect("read");
    let mut model = Model::new(Theme::Mono, false);
    update(&mut model, Msg::Replay(Ok(Box::new(Replay::new(recording)))));
    for (typed, line) in [("lab E3", "then etcd-lab E3"), ("quiz 4", "then etcd-lab lesson 4 --quiz")] {
        press(&mut model, &[Key::Char(':')]);
        press(&mut model, &text(typed));
        assert_eq!(press(&mut model, &[Key::Enter]), None);
        let screen = frame(&model, 120, 24);
        assert!(screen.contains(line), "{screen}");
    }
}

fn exported(args: &[&str]) -> String {
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = export::run(&args, &mut out, &mut err);
    assert_eq!(code, 0, "{}", String::from_utf8_lossy(&err));
    String::from_utf8(out).expect("text")
}

#[test]
fn a_film_shows_what_the_screen_showed() {
    let folder = tempfile::tempdir().expect("temp dir");
    let script = Script::watched();
    let file = recorded(&script, folder.path());
    let cast = exported(&[&file, "cast", "--screen", "logs", "--theme", "dark"]);
    let mut lines = cast.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("JSON"));
    let header = lines.next().expect("a header");
    assert_eq!((&header["version"], &header["width"], &header["height"]), (&2.into(), &80.into(), &24.into()));
    let mut terminal = vt100::Parser::new(24, 80, 0);
    let mut last = 0.0;
    for event in lines {
        assert!(event[0].as_f64().expect("seconds") >= last && event[1] == "o", "{event}");
        last = event[0].as_f64().expect("seconds");
        terminal.process(event[2].as_str().expect("text").as_bytes());
    }
    let mut replay = Replay::new(Recording::read(Path::new(&file)).expect("read"));
    let end = replay.end();
    replay.seek_time(end);
    let mut model = Model::new(Theme::Dark, false);
    update(&mut model, Msg::Replay(Ok(Box::new(replay))));
    press(&mut model, &[Key::Char('3')]);
    (model.notice, model.play.running) = (None, false);
    let words = |screen: &str| screen.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    let (film, screen) = (words(&terminal.screen().contents()), words(&frame(&model, 80, 24)));
    assert_eq!(film, screen[..film.len()]);
    assert!(film.iter().any(|l| l.contains("put colour")), "{film:?}");
}

#[test]
fn a_screen_is_a_picture_and_messages_a_diagram() {
    let folder = tempfile::tempdir().expect("temp dir");
    let file = recorded(&Script::crash(), folder.path());
    let svg = exported(&[&file, "svg", "--size", "80x24"]);
    assert!(svg.starts_with("<svg ") && svg.contains("n2 L leader") && svg.contains("kill -9"), "{svg}");
    assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    let then = exported(&[&file, "svg", "--at", "0.1"]);
    assert!(!then.contains("n2 L leader"), "nobody leads at the beginning");
    insta::assert_snapshot!("spacetime", exported(&[&file, "spacetime", "--heartbeats"]));
    let diagram = exported(&[&file, "spacetime-svg"]);
    // Two vote requests, of which one arrives, and the vote.
    assert_eq!(diagram.matches("marker-end").count(), 2, "{diagram}");
    assert!(diagram.contains("V? t4") && diagram.contains("V+ t4"), "{diagram}");
}

#[test]
fn every_report_is_a_line_of_json() {
    let folder = tempfile::tempdir().expect("temp dir");
    let script = Script::watched();
    let file = recorded(&script, folder.path());
    let text = exported(&[&file, "jsonl"]);
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(lines.len(), script.told.len());
    assert!(lines.iter().all(|l| l["at_ms"].is_u64()));
    let put = lines.iter().find(|l| l["appended"][0]["what"] == "put colour").expect("told");
    assert_eq!((&put["member"], &put["appended"][0]["index"]), (&"n1".into(), &3.into()));
    let part = exported(&[&file, "jsonl", "--from", "0.2", "--to", "0.4"]);
    assert!(part.lines().count() > 0 && part.lines().count() < lines.len());
    assert!(Millis(400) < script.now());
}

#[test]
fn a_nemesis_is_in_the_header_line_by_line_in_the_feed_and_called_off() {
    let mut script = Script::put();
    press(&mut script.model, &[Key::Char(':')]);
    press(&mut script.model, &text("nemesis 7 for 60s"));
    assert!(matches!(press(&mut script.model, &[Key::Enter]), Some(Cmd::Do { orders, .. }) if orders.is_empty()));
    let mut lines = Vec::new();
    let mut calls = 0;
    let mut at = |script: &mut Script, to: u64| {
        for now in (script.now().0..to).step_by(100) {
            match update(&mut script.model, Msg::Tick(Millis(now))) {
                Some(Cmd::Nemesis { line, .. }) => {
                    lines.push(line.clone());
                    script.report(Report::Nemesis { line });
                }
                Some(Cmd::Call { .. }) => calls += 1,
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        lines.clone()
    };
    let began = script.now().0;
    let said = at(&mut script, began + 1_500);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("nemesis 7, 1 of 60 s: "), "{said:?}");
    let screen = frame(&script.model, 120, 40);
    assert!(screen.contains("NEMESIS 7, 59 s left") && screen.contains(&said[0]), "{screen}");
    press(&mut script.model, &[Key::Char('u')]);
    let said = at(&mut script, began + 4_000);
    // The scripted members run all the time: nothing of them is to be mended, but what the board has in force.
    assert_eq!(said.last().map(String::as_str), Some("nemesis 7 has ended, and all is whole"), "{said:?}");
    assert!(!frame(&script.model, 120, 40).contains("NEMESIS"));
    assert!(calls > 0, "its client has asked nothing");
}

#[test]
fn what_a_members_own_log_says_is_in_the_feed_and_under_why() {
    let mut script = Script::steady(3);
    script.report(Report::Process { member: 0, change: Change::Ended { how: "ended with exit code 2".into() } });
    let line = "flag provided but not defined: -snapshot-cuont".to_string();
    script.report(Report::Said { member: 0, line });
    let told = "n1's own log: flag provided but not defined: -snapshot-cuont";
    assert!(frame(&script.model, 80, 24).contains(told));
    press(&mut script.model, &[Key::Char('6'), Key::Char('y')]);
    insta::assert_snapshot!("own_log_80x24", frame(&script.model, 80, 24));
    press(&mut script.model, &[Key::Esc]);
    script.report(Report::Process { member: 0, change: Change::Started { pid: 5 } });
    press(&mut script.model, &[Key::Char('y')]);
    assert!(!frame(&script.model, 80, 24).contains("Its own log"), "of an earlier run");
}

#[test]
fn what_upstream_etcd_does_not_tell_is_said_to_be_invisible() {
    let record = Record { upstream: Some("/usr/bin/etcd".into()), ..Record::sample(3) };
    let mut model = Model::new(Theme::Dark, false);
    update(&mut model, Msg::Started { record, folder: "/f".into(), notices: vec![] });
    for member in 0..3 {
        let change = Change::Started { pid: 4001 + member as u32 };
        update(&mut model, Msg::Report(Report::Process { member, change }));
    }
    let polled = |model: &mut Model, leader: u64, term: u64| {
        for member in 0..3 {
            let standing = Standing {
                member: member as u64 + 1,
                cluster: 9,
                leader,
                term,
                commit: 8,
                applied: 8,
                ..Standing::default()
            };
            let survey = Survey { version: "3.5.30".into(), standing, ..Survey::default() };
            update(model, Msg::Report(Report::Surveyed { member, survey: Box::new(survey) }));
        }
    };
    polled(&mut model, 2, 3);
    update(&mut model, Msg::Tick(Millis(3_000)));
    polled(&mut model, 3, 4);
    insta::assert_snapshot!("upstream_ring_80x24", frame(&model, 80, 24));
    assert!(frame(&model, 120, 40).contains("n3 is leader of term 4"), "{}", frame(&model, 120, 40));
    for key in ['\t', '3', '4'] {
        let key = if key == '\t' { Key::Tab } else { Key::Char(key) };
        press(&mut model, &[key]);
        assert!(frame(&model, 80, 24).contains("Not visible on this server"), "{key:?}");
    }
    press(&mut model, &[Key::Char('2'), Key::Char(':')]);
    press(&mut model, &text("partition n1 | n2,n3"));
    assert_eq!(press(&mut model, &[Key::Enter]), None);
    assert!(frame(&model, 80, 24).contains("upstream etcd has no door for that"));
    assert_eq!(model.board, Board::default(), "what is not done must not seem to be");
    // It is asked once a second: two answers that fail to come are no silence yet.
    update(&mut model, Msg::Tick(Millis(6_500)));
    assert!(frame(&model, 80, 24).contains("LIVE upstream etcd"));
    update(&mut model, Msg::Tick(Millis(7_500)));
    assert!(frame(&model, 80, 24).contains("NO DATA"));
}

#[test]
fn a_member_is_looked_at_closely() {
    let mut script = Script::watched();
    let papers = Papers {
        authority: "CN=etcd-lab".into(),
        subject: "CN=n1".into(),
        issuer: "CN=an authority that nobody trusts".into(),
        names: vec!["127.0.0.1".into(), "localhost".into()],
        usages: vec!["serverAuth".into(), "clientAuth".into()],
        from: "2026-11-21".into(),
        until: "2036-11-19".into(),
        faults: vec!["the authority that the members trust has not signed it".into()],
    };
    script.report(Report::Papers { member: 0, papers: Some(Box::new(papers)) });
    script.report(Report::Papers { member: 1, papers: None });
    let text = "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 60\n\
                etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 90\n\
                etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 100\n\
                etcd_network_peer_round_trip_time_seconds_sum{To=\"2\"} 0.5\n\
                etcd_network_peer_round_trip_time_seconds_count{To=\"2\"} 100\n";
    let files = Files { snapshots: 1, newest_index: 10_000, segments: 2, segment_bytes: 8 << 20 };
    let close = Some(Box::new(Close { files: Some(files), ..close::of_metrics(text) }));
    let survey = Survey { version: "3.6.14".into(), close, ..Survey::default() };
    script.report(Report::Surveyed { member: 0, survey: Box::new(survey.clone()) });
    // A round without a close look takes nothing away.
    script.report(Report::Surveyed { member: 0, survey: Box::new(Survey { close: None, ..survey }) });
    press(&mut script.model, &[Key::Char('6')]);
    insta::assert_snapshot!("closely_120x40", frame(&script.model, 120, 40));
    press(&mut script.model, &[Key::Enter]);
    assert!(matches!(script.model.overlay, Some(Overlay::CloseUp { .. })));
    insta::assert_snapshot!("closely_80x24", frame(&script.model, 80, 24));
    press(&mut script.model, &[Key::Esc, Key::Down]);
    assert!(frame(&script.model, 120, 40).contains("n2 closely"), "the selected member");
    assert!(frame(&script.model, 120, 40).contains("certificates: none"));
    // It starts anew: what it measured before is not drawn as if it were of now.
    script.report(Report::Process { member: 0, change: Change::Started { pid: 5 } });
    press(&mut script.model, &[Key::Up, Key::Enter]);
    let shown = frame(&script.model, 80, 24);
    assert!(shown.contains("nothing is known yet") && shown.contains("BROKEN"), "{shown}");
}
