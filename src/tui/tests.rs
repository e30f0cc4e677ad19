//! Screens and keys, from messages alone: a scripted cluster stands in for the processes.
//!
//! Each frame is a snapshot whose name is a claim; they were read before they were accepted.

mod asked;
mod book;
mod hands;
mod kube;
mod learn;
mod screens;
mod script;

use crate::lab::Action;
use crate::lab::board::Order;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::look;
use crate::tui::look::Theme;
use crate::tui::model::Overlay;
use crate::tui::update;
use crate::tui::view;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use script::Script;

fn frame(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    terminal.draw(|frame| view(model, frame)).expect("in memory");
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_string()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_string() + "\n").collect()
}

fn press(model: &mut Model, keys: &[Key]) -> Option<Cmd> {
    keys.iter().map(|key| update(model, Msg::Key(*key))).last().flatten()
}

/// What the learner does to one member's process.
fn does(line: &str, member: usize, action: Action) -> Option<Cmd> {
    Some(Cmd::Do { orders: vec![Order::Process { member, action }], line: Some(format!("etcd-lab fault {line}")) })
}

fn text(word: &str) -> Vec<Key> {
    word.chars().map(Key::Char).collect()
}

#[test]
fn the_opening_needs_one_key() {
    let mut model = Model::new(Theme::Dark, false);
    insta::assert_snapshot!(frame(&model, 80, 24));
    assert_eq!(press(&mut model, &[Key::Enter]), Some(Cmd::Start { nodes: 3 }));
    assert_eq!(press(&mut model, &[Key::Enter]), None, "a second Enter does not start a second cluster");
}

#[test]
fn other_sizes_are_one_arrow_away() {
    let mut model = Model::new(Theme::Dark, false);
    assert_eq!(press(&mut model, &[Key::Down, Key::Enter]), Some(Cmd::Start { nodes: 5 }));
}

#[test]
fn a_refused_start_is_said_on_the_opening() {
    let mut model = Model::new(Theme::Dark, false);
    press(&mut model, &[Key::Enter]);
    update(&mut model, Msg::Refused("etcd-lab needs 144 MiB of disk for 3 members, and /home has 12".into()));
    assert!(frame(&model, 80, 24).contains("needs 144 MiB"));
    assert_eq!(press(&mut model, &[Key::Enter]), Some(Cmd::Start { nodes: 3 }), "it can be tried again");
}

#[test]
fn before_any_report_nothing_is_claimed() {
    let model = Script::started(3).model;
    insta::assert_snapshot!(frame(&model, 80, 24));
}

#[test]
fn an_election_shows_votes_in_flight() {
    let model = Script::election().model;
    insta::assert_snapshot!("election_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("election_120x40", frame(&model, 120, 40));
    insta::assert_snapshot!("election_60x20", frame(&model, 60, 20));
}

#[test]
fn a_put_goes_to_all_three() {
    let model = Script::put().model;
    insta::assert_snapshot!("put_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("put_200x50", frame(&model, 200, 50));
}

#[test]
fn five_members_fit() {
    let model = Script::steady(5).model;
    insta::assert_snapshot!("five_80x24", frame(&model, 80, 24));
}

#[test]
fn a_killed_leader_is_down_and_its_messages_do_not_arrive() {
    let model = Script::crash().model;
    insta::assert_snapshot!("crash_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("crash_60x20", frame(&model, 60, 20));
}

#[test]
fn logs_stand_side_by_side() {
    let mut model = Script::put().model;
    press(&mut model, &[Key::Char('3'), Key::Tab]);
    insta::assert_snapshot!("logs_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("logs_120x40", frame(&model, 120, 40));
    insta::assert_snapshot!("logs_60x20", frame(&model, 60, 20));
    press(&mut model, &[Key::Left, Key::Left, Key::Left]);
    assert_eq!(model.cursor, Some(1));
    press(&mut model, &[Key::End]);
    assert_eq!(model.cursor, None);
}

#[test]
fn seven_bit_screens_carry_every_fact() {
    let mut model = Script::crash().model;
    model.ascii = true;
    let ring = frame(&model, 80, 24);
    assert!(ring.is_ascii());
    insta::assert_snapshot!("crash_ascii_80x24", ring);
    for key in ['3', '4', '5', '6', '?', '!', 'w', ':', 'q'] {
        model.ascii = false;
        press(&mut model, &[Key::Esc, Key::Char(key)]);
        for c in frame(&model, 120, 60).chars().filter(|c| !c.is_ascii()) {
            assert!(look::seven_bit(&c.to_string()).is_some(), "screen {key} draws {c:?}, which has no stand-in");
        }
    }
}

#[test]
fn without_telemetry_a_screen_says_since_when() {
    let mut script = Script::steady(3);
    script.silence(1);
    script.pass(3_000);
    let screen = frame(&script.model, 80, 24);
    insta::assert_snapshot!("silent_80x24", screen);
    assert!(screen.contains("no data since"));
    let members = &script.model.picture.as_ref().expect("started").members;
    assert!(members[1].role(script.now()).is_none(), "an old role is not drawn as the present one");
    assert!(members[0].role(script.now()).is_some(), "the others speak on");
}

#[test]
fn a_stopped_member_is_told_from_a_dead_one() {
    let mut script = Script::steady(3);
    script.pause(2);
    script.pass(4_000);
    let screen = frame(&script.model, 80, 24);
    assert!(screen.contains("n3 z STOPPED") && screen.contains("stands still (SIGSTOP)"), "{screen}");
}

#[test]
fn faults_are_in_a_menu_and_can_be_undone() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Right, Key::Char('!')]);
    insta::assert_snapshot!("break_80x24", frame(&script.model, 80, 24));
    insta::assert_snapshot!("break_60x20", frame(&script.model, 60, 20));
    assert_eq!(press(&mut script.model, &[Key::Enter]), does("kill n2", 1, Action::Kill));
    let screen = frame(&script.model, 80, 24);
    assert!(screen.contains("etcd-lab fault kill n2   (shell: kill -9 4002)   u undoes"), "{screen}");
    script.kill(1);
    let restart = does("undo (start n2)", 1, Action::Restart);
    assert_eq!(press(&mut script.model, &[Key::Char('u')]), restart);
    assert_eq!(press(&mut script.model, &[Key::Char('u')]), None, "once");
}

#[test]
fn a_fault_that_does_not_fit_is_refused() {
    let mut script = Script::steady(3);
    let keys = [Key::Char('!'), Key::Down, Key::Down, Key::Down, Key::Enter];
    assert_eq!(press(&mut script.model, &keys), None, "it runs: there is nothing to continue");
    assert!(frame(&script.model, 80, 24).contains("does not fit: n1 does not stand still"));
}

#[test]
fn an_election_can_be_forced() {
    let mut script = Script::steady(3);
    let keys = [Key::Right, Key::Right, Key::Char('!')]
        .into_iter()
        .chain([Key::Down; 6])
        .chain([Key::Enter])
        .collect::<Vec<_>>();
    let control = crate::proto::lab::control_request::Action::Campaign(crate::proto::lab::Campaign {});
    let orders = vec![Order::Control { member: 2, control }];
    let line = Some("etcd-lab fault campaign n3".into());
    assert_eq!(press(&mut script.model, &keys), Some(Cmd::Do { orders, line }));
}

#[test]
fn a_put_asks_the_leader_first() {
    let mut script = Script::steady(3);
    let mut keys = vec![Key::Char('w')];
    keys.extend(text("colour deep blue"));
    press(&mut script.model, &keys);
    insta::assert_snapshot!("prompt_80x24", frame(&script.model, 80, 24));
    let Some(Cmd::Put { endpoints, key, value }) = press(&mut script.model, &[Key::Enter]) else { panic!("a put") };
    assert_eq!((key.as_str(), value.as_str()), ("colour", "deep blue"));
    assert_eq!(endpoints, ["http://127.0.0.1:22379", "http://127.0.0.1:2379", "http://127.0.0.1:32379"]);
    let put = press(&mut script.model, &[Key::Char('w'), Key::Enter]);
    assert!(matches!(put, Some(Cmd::Put { key, .. }) if key == "a"), "Enter alone writes the suggestion");
}

#[test]
fn freezing_stops_the_drawing_and_not_the_cluster() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Char('f')]);
    let before = frame(&script.model, 80, 24);
    script.model.changed = false;
    script.kill(1);
    script.pass(500);
    assert_eq!(frame(&script.model, 80, 24), before);
    assert!(!script.model.changed, "nothing to draw");
    press(&mut script.model, &[Key::Char('f')]);
    assert!(frame(&script.model, 80, 24).contains("DOWN"));
}

#[test]
fn an_idle_screen_is_not_drawn_again() {
    let mut model = Model::new(Theme::Dark, false);
    model.changed = false;
    update(&mut model, Msg::Tick(crate::types::Millis(5_000)));
    assert!(!model.changed);
}

#[test]
fn leaving_asks_about_the_folder() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Char('q')]);
    insta::assert_snapshot!("quit_80x24", frame(&script.model, 80, 24));
    let stay = press(&mut script.model, &[Key::Up, Key::Enter]);
    assert_eq!((stay, script.model.overlay.clone()), (None, None));
    let keep = press(&mut script.model, &[Key::Char('q'), Key::Down, Key::Enter]);
    assert_eq!(keep, Some(Cmd::Quit { remove: false }));
}

#[test]
fn the_help_names_every_key_and_every_word() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Char('?')]);
    insta::assert_snapshot!("help_80x24", frame(&script.model, 80, 24));
    insta::assert_snapshot!("help_120x60", frame(&script.model, 120, 64));
    for _ in 0..200 {
        press(&mut script.model, &[Key::Down]);
    }
    assert!(frame(&script.model, 80, 24).contains("match, next"), "scrolling ends with the last line in view");
    press(&mut script.model, &[Key::Esc]);
    assert_eq!(script.model.overlay, None);
    assert_ne!(script.model.overlay, Some(Overlay::Help { scroll: 0 }));
}

#[test]
fn every_size_draws_without_panic() {
    let scripts = [Script::started(1), Script::election(), Script::steady(5), Script::crash()];
    for mut script in scripts {
        for key in ['2', '\t', '3', '4', '5', '6', '?', '!', 'w', ':', 'y', 'q'] {
            let key = if key == '\t' { Key::Tab } else { Key::Char(key) };
            press(&mut script.model, &[Key::Esc, key]);
            for (width, height) in [(1, 1), (2, 3), (10, 4), (40, 10), (60, 20), (71, 21), (72, 22), (300, 90)] {
                assert_eq!(frame(&script.model, width, height).lines().count(), usize::from(height));
            }
        }
    }
}

#[test]
fn the_json_says_what_the_screen_says() {
    let script = Script::crash();
    let json = script.model.picture.as_ref().expect("started").to_json();
    assert_eq!(json["members"][0]["process"]["is"], "ended");
    assert_eq!(json["members"][0]["role"], serde_json::Value::Null);
    assert_eq!(json["leader"], "n2");
    assert_eq!(json["term"], 4);
    assert_eq!(json["members"][1]["tail"][0]["summary"], "put a");
}
