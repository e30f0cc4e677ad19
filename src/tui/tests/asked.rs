//! What a newcomer asks, and what the screens answer: who is missed, what is broken on purpose, what a server cannot do; and the simulated
//! cluster, on which a learner acts.

use super::frame;
use super::press;
use super::script::Script;
use super::script::wire;
use super::text;
use crate::lab::Picture;
use crate::lab::Report;
use crate::lab::board::Order;
use crate::lab::misfit::Misfit;
use crate::lab::recording::Replay;
use crate::lab::twin;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::sim::film::Act;
use crate::sim::film::Script as Played;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::look::Theme;
use crate::tui::update;
use crate::types::Millis;

fn typed(model: &mut Model, line: &str) -> Option<Cmd> {
    press(model, &[Key::Char(':')]);
    press(model, &text(line));
    press(model, &[Key::Enter])
}

#[test]
fn why_tells_of_the_one_that_is_missed_before_the_one_that_is_marked() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Char('y')]);
    assert!(frame(&script.model, 80, 24).contains("why does n1 not lead?"), "nobody is missed");
    script.kill(2);
    // It is open, and tells of now.
    insta::assert_snapshot!("missed_80x24", frame(&script.model, 80, 24));
    press(&mut script.model, &[Key::Esc, Key::Char('6'), Key::Char('y')]);
    assert!(frame(&script.model, 80, 24).contains("why does n3 not serve?"));
    // Who is marked and down is asked about itself.
    press(&mut script.model, &[Key::Esc, Key::Char('2'), Key::Right, Key::Right, Key::Char('y')]);
    assert!(frame(&script.model, 80, 24).contains("why does n3 not lead?"));
}

#[test]
fn a_member_that_is_not_heard_is_not_said_to_serve() {
    let mut script = Script::watched();
    press(&mut script.model, &[Key::Char('6')]);
    typed(&mut script.model, "bad-config n1 other-token");
    script.report(Report::Lost { member: 0, why: "it closed the stream".into() });
    script.report(Report::Said { member: 0, line: "cluster ID mismatch".into() });
    script.pass(200);
    press(&mut script.model, &[Key::Char('y')]);
    let screen = frame(&script.model, 120, 40);
    insta::assert_snapshot!("other_token_120x40", screen);
    assert!(!screen.contains("serves clients"), "{screen}");
    assert!(screen.contains("another cluster's token") && screen.contains("good-config n1"), "{screen}");
}

#[test]
fn a_partition_is_named_by_its_sides() {
    let mut script = Script::steady(5);
    typed(&mut script.model, "partition n1,n2 | n3,n4,n5");
    let header = |script: &Script| frame(&script.model, 120, 40).lines().next().expect("a line").to_owned();
    assert!(header(&script).contains("split n1,n2 | n3,n4,n5"), "{}", header(&script));
    press(&mut script.model, &[Key::Char('y')]);
    assert!(frame(&script.model, 120, 40).contains("split n1,n2 | n3,n4,n5"));
    press(&mut script.model, &[Key::Esc]);
    typed(&mut script.model, "delay n1 n3 200ms");
    assert!(header(&script).contains("ways broken"), "it is no partition any more: {}", header(&script));
}

#[test]
fn a_write_can_be_sent_to_one_member_alone() {
    let mut script = Script::steady(3);
    let Some(Cmd::Put { endpoints, key, value }) = typed(&mut script.model, "put-at n3 colour deep blue") else {
        panic!("a put")
    };
    assert_eq!((key.as_str(), value.as_str()), ("colour", "deep blue"));
    assert_eq!(endpoints, ["http://127.0.0.1:32379"]);
    assert!(frame(&script.model, 80, 24).contains("etcdctl --endpoints 127.0.0.1:32379 put colour 'deep blue'"));
    assert_eq!(typed(&mut script.model, "put-at n9 a b"), None);
}

#[test]
fn the_bar_offers_upstream_etcd_nothing_that_it_cannot_do() {
    let record = Record { upstream: Some("/usr/bin/etcd".into()), ..Record::sample(3) };
    let mut model = Model::new(Theme::Dark, false);
    update(&mut model, Msg::Started { record, folder: "/f".into(), notices: vec![] });
    let screen = frame(&model, 120, 40);
    let bar = screen.lines().rev().nth(1).expect("two lines of keys");
    assert!(bar.contains("Space freeze the drawing") && bar.contains("! break…"), "{bar}");
    assert!(!bar.contains("step") && !bar.contains("slower") && !bar.contains("until"), "{bar}");
}

#[test]
fn certificates_are_broken_only_where_there_are_some() {
    let mut script = Script::steady(3);
    assert_eq!(typed(&mut script.model, "bad-config n1 expired-cert"), None);
    assert!(frame(&script.model, 120, 40).contains("start the lab with --tls"));
    assert!(!configurations(&mut script).contains("expired"));
    press(&mut script.model, &[Key::Esc]);
    script.model.picture.as_mut().expect("started").is_tls = true;
    assert!(typed(&mut script.model, "bad-config n1 expired-cert").is_some());
    assert!(configurations(&mut script).contains("a certificate that has expired"));
}

/// The menu in the menu.
fn configurations(script: &mut Script) -> String {
    press(&mut script.model, &[Key::Char('!')]);
    while !frame(&script.model, 120, 60).contains("▸ a bad configuration") {
        press(&mut script.model, &[Key::Down]);
    }
    assert_eq!(press(&mut script.model, &[Key::Enter]), None);
    frame(&script.model, 120, 60)
}

#[test]
fn a_bad_configuration_is_chosen_from_a_menu_of_its_own() {
    let mut script = Script::steady(3);
    let screen = configurations(&mut script);
    assert!(screen.contains("n1 starts anew with…") && screen.contains("▸ a flag that etcd does not know"), "{screen}");
    insta::assert_snapshot!("configurations_80x24", frame(&script.model, 80, 24));
    let misfit = Misfit::named("unknown-flag");
    let line = Some("etcd-lab fault bad-config n1 unknown-flag".into());
    let orders = vec![Order::Config { member: 0, misfit }];
    assert_eq!(press(&mut script.model, &[Key::Enter]), Some(Cmd::Do { orders, line }));
    // Who is alone has nobody to refuse it.
    let mut alone = Script::started(1);
    assert!(!configurations(&mut alone).contains("another cluster's token"));
}

#[test]
fn a_key_is_written_through_the_member_that_is_marked() {
    let mut script = Script::steady(3);
    press(&mut script.model, &[Key::Right, Key::Right, Key::Char('W')]);
    assert!(frame(&script.model, 80, 24).contains(":put-at n3 a 1"));
    let cmd = press(&mut script.model, &[Key::Enter]);
    let at = script.model.picture.as_ref().expect("started").members[2].client_url.clone();
    assert_eq!(cmd, Some(Cmd::Put { endpoints: vec![at], key: "a".into(), value: "1".into() }));
}

#[test]
fn a_leader_that_is_down_leads_nobody_though_nobody_knows_yet() {
    let mut script = Script::steady(3);
    script.kill(1);
    let screen = frame(&script.model, 80, 24);
    assert!(screen.contains("NO LEADER (n2 is down)"), "{screen}");
}

#[test]
fn a_step_waits_until_what_came_of_the_one_before_has_arrived() {
    let mut script = Script::held();
    press(&mut script.model, &[Key::Char('.')]);
    script.tell(0, Kind::Freed(lab::Freed { id: 11, dropped: false }));
    // It is on its way into raft: the next step is asked for, and not made yet.
    assert_eq!(press(&mut script.model, &[Key::Char('.')]), None);
    assert_eq!(script.wait(10), None);
    script.tell(0, Kind::Received(lab::Received { wire: Some(wire(2, 1, 5, 4, 1)) }));
    let cmd = script.wait(10);
    assert!(matches!(cmd, Some(Cmd::Do { .. })), "{cmd:?}");
    assert_eq!(script.wait(10), None, "one step for one key");
}

/// An observer that begins anew is told how far a member is, and then of the last entries once more.
#[test]
fn what_a_leader_has_applied_may_be_told_twice() {
    let mut script = Script::put();
    let feed = |script: &Script| script.model.picture.as_ref().expect("started").feed.len();
    let lines = feed(&script);
    for index in [3, 2] {
        script.tell(1, Kind::Applied(lab::Applied { index, revision: index }));
    }
    assert_eq!(feed(&script), lines, "nobody is told anything new");
}

#[test]
fn a_revision_fans_out_to_members_and_watchers() {
    let mut script = Script::watched();
    for (member, wait) in [(1, 10), (0, 30)] {
        script.pass(wait);
        script.tell(member, Kind::Applied(lab::Applied { index: 7, revision: 7 }));
    }
    press(&mut script.model, &[Key::Char('4')]);
    let screen = frame(&script.model, 120, 40);
    insta::assert_snapshot!("fan_120x40", screen);
    assert!(screen.contains("fan-out of revision 7: b c") && screen.contains("n2   applied +0 ms"), "{screen}");
    assert!(screen.contains("n1   applied +30 ms") && screen.contains("n3   has it (it caught up)"), "{screen}");
    assert!(screen.contains("w0a told") && screen.contains("w0b told") && screen.contains("w1 waits"), "{screen}");
    press(&mut script.model, &[Key::Left]);
    assert!(frame(&script.model, 120, 40).contains("fan-out of revision 6"));
    press(&mut script.model, &[Key::End]);
    assert_eq!(script.model.revision, None);
}

#[test]
fn what_was_gathered_is_shown_at_the_time_when_it_was() {
    let mut picture = Picture::new(&Record::sample(3));
    let mut tell = |now: u64, member: usize, at_us: u64, revision: u64| {
        let kind = Some(Kind::Applied(lab::Applied { index: revision, revision }));
        let event = lab::Telemetry { boot_id: 1, at_us, event: Some(lab::Event { kind }), ..Default::default() };
        picture.tick(Millis(now));
        picture.learn(Report::Telemetry { member, event: Box::new(event) });
        picture.fans.get(&revision).cloned().unwrap_or_default()
    };
    // n1 has run for 500 ms, n2 for 200.
    tell(1_000, 0, 500_000, 1);
    tell(1_000, 1, 200_000, 1);
    // n2's events are here first, though it was later.
    tell(1_030, 1, 225_000, 2);
    assert_eq!(tell(1_030, 0, 520_000, 2), [(0, Millis(1_020)), (1, Millis(1_025))]);
}

#[test]
fn a_theatre_has_room_for_every_screen() {
    let mut script = Script::watched();
    for (name, key) in
        [("wire", Key::Tab), ("logs", Key::Char('3')), ("watch", Key::Char('4')), ("cluster", Key::Char('6'))]
    {
        press(&mut script.model, &[Key::Char('2'), key]);
        insta::assert_snapshot!(format!("{name}_200x50"), frame(&script.model, 200, 50));
    }
}

fn simulated() -> Model {
    let played = Played { seed: 7, members: 3, seconds: 6, forks: Vec::new(), deeds: Vec::new() };
    let (twin, recording) = twin::play(&played);
    let mut model = Model::new(Theme::Dark, false);
    model.twin = Some(twin);
    update(&mut model, Msg::Replay(Ok(Box::new(Replay::new(recording)))));
    press(&mut model, &[Key::Char(' ')]);
    model
}

/// Plays what the model asks for, as the outside does.
fn outside(model: &mut Model, cmd: Option<Cmd>) -> Played {
    let Some(Cmd::Simulate { script, at }) = cmd else { panic!("a run, not {cmd:?}") };
    let (twin, recording) = twin::play(&script);
    let (found, twin) = (Box::new(Replay::new(recording)), Box::new(twin));
    update(model, Msg::Forked { found, twin, at });
    script
}

#[test]
fn on_a_simulated_cluster_deeds_happen_at_the_moment_that_is_shown() {
    let mut model = simulated();
    typed(&mut model, "goto 00:03");
    let at = model.shown().expect("it is shown").now;
    let cmd = typed(&mut model, "put mine here");
    let played = outside(&mut model, cmd);
    assert_eq!((played.deeds[0].at_ms, &played.deeds[0].line), (at.0, &"put mine here".to_owned()));
    assert_eq!(model.shown().expect("it is shown").now, at, "the same moment is shown");
    // Not in the same moment: a leader that dies at once takes it with it.
    typed(&mut model, "goto 00:04");
    let cmd = typed(&mut model, "kill m1");
    let played = outside(&mut model, cmd);
    assert_eq!(played.deeds[1].act, Act::Kill(1));
    typed(&mut model, "goto 00:05");
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("SIMULATED, seed 7, then you") && screen.contains("m1 x DOWN"), "{screen}");
    press(&mut model, &[Key::Char('5')]);
    update(&mut model, Msg::Tick(Millis(1)));
    let data = frame(&model, 80, 24);
    assert!(data.contains("mine  rev"), "{data}");
    typed(&mut model, "goto 00:01");
    update(&mut model, Msg::Tick(Millis(2)));
    assert!(!frame(&model, 80, 24).contains("mine  rev"), "it was not written yet");
    // Taken back, the last first; what the twin has not is said.
    let undo = press(&mut model, &[Key::Char('u')]);
    assert_eq!(outside(&mut model, undo).deeds.len(), 1);
    assert_eq!(typed(&mut model, "cut-clients m1"), None);
    assert!(frame(&model, 80, 24).contains("the simulation has no such thing"));
}

#[test]
fn the_break_menu_of_a_simulated_cluster_has_what_it_can_do() {
    let mut model = simulated();
    press(&mut model, &[Key::Char('!')]);
    let menu = frame(&model, 80, 24);
    assert!(menu.contains("kill -9") && menu.contains("power loss") && !menu.contains("clock-offset"), "{menu}");
    let kill = press(&mut model, &[Key::Enter]);
    assert_eq!(outside(&mut model, kill).deeds[0].act, Act::Kill(0));
    let bar = frame(&model, 120, 40);
    assert!(bar.contains("w write  ! break…  u undo"), "{bar}");
}

#[test]
fn a_follower_that_lacks_entries_is_not_said_to_have_others() {
    let mut script = Script::put();
    let refusal = lab::Wire { reject: true, ..wire(3, 2, 4, 3, 4) };
    script.tell(2, Kind::Sent(lab::Sent { wire: Some(refusal) }));
    // By the time at which the leader tells of the refusal, the follower has told that it has the entry.
    let entry = lab::LogEntry { index: 4, term: 3, ..Default::default() };
    script.tell(2, Kind::Appended(lab::Appended { entries: vec![entry] }));
    script.tell(1, Kind::Received(lab::Received { wire: Some(refusal) }));
    let feed = &script.model.picture.as_ref().expect("started").feed;
    let told: Vec<&str> = feed.iter().map(|l| &*l.text).filter(|text| text.contains("cannot take")).collect();
    assert_eq!(told, ["n3 cannot take what comes after 4: its log ends at 3, so the leader goes back"]);
}
