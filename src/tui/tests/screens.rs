//! Wire, Watch, Data, Cluster; the held clock; why; the command line; a recording.

use super::frame;
use super::press;
use super::script::Script;
use super::script::wire;
use super::text;
use crate::lab::Report;
use crate::lab::board::Order;
use crate::lab::recording::Recorder;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::store::Ask;
use crate::lab::store::Compared;
use crate::lab::store::Difference;
use crate::lab::store::Hashed;
use crate::lab::store::Key as Found;
use crate::lab::store::Listing;
use crate::lab::store::Row;
use crate::lab::store::Shown;
use crate::lab::store::Version;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::Role;
use crate::proto::lab::control_request::Action;
use crate::proto::lab::event::Kind;
use crate::proto::lab::step::What;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::look;
use crate::tui::look::Theme;
use crate::tui::update;
use crate::types::Millis;

const SIZES: [(u16, u16); 3] = [(60, 20), (80, 24), (120, 40)];

/// One frame in each size, and in 7 bits: what has no stand-in fails.
pub(super) fn all_sizes(name: &str, model: &Model) {
    for (width, height) in SIZES {
        insta::assert_snapshot!(format!("{name}_{width}x{height}"), frame(model, width, height));
    }
    let mut ascii = model.clone();
    ascii.ascii = true;
    let screen = frame(&ascii, 80, 24);
    assert!(screen.is_ascii());
    for c in frame(model, 120, 40).chars().filter(|c| !c.is_ascii()) {
        assert!(look::seven_bit(&c.to_string()).is_some(), "{name} draws {c:?}, which has no stand-in");
    }
}

fn steps(cmd: Option<Cmd>) -> Vec<(usize, What)> {
    let Some(Cmd::Do { orders, .. }) = cmd else { panic!("orders, not {cmd:?}") };
    let step = |order| match order {
        Order::Control { member, control: Action::Step(lab::Step { what: Some(what) }) } => (member, what),
        other => panic!("a step, not {other:?}"),
    };
    orders.into_iter().map(step).collect()
}

#[test]
fn space_holds_every_clock_and_the_header_says_what_members_say() {
    let mut script = Script::steady(3);
    let cmd = press(&mut script.model, &[Key::Char(' ')]);
    let set = |member| Order::Control { member, control: Action::SetClock(lab::SetClock { held: true, slower: 1 }) };
    let line = Some("etcd-lab fault hold".into());
    assert_eq!(cmd, Some(Cmd::Do { orders: (0..3).map(set).collect(), line }));
    assert!(frame(&script.model, 80, 24).contains(" LIVE "), "no member has said so yet");
    script.tell(0, Kind::Clock(lab::Clock { held: true, slower: 1, lab_ms: 5 }));
    script.tell(1, Kind::Clock(lab::Clock { held: false, slower: 1, lab_ms: 5 }));
    assert!(frame(&script.model, 80, 24).contains("MIXED CLOCKS"));
    script.clock(true, 1);
    assert!(frame(&script.model, 80, 24).contains("HELD, 0 wait"));
    press(&mut script.model, &[Key::Char(' '), Key::Char('['), Key::Char('[')]);
    script.clock(false, 5);
    let slow = frame(&script.model, 80, 24);
    assert!(slow.contains(" SLOW 1/5  ") && slow.contains("(lab shell waits, others may not)"), "{slow}");
    assert!(frame(&script.model, 60, 20).contains(" SLOW 1/5  3 members  term 3  leader n2\n"), "no room for more");
}

#[test]
fn a_step_is_the_oldest_message_that_waits_or_else_a_tick() {
    let mut script = Script::held();
    all_sizes("held_ring", &script.model);
    assert_eq!(steps(press(&mut script.model, &[Key::Char('.')])), [(0, What::Deliver(11))]);
    script.tell(0, Kind::Freed(lab::Freed { id: 11, dropped: false }));
    script.tell(0, Kind::Received(lab::Received { wire: Some(wire(2, 1, 5, 4, 1)) }));
    assert_eq!(steps(press(&mut script.model, &[Key::Char('.')])), [(2, What::Deliver(7))]);
    script.tell(2, Kind::Freed(lab::Freed { id: 7, dropped: true }));
    script
        .tell(2, Kind::Dropped(lab::Dropped { wire: Some(wire(2, 3, 5, 4, 1)), reason: "dropped by the lab".into() }));
    assert_eq!(steps(press(&mut script.model, &[Key::Char('.')])).len(), 3, "everybody ticks");
    press(&mut script.model, &[Key::Char('2'), Key::Tab]);
    let screen = frame(&script.model, 80, 24);
    assert!(screen.contains("LOST: dropped by the lab") && screen.contains("arrived +3000 ms"), "{screen}");
}

#[test]
fn a_held_message_can_be_delivered_or_lost_by_hand() {
    let mut script = Script::held();
    press(&mut script.model, &[Key::Tab]);
    all_sizes("wire_held", &script.model);
    press(&mut script.model, &[Key::Up, Key::Enter]);
    insta::assert_snapshot!("wire_menu_80x24", frame(&script.model, 80, 24));
    assert_eq!(steps(press(&mut script.model, &[Key::Down, Key::Enter])), [(0, What::Drop(11))]);
    // Without a held clock there is nothing to decide.
    let mut live = Script::put();
    assert_eq!(press(&mut live.model, &[Key::Tab, Key::Enter]), None);
    assert!(frame(&live.model, 80, 24).contains("does not wait"));
}

#[test]
fn steps_go_on_until_a_leader_is_elected() {
    let mut script = Script::held();
    press(&mut script.model, &[Key::Char('>')]);
    let now = script.now().0;
    assert_eq!(steps(update(&mut script.model, Msg::Tick(Millis(now + 100)))), [(0, What::Deliver(11))]);
    script.state(1, Role::Leader, 4, 2, 2);
    assert_eq!(update(&mut script.model, Msg::Tick(Millis(now + 200))), None);
    assert!(script.model.goal.is_none());
}

#[test]
fn a_member_that_starts_while_the_clock_is_held_is_told() {
    let mut script = Script::held();
    let cmd = update(&mut script.model, Msg::Report(Report::Connected { member: 2 }));
    let control = Action::SetClock(lab::SetClock { held: true, slower: 1 });
    assert_eq!(cmd, Some(Cmd::Do { orders: vec![Order::Control { member: 2, control }], line: None }));
}

#[test]
fn messages_are_lines_and_can_be_filtered() {
    let mut script = Script::put();
    press(&mut script.model, &[Key::Tab]);
    all_sizes("wire", &script.model);
    press(&mut script.model, &[Key::Char('/')]);
    press(&mut script.model, &text("n2 > n3"));
    press(&mut script.model, &[Key::Enter]);
    assert_eq!(script.model.wires().len(), 1);
}

#[test]
fn watchers_have_lanes_over_the_tape() {
    let mut script = Script::watched();
    press(&mut script.model, &[Key::Char('4'), Key::Down]);
    all_sizes("watch", &script.model);
    press(&mut script.model, &[Key::Char('y')]);
    insta::assert_snapshot!("watch_why_80x24", frame(&script.model, 80, 24));
}

#[test]
fn the_cluster_is_described_by_its_own_services() {
    let mut script = Script::watched();
    press(&mut script.model, &[Key::Char('6')]);
    all_sizes("cluster", &script.model);
    script.kill(2);
    press(&mut script.model, &[Key::Down, Key::Down, Key::Char('y')]);
    insta::assert_snapshot!("cluster_why_80x24", frame(&script.model, 80, 24));
}

fn shown(script: &mut Script, shown: Shown) {
    script.report(Report::Shown(Box::new(shown)));
}

fn row(key: &str, is_folder: bool) -> Row {
    Row { key: key.into(), is_folder, mod_revision: 4, version: 2 }
}

fn version(value: &str, mod_revision: i64, version: i64) -> Version {
    Version { value: value.into(), bytes: value.len(), create_revision: 2, mod_revision, version, lease: 0 }
}

#[test]
fn the_data_screen_is_a_tree_with_a_past() {
    let mut script = Script::watched();
    let asked = press(&mut script.model, &[Key::Char('5')]);
    let list = |prefix: &str, at| Ask::List { prefix: prefix.into(), from: Vec::new(), at };
    assert!(matches!(asked, Some(Cmd::Data { ask, .. }) if ask == list("", 0)));
    let rows = vec![row("registry/", true), row("colour", false), row("name", false)];
    shown(&mut script, Shown::Listing(Listing { newest: 7, rows, ..Listing::default() }));
    let asked = press(&mut script.model, &[Key::Down, Key::Enter]);
    assert!(matches!(asked, Some(Cmd::Data { ask: Ask::Key { key, at: 0 }, .. }) if key == b"colour"));
    assert!(frame(&script.model, 80, 24).contains("etcdctl get colour -w fields"));
    let versions = vec![version("{\"deep\":\"blue\"}", 5, 2), version("red", 3, 1)];
    shown(&mut script, Shown::Key(Found { key: "colour".into(), versions, cut: String::new() }));
    press(&mut script.model, &[Key::Char('v')]);
    all_sizes("data", &script.model);
    // The past, and a folder.
    let asked = press(&mut script.model, &[Key::Char('-')]);
    assert!(matches!(asked, Some(Cmd::Data { ask, .. }) if ask == list("", 6)));
    assert!(frame(&script.model, 80, 24).contains("asking…"), "the newest is not drawn as the past");
    press(&mut script.model, &[Key::Char('=')]);
    press(&mut script.model, &[Key::Up]);
    let asked = press(&mut script.model, &[Key::Enter]);
    assert!(matches!(asked, Some(Cmd::Data { ask, .. }) if ask == list("registry/", 0)));
    let asked = press(&mut script.model, &[Key::Left]);
    assert!(matches!(asked, Some(Cmd::Data { ask, .. }) if ask == list("", 0)));
}

#[test]
fn members_that_differ_are_said_to() {
    let mut script = Script::watched();
    let asked = press(&mut script.model, &[Key::Char('6'), Key::Char('m')]);
    assert!(matches!(asked, Some(Cmd::Data { ask: Ask::Compare { urls }, .. }) if urls.len() == 3));
    let hash = |member, hash| Hashed { member, hash: Ok((hash, 3)) };
    let compared = |hashes, differ| Shown::Compared(Compared { revision: 7, hashes, differ });
    shown(&mut script, compared(vec![hash(0, 5), hash(1, 5), hash(2, 5)], vec![]));
    assert!(frame(&script.model, 80, 24).contains("all members have the same"));
    let has = vec![(0, Some((4, 7))), (1, None), (2, Some((4, 7)))];
    let differ = vec![Difference { key: b"colour".to_vec(), has }];
    shown(&mut script, compared(vec![hash(0, 5), hash(1, 6), hash(2, 5)], differ));
    assert!(frame(&script.model, 80, 24).contains("MEMBERS DIFFER"));
    assert!(frame(&script.model, 120, 40).contains("colour: n1 rev 4 sum 00000007  n2 has it not"));
    all_sizes("members_differ", &script.model);
}

#[test]
fn why_is_computed_from_what_is_reported() {
    let mut script = Script::put();
    script.marks(1, 5, 5, 4, 4);
    script.kill(2);
    press(&mut script.model, &[Key::Char('3'), Key::Char('y')]);
    let why = script.model.picture.as_ref().expect("started").why_not_committed(5);
    assert_eq!(why[0], "Entry 5 must be on the disks of 2 of 3 members.");
    assert!(why.iter().any(|l| l.contains("n2  yes  the leader's own disk")), "{why:?}");
    assert!(why.iter().any(|l| l.contains("n3  no   it is down (killed (kill -9))")), "{why:?}");
    assert!(why.contains(&"One more answer is enough.".to_string()), "{why:?}");
    press(&mut script.model, &[Key::Esc, Key::Char('2'), Key::Char('y')]);
    insta::assert_snapshot!("ring_why_80x24", frame(&script.model, 80, 24));
    script.kill(1);
    let why = script.model.picture.as_ref().expect("started").why_write_refused();
    assert!(why.contains(&"1 of 3 can vote, 2 are needed: start or continue 1 more.".to_string()), "{why:?}");
}

#[test]
fn everything_has_a_name_and_names_are_completed() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Char(':')]);
    insta::assert_snapshot!("command_80x24", frame(&script.model, 80, 24));
    press(&mut script.model, &text("part"));
    press(&mut script.model, &[Key::Tab]);
    press(&mut script.model, &text("n1 | n2,n3"));
    let cmd = press(&mut script.model, &[Key::Enter]);
    // The script's members have told their ids.
    assert!(
        matches!(&cmd, Some(Cmd::Do { line: Some(line), .. }) if line == "etcd-lab fault partition 'n1 | n2,n3'"),
        "{cmd:?}"
    );
    assert!(frame(&script.model, 80, 24).contains("split n1 | n2,n3"));
    press(&mut script.model, &[Key::Char(':')]);
    press(&mut script.model, &text("theme contrast"));
    press(&mut script.model, &[Key::Enter]);
    assert_eq!(script.model.theme, Theme::Contrast);
    press(&mut script.model, &[Key::Char(':')]);
    press(&mut script.model, &text("explode"));
    press(&mut script.model, &[Key::Enter]);
    assert!(frame(&script.model, 80, 24).contains("there is no command \"explode\""));
}

#[test]
fn a_recording_shows_on_every_screen_and_goes_back() {
    let folder = tempfile::tempdir().expect("temp dir");
    let path = folder.path().join("a.labrec");
    let script = Script::watched();
    let mut recorder = Recorder::create(&path, &Record::sample(3)).expect("written");
    for (at, report) in &script.told {
        recorder.note(*at, report);
    }
    recorder.flush();
    let mut model = Model::new(Theme::Mono, false);
    let mut replay = Replay::new(Recording::read(&path).expect("read"));
    let len = replay.len();
    replay.seek(len);
    update(&mut model, Msg::Replay(Ok(Box::new(replay))));
    for (key, word) in [('2', "n2 L leader"), ('3', "put colour"), ('4', "unsynced"), ('6', "3.6.14")] {
        press(&mut model, &[Key::Char(key)]);
        let screen = frame(&model, 120, 40);
        assert!(screen.contains("REPLAY") && screen.to_lowercase().contains(&word.to_lowercase()), "{key}: {screen}");
    }
    press(&mut model, &[Key::Char('2')]);
    insta::assert_snapshot!("replay_80x24", frame(&model, 80, 24));
    // Ten seconds are more than it has.
    let now = |model: &Model| model.replay.as_ref().expect("shown").picture.now;
    let end = now(&model);
    press(&mut model, &[Key::Char('<')]);
    assert_eq!(now(&model).0, end.0.saturating_sub(10_000));
    press(&mut model, &[Key::Char('>')]);
    assert_eq!(now(&model), end);
    // Back to before anybody led.
    for _ in 0..200 {
        press(&mut model, &[Key::Char(',')]);
    }
    assert!(frame(&model, 80, 24).contains("leader unknown"));
    assert_eq!(press(&mut model, &[Key::Char('!')]), None);
    assert!(frame(&model, 80, 24).contains("this is a recording"));
}

#[test]
fn every_screen_has_a_twin_in_json_and_in_plain_lines() {
    let script = Script::watched();
    let picture = script.model.picture.as_ref().expect("started");
    for screen in crate::lab::picture::json::SCREENS {
        let json = picture.screen_json(screen).expect(screen);
        let plain = crate::lab::picture::json::plain(&json);
        assert!(plain.len() > 1 && plain.iter().all(|l| !l.contains(['{', '"', '│'])), "{screen}: {plain:?}");
    }
    assert!(picture.screen_json("nothing").is_none());
    let watch = picture.screen_json("watch").expect("there");
    assert_eq!((&watch["watchers"][1]["synced"], &watch["watchers"][1]["next"]), (&false.into(), &4.into()));
    let wire = picture.screen_json("wire").expect("there");
    assert!(
        wire["messages"].as_array().expect("a list").iter().any(|m| m["code"] == "+1" && m["from"] == "n2"),
        "{wire}"
    );
}
