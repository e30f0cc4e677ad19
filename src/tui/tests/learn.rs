//! The Learn screen with the lab that is in the program; what runs outside is played here.

use super::frame;
use super::press;
use super::script::Script;
use super::text;
use crate::lab::guide::Bed;
use crate::lab::guide::Checked;
use crate::lab::guide::Item;
use crate::lab::guide::Member;
use crate::lab::guide::Output;
use crate::lab::guide::SHELF;
use crate::lab::guide::Session;
use crate::lab::guide::Verdict;
use crate::lab::guide::shelved;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::keys::Key;
use crate::tui::learn;
use crate::tui::learn::Came;
use crate::tui::learn::Heard;
use crate::tui::look;
use crate::tui::model::Overlay;
use crate::tui::update;
use crate::types::Millis;
use std::path::Path;
use std::sync::Arc;
use std::sync::LazyLock;

/// A bed that is never slept in: blocks and checks are answered by the test.
struct Nobody;

impl Bed for Nobody {
    fn members(&self) -> &[Member] {
        &[]
    }

    fn bin_dir(&self) -> &Path {
        Path::new("/nowhere")
    }
}

fn opened() -> Model {
    let mut model = Script::steady(3).model;
    let lab = shelved("B3-first-keys").expect("it is on the shelf").expect("it can be read");
    let session = Session::new(Arc::new(lab), Arc::new(Nobody), Path::new("/"));
    update(&mut model, Msg::Learn(Heard::Opened(Box::new(session))));
    assert_eq!(press(&mut model, &[Key::Char('1')]), Some(Cmd::Check { seq: 1 }), "checks are looked at once");
    model
}

/// What has come of something that the open lab has asked for.
fn came(model: &mut Model, what: Came) -> Option<Cmd> {
    let opening = model.learn.as_ref().expect("open").opening;
    update(model, Msg::Learn(Heard::Came { opening, what }))
}

fn printed(id: &str, exit: i32, text: &str) -> Came {
    Came::Ran { id: id.into(), result: Ok(Output { text: text.into(), exit, ..Output::default() }) }
}

fn ran(model: &mut Model, id: &str, exit: i32, text: &str) -> Option<Cmd> {
    came(model, printed(id, exit, text))
}

fn checked(model: &mut Model, seq: u64, verdicts: &[(&str, Verdict)]) {
    let step = model.learn.as_ref().expect("open").session.at();
    let checked = verdicts.iter();
    let checked =
        checked.map(|(id, v)| Checked { id: (*id).into(), title: (*id).into(), verdict: v.clone() }).collect();
    came(model, Came::Checked { step, seq, checked });
}

fn not_yet(got: &str, why: &str) -> Verdict {
    Verdict::NotYet { got: vec![got.into()], cause: Some((1, why.into())) }
}

#[test]
fn a_lab_begins_with_its_first_guess_marked() {
    let model = opened();
    insta::assert_snapshot!("learn_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("learn_120x40", frame(&model, 120, 40));
    assert!(frame(&Script::steady(3).model, 80, 24).contains("1 learn"), "the ring says where the lab is");
}

#[test]
fn a_first_step_goes_by_keys_alone() {
    let mut model = opened();
    press(&mut model, &[Key::Enter, Key::Char('b')]);
    insta::assert_snapshot!("learn_guess_80x24", frame(&model, 80, 24));
    press(&mut model, &[Key::Enter]);
    assert!(frame(&model, 80, 24).contains("(right)"));
    press(&mut model, &[Key::Enter]);
    assert!(frame(&model, 80, 24).contains("locked"), "a guess is made once");

    let run = press(&mut model, &[Key::Tab, Key::Tab, Key::Char('r')]);
    assert_eq!(run, Some(Cmd::RunBlock { id: "set-as-printed".into() }));
    assert_eq!(press(&mut model, &[Key::Char('r')]), None, "one command at a time");
    let asked = ran(&mut model, "set-as-printed", 1, "Error: unknown command \"set\" for \"etcdctl\"\n");
    assert_eq!(asked, Some(Cmd::Check { seq: 2 }), "after a run the checks are looked at");
    assert!(frame(&model, 80, 24).contains("= as expected: it fails, with exit code 1"));

    assert_eq!(press(&mut model, &[Key::Tab, Key::Enter]), Some(Cmd::RunBlock { id: "put".into() }));
    ran(&mut model, "put", 0, "OK\n");
    assert_eq!(press(&mut model, &[Key::Tab, Key::Enter]), Some(Cmd::RunBlock { id: "get".into() }));
    ran(&mut model, "get", 0, "key\nvalue9\n");
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("! not as expected: line 2 of the page is not in the output: value1"), "{screen}");

    press(&mut model, &[Key::Tab, Key::Enter]);
    press(&mut model, &text("rn2"));
    assert_eq!(model.overlay, Some(Overlay::Answer { text: "rn2".into() }), "letters reach the prompt");
    insta::assert_snapshot!("learn_answer_80x24", frame(&model, 80, 24));
    press(&mut model, &[Key::Backspace, Key::Backspace, Key::Backspace, Key::Char('2')]);
    let asked = press(&mut model, &[Key::Enter]);
    assert_eq!(asked, Some(Cmd::Check { seq: 5 }));
    checked(&mut model, 4, &[("key-stored", not_yet("stale", "stale"))]);
    assert!(!frame(&model, 80, 24).contains("stale"), "what was asked before the answer is no news");
    checked(&mut model, 5, &[("key-stored", Verdict::Pass), ("revision-read", Verdict::Pass)]);
    insta::assert_snapshot!("learn_passed_80x24", frame(&model, 80, 24));
    insta::assert_snapshot!("learn_passed_120x40", frame(&model, 120, 40));
    assert_eq!(press(&mut model, &[Key::Char('n')]), Some(Cmd::Check { seq: 6 }));
    assert!(frame(&model, 80, 24).contains("step 2 of 3"));
}

#[test]
fn a_check_that_is_not_true_yet_says_what_it_sees_and_why() {
    let mut model = opened();
    assert_eq!(press(&mut model, &[Key::Char('c')]), None, "they are being looked at");
    let why = "Key and value have changed places: `put` takes the key first, then the value.";
    let verdicts =
        [("key-stored", not_yet("there is no key `key`", why)), ("revision-read", Verdict::Error("nobody".into()))];
    checked(&mut model, 1, &verdicts);
    assert_eq!(press(&mut model, &[Key::Char('c')]), Some(Cmd::Check { seq: 2 }), "once more");
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("now: there is no key `key`") && screen.contains("why: Key and value"), "{screen}");
    assert!(screen.contains("error    You know at which revision"), "{screen}");
}

#[test]
fn three_hints_then_the_solution_whose_commands_can_be_run() {
    let mut model = opened();
    press(&mut model, &[Key::Char('h')]);
    assert!(frame(&model, 80, 24).contains("Look for the flag"));
    press(&mut model, &text("hhh"));
    insta::assert_snapshot!("learn_solution_80x24", frame(&model, 80, 24));
    // What is opened is seen, and what is seen is marked.
    let run = press(&mut model, &[Key::Enter]);
    assert_eq!(run, Some(Cmd::RunBlock { id: "fields".into() }));
    assert_eq!(press(&mut model, &[Key::Char('h')]), None);
    assert!(frame(&model, 80, 24).contains("are open"));
}

#[test]
fn a_step_is_set_up_anew_when_it_is_asked_for_twice() {
    let mut model = opened();
    press(&mut model, &text("n"));
    assert_eq!(press(&mut model, &[Key::Char('x')]), None, "once is a slip of the finger");
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("press x once more: you get a fresh cluster with step 1 done;"), "{screen}");
    assert_eq!(press(&mut model, &[Key::Tab, Key::Char('x')]), None, "another key between: not sure any more");
    assert_eq!(press(&mut model, &[Key::Char('x')]), Some(Cmd::Redo { step: 1 }));
    assert_eq!(press(&mut model, &[Key::Char('x'), Key::Char('x')]), None, "one at a time");
    checked(&mut model, 2, &[("valid-json", Verdict::Pass)]);
    assert_eq!(model.learn.as_ref().expect("open").passed().0, 0, "what is seen of a cluster that ends is no news");
    came(&mut model, Came::Redone(Err("no port is free".into())));
    assert!(frame(&model, 80, 24).contains("no port is free"));
    assert_eq!(press(&mut model, &text("xx")), Some(Cmd::Redo { step: 1 }), "it may be tried again");
    let mut fresh = model.learn.as_ref().expect("open").session.clone();
    fresh.go(1);
    let asked = came(&mut model, Came::Redone(Ok(Box::new(fresh))));
    assert!(matches!(asked, Some(Cmd::Check { .. })), "{asked:?}");
    assert!(frame(&model, 80, 24).contains("step 2 of 3"));
}

#[test]
fn machines_are_not_promised_anew() {
    let mut model = opened();
    model.picture.as_mut().expect("drawn").is_elsewhere = true;
    assert_eq!(press(&mut model, &text("x")), None);
    let screen = frame(&model, 120, 24);
    assert!(screen.contains("machines are not made anew") && !screen.contains("once more"), "{screen}");
    assert_eq!(press(&mut model, &text("xx")), None);
}

#[test]
fn what_the_page_has_no_block_for_is_the_learners_turn() {
    let mut model = opened();
    press(&mut model, &text("n"));
    assert!(!frame(&model, 80, 24).contains("your turn"));
    press(&mut model, &[Key::Enter, Key::Enter]);
    for (id, exit) in [("set2-as-printed", 1), ("put2-unquoted", 0), ("get2", 0)] {
        ran(&mut model, id, exit, "");
    }
    assert!(frame(&model, 80, 24).contains("your turn: 0 shell, h hint"));
    checked(&mut model, 5, &[("valid-json", Verdict::Pass)]);
    assert!(!frame(&model, 80, 24).contains("your turn"), "it is done");
}

#[test]
fn checks_are_looked_at_every_second_while_they_are_shown() {
    let mut model = opened();
    let now = model.picture.as_ref().expect("started").now.0;
    checked(&mut model, 1, &[]);
    assert_eq!(update(&mut model, Msg::Tick(Millis(now + 500))), None);
    assert_eq!(update(&mut model, Msg::Tick(Millis(now + 1_000))), Some(Cmd::Check { seq: 2 }));
    assert_eq!(update(&mut model, Msg::Tick(Millis(now + 3_000))), None, "one question at a time");
    checked(&mut model, 2, &[]);
    press(&mut model, &[Key::Char('2')]);
    assert_eq!(update(&mut model, Msg::Tick(Millis(now + 9_000))), None, "nobody looks");
}

#[test]
fn a_look_that_takes_long_is_told_all_the_same() {
    let mut model = opened();
    let now = model.now().0;
    for seconds in [5, 9, 12] {
        assert_eq!(update(&mut model, Msg::Tick(Millis(now + seconds * 1_000))), None, "one question at a time");
        assert_eq!(press(&mut model, &text("c")), None, "who asks for it does not make it begin again");
    }
    checked(&mut model, 1, &[("key-stored", not_yet("nobody answers", "Two of three are down."))]);
    assert!(frame(&model, 80, 24).contains("why: Two of three are down."));
    assert_eq!(update(&mut model, Msg::Tick(Millis(now + 13_000))), Some(Cmd::Check { seq: 2 }));
    let lost = update(&mut model, Msg::Tick(Millis(now + 80_000)));
    assert_eq!(lost, Some(Cmd::Check { seq: 3 }), "an answer that never comes");
    checked(&mut model, 2, &[("key-stored", Verdict::Pass)]);
    assert_eq!(learn(&model).passed().0, 1, "it came late, and nothing was done since it was asked for");
    press(&mut model, &text("np"));
    checked(&mut model, 3, &[("key-stored", Verdict::Pass)]);
    assert_eq!(learn(&model).passed().0, 0, "the learner has gone elsewhere and come back since");
}

#[test]
fn the_learn_screen_fits_any_terminal_and_seven_bits() {
    let mut model = opened();
    press(&mut model, &text("hhhh"));
    for (width, height) in [(1, 1), (2, 3), (10, 4), (40, 10), (60, 20), (110, 22), (200, 50)] {
        update(&mut model, Msg::Resized { width, height });
        press(&mut model, &[Key::Tab, Key::PageDown, Key::Enter]);
        assert_eq!(frame(&model, width, height).lines().count(), usize::from(height));
        press(&mut model, &[Key::Esc]);
    }
    for c in frame(&model, 120, 60).chars().filter(|c| !c.is_ascii()) {
        assert!(look::seven_bit(&c.to_string()).is_some(), "{c:?} has no stand-in");
    }
}

/// What stands before the first thing to do, between two, and behind the last; and each of them, unless it is a document's own text: on the
/// smallest terminal that is a whole one.
#[test]
fn no_lab_has_more_than_a_screenful_before_there_is_something_to_do() {
    let mut long = Vec::new();
    for (name, _) in SHELF {
        let lab = Arc::new(shelved(name).expect("it is on the shelf").expect("it can be read"));
        for step in 0..lab.steps.len() {
            let mut session = Session::new(Arc::clone(&lab), Arc::new(Nobody), Path::new("/"));
            session.go(step);
            let mut model = Script::steady(3).model;
            update(&mut model, Msg::Learn(Heard::Opened(Box::new(session))));
            update(&mut model, Msg::Resized { width: 80, height: 24 });
            let room = usize::from(learn::page(&model).expect("a lab is open").height);
            let learn = model.learn.as_ref().expect("a lab is open");
            let lines = learn.lines(80);
            assert!(lines.iter().any(|line| line.item.is_some()), "{name}, step {}: nothing to do", step + 1);
            for part in lines.chunk_by(|a, b| a.item == b.item).filter(|part| part.len() > room) {
                let items = learn.session.items();
                let is_quoted =
                    |item: &Item<'_>| matches!(item, Item::Run(run) if run.seed.is_some() || run.repairs.is_some());
                if !part[0].item.and_then(|item| items.get(item)).is_some_and(is_quoted) {
                    let (count, first) = (part.len(), &part[0].text);
                    long.push(format!(
                        "{name}, step {}: {count} lines from {first:?}; there is room for {room}",
                        step + 1
                    ));
                }
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// Nodes of the lab's own, of which nobody is at home either.
struct Own;

impl Bed for Own {
    fn members(&self) -> &[Member] {
        static NODES: LazyLock<Vec<Member>> = LazyLock::new(|| {
            let node = |n| Member { name: format!("controller-{n}"), endpoint: String::new() };
            vec![node(0), node(1), node(2)]
        });
        &NODES
    }

    fn bin_dir(&self) -> &Path {
        Path::new("/nowhere")
    }

    fn nodes(&self) -> Option<&Path> {
        Some(Path::new("/nowhere"))
    }
}

fn own(name: &str) -> Model {
    let mut model = Script::steady(3).model;
    let lab = shelved(name).expect("it is on the shelf").expect("it can be read");
    let session = Session::new(Arc::new(lab), Arc::new(Own), Path::new("/"));
    update(&mut model, Msg::Learn(Heard::Opened(Box::new(session))));
    press(&mut model, &[Key::Char('1')]);
    model
}

#[test]
fn a_lab_with_nodes_of_its_own_neither_draws_nor_offers_the_other_cluster() {
    let mut model = own("B5-the-hard-way");
    update(&mut model, Msg::Resized { width: 120, height: 40 });
    press(&mut model, &[Key::Tab]);
    insta::assert_snapshot!("learn_own_120x40", frame(&model, 120, 40));
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        update(&mut model, Msg::Resized { width, height });
        let screen = frame(&model, width, height);
        for word in ["leader", "n1", "break", "undo", "hold", "what happens"] {
            assert!(!screen.contains(word), "{word}: {screen}");
        }
    }
    for key in "! u.>[],f".chars() {
        assert_eq!(press(&mut model, &[Key::Char(key)]), None);
        assert!(model.overlay.is_none() && model.frozen.is_none() && model.replay.is_none(), "{key}");
        assert!(frame(&model, 80, 24).contains("for the cluster of screens 2 to 6"), "{key}");
    }
    press(&mut model, &[Key::Char('?')]);
    assert!(!frame(&model, 80, 60).contains("a menu"), "the help has none of these keys either");
    press(&mut model, &[Key::Esc, Key::Char('2'), Key::Char('!')]);
    assert!(model.overlay.is_some(), "the ring is what it was");
}

#[test]
fn a_cause_is_told_after_a_deed_or_if_it_is_asked_for() {
    let mut model = own("E7-replace-a-member");
    press(&mut model, &text("n"));
    let say = |model: &mut Model, seq| {
        checked(model, seq, &[("stopped", not_yet("it is `activating`", "It is started again."))])
    };
    say(&mut model, 2);
    assert!(!frame(&model, 80, 24).contains("why: "), "nothing was done here yet");
    press(&mut model, &text("c"));
    say(&mut model, 3);
    assert!(frame(&model, 80, 24).contains("why: It is started again."), "it was asked for");
    press(&mut model, &text("pn"));
    say(&mut model, 5);
    assert!(!frame(&model, 80, 24).contains("why: "));
    ran(&mut model, "journal", 0, "member 8211f1d0f64f3269 has already been bootstrapped\n");
    say(&mut model, 6);
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("why: It is started again.") && !screen.contains("now: "), "{screen}");
    assert!(matches!(learn::back(&mut model), Some(Cmd::Check { .. })), "what was done in the shell is looked at");
    say(&mut model, 7);
    assert!(frame(&model, 80, 24).contains("now: it is `activating`"));
}

#[test]
fn the_task_below_the_last_block_is_seen_when_it_is_the_learners_turn() {
    let mut model = own("E7-replace-a-member");
    update(&mut model, Msg::Resized { width: 80, height: 18 });
    press(&mut model, &text("n"));
    let task = "stop the etcd server on the broken node. Do it.";
    press(&mut model, &[Key::Enter, Key::Enter]);
    assert!(!frame(&model, 80, 18).contains(task), "it is further down");
    ran(&mut model, "journal", 0, "member 8211f1d0f64f3269 has already been bootstrapped\n");
    let screen = frame(&model, 80, 18);
    assert!(screen.contains(task) && screen.contains("your turn"), "{screen}");
    // Tab comes by here before it goes round.
    press(&mut model, &[Key::Home]);
    assert_eq!(model.learn.as_ref().expect("open").item, 0, "the first of the page, not the last in sight");
    press(&mut model, &[Key::Tab]);
    assert!(!frame(&model, 80, 18).contains(task));
    press(&mut model, &[Key::Tab]);
    assert!(frame(&model, 80, 18).contains(task));
    press(&mut model, &[Key::Tab]);
    assert_eq!(model.learn.as_ref().expect("open").item, 0);
}

#[test]
fn a_block_that_failed_is_not_done_and_what_is_open_above_is_gone_on_to() {
    let mut model = opened();
    let action = |model: &Model| model.learn.as_ref().expect("open").action();
    press(&mut model, &text("n"));
    press(&mut model, &[Key::Enter, Key::Enter]);
    for (id, exit) in [("set2-as-printed", 1), ("put2-unquoted", 7), ("get2", 0)] {
        ran(&mut model, id, exit, "");
    }
    press(&mut model, &[Key::BackTab]);
    assert_eq!(action(&model), "Tab: go on", "one above has failed");
    press(&mut model, &[Key::BackTab]);
    assert_eq!(action(&model), "Enter: run it again");
    ran(&mut model, "put2-unquoted", 0, "OK\n");
    assert_eq!(action(&model), "your turn: 0 shell, h hint");
    ran(&mut model, "put2-unquoted", 7, "");
    assert_eq!(action(&model), "your turn: 0 shell, h hint", "it was as expected once");
    let seq = 8;
    press(&mut model, &text("c"));
    checked(&mut model, seq, &[("valid-json", Verdict::Pass)]);
    assert_eq!(model.learn.as_ref().expect("open").passed(), (1, 1), "all checks pass, and nothing is open");
    assert_eq!(action(&model), "n: next");
}

#[test]
fn what_is_to_be_read_now_may_take_two_rows() {
    let mut model = opened();
    let long = "next is B6 Is it healthy?, on new machines: leave this lab with q, and then begin it with: etcd-lab B6";
    update(&mut model, Msg::Answer(Ok(long.into())));
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("next is B6") && screen.contains("etcd-lab B6"), "{screen}");
    press(&mut model, &[Key::Char('2')]);
    update(&mut model, Msg::Answer(Ok(long.into())));
    assert!(frame(&model, 80, 24).contains("etcd-lab B6"), "on every screen");
}

fn learn(model: &Model) -> &learn::Learn {
    model.learn.as_ref().expect("a lab is open")
}

#[test]
fn what_a_lab_that_was_left_has_asked_for_is_no_news_in_the_next_one() {
    let mut model = opened();
    let left = learn(&model).opening;
    let of_left = |what| Msg::Learn(Heard::Came { opening: left, what });
    let old = Box::new(learn(&model).session.clone());
    update(&mut model, Msg::Learn(Heard::Opened(old.clone())));
    press(&mut model, &text("1xx"));
    assert_eq!(update(&mut model, of_left(Came::Redone(Err("stale".into())))), None);
    assert_eq!(update(&mut model, of_left(Came::Redone(Ok(old.clone())))), None);
    assert_eq!(update(&mut model, of_left(printed("put", 0, "stale\n"))), None);
    assert!(!frame(&model, 80, 24).contains("stale") && learn(&model).session.output("put").is_none());
    assert_eq!(press(&mut model, &text("xx")), None, "its own step is being set up still");
    let now = learn(&model).opening;
    assert!(left < now && !learn(&model).acted);
    came(&mut model, Came::Redone(Ok(old)));
    let pass = Checked { id: "key-stored".into(), title: String::new(), verdict: Verdict::Pass };
    for (opening, passed) in [(left, 0), (now, 0), (learn(&model).opening, 1)] {
        let what = Came::Checked { step: 0, seq: 1, checked: vec![pass.clone()] };
        update(&mut model, Msg::Learn(Heard::Came { opening, what }));
        assert_eq!(learn(&model).passed().0, passed, "only what was seen of this cluster counts");
    }
}

#[test]
fn a_lab_is_done_when_all_its_steps_are() {
    let mut model = opened();
    press(&mut model, &text("n"));
    checked(&mut model, 2, &[("valid-json", Verdict::Pass)]);
    press(&mut model, &text("n"));
    let last = ["made-once", "folder-gone", "translated"].map(|id| (id, Verdict::Pass));
    checked(&mut model, 3, &last);
    let screen = frame(&model, 80, 24);
    assert!(screen.contains("3 of 3 pass, step 1 is not done (p)") && !screen.contains("lab done"), "{screen}");
    press(&mut model, &text("pp"));
    checked(&mut model, 5, &[("key-stored", Verdict::Pass), ("revision-read", Verdict::Pass)]);
    press(&mut model, &text("nn"));
    checked(&mut model, 7, &last);
    assert!(frame(&model, 80, 24).contains("3 of 3 pass, lab done, n: next"));
}

#[test]
fn a_block_that_ends_in_another_step_is_no_deed_there() {
    let mut model = opened();
    press(&mut model, &text("n"));
    ran(&mut model, "put", 0, "OK\n");
    assert!(!learn(&model).acted && learn(&model).session.output("put").is_some());
    ran(&mut model, "get2", 0, "");
    assert!(learn(&model).acted);
}

#[test]
fn while_a_step_is_set_up_its_page_is_read_and_nothing_is_lost() {
    let mut model = opened();
    assert_eq!(press(&mut model, &text("xx")), Some(Cmd::Redo { step: 0 }));
    let fresh = learn(&model).session.clone();
    for keys in [[Key::Tab, Key::BackTab], [Key::Enter, Key::Enter], [Key::Char('h'), Key::Tab]] {
        press(&mut model, &keys);
    }
    for key in [Key::Enter, Key::Char('r'), Key::Char('n'), Key::Char('p'), Key::Char('x'), Key::Char('0')] {
        assert_eq!(press(&mut model, &[key]), None, "{key:?}");
        assert!(frame(&model, 80, 24).contains("the step is being set up: read on"), "{key:?}");
        assert!(model.overlay.is_none() && learn(&model).session.at() == 0, "{key:?}");
    }
    // A step is done by hand, and a guess comes, however it may be, before the new cluster is there.
    let session = &mut model.learn.as_mut().expect("open").session;
    session.step_is_done();
    session.predict("set-today", "b").expect("it is open");
    model.overlay = Some(Overlay::Guess { choice: 1 });
    came(&mut model, Came::Redone(Ok(Box::new(fresh))));
    assert_eq!(model.overlay, None, "its question may be another one's now");
    let session = &learn(&model).session;
    assert_eq!((session.guessed("set-today"), session.opened()), (Some("It does not know the word `set`"), 1));
    assert!(session.done().steps.contains("put"));
    assert_eq!(press(&mut model, &[Key::Char('0')]), Some(Cmd::Shell), "it is there");
}
