//! Deeds as lines and as orders.

use super::*;
use crate::lab::Board;
use crate::lab::board::Move;
use crate::lab::board::Order;
use crate::lab::board::Undo;
use crate::lab::workdir::Record;
use crate::proto::lab;
use crate::proto::lab::control_request::Action as Control;

fn names() -> Vec<String> {
    ["n1", "n2", "n3"].map(String::from).into()
}

fn picture() -> Picture {
    let mut picture = Picture::new(&Record::sample(3));
    for (m, id) in picture.members.iter_mut().zip(101..) {
        m.id = Some(id);
        m.process = Process::Running { pid: 1 };
    }
    picture
}

#[test]
fn every_word_of_the_table_is_read_and_written_back() {
    for (word, shape, _) in WORDS {
        let line = format!("{word} {shape}");
        let deed = Deed::parse(&line, &names()).unwrap_or_else(|why| panic!("{line}: {why}"));
        assert_eq!(deed.line(&names()), line.trim());
        // A shell that has taken its quotes away hands us the same words.
        let words = pasted(line.trim()).replace('\'', "");
        assert_eq!(words, format!("etcd-lab fault {}", line.trim()));
        assert_eq!(pasted(line.trim()).contains('\''), line.contains('|'));
        assert_eq!(Deed::parse(&pasted(&line), &names()), Ok(deed));
    }
}

#[test]
fn a_word_is_quoted_for_a_shell_only_if_it_must_be() {
    assert_eq!(quoted("/registry/pods-1"), "/registry/pods-1");
    assert_eq!(quoted("deep blue"), "'deep blue'");
    assert_eq!(quoted("it's"), "'it'\\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn what_is_wrong_is_said() {
    let why = |line: &str| Deed::parse(line, &names()).expect_err(line);
    assert!(why("explode n1").contains("is no fault; they are kill"));
    assert!(why("kill n9").contains("\"n9\" is no member; they are n1, n2, n3"));
    assert_eq!(why("kill"), "write it like this: kill n1");
    assert_eq!(why("slow 5000"), "write it like this: slow 50");
    assert_eq!(why("partition n1,n2 | n2"), "a member is in one group only");
    assert_eq!(why("delay n1 n1 5ms"), "a link has two ends");
    assert_eq!(why("heal now"), "write it like this: heal ");
}

#[test]
fn a_partition_cuts_both_ways_between_groups_and_nowhere_else() {
    let (mut board, picture) = (Board::default(), picture());
    let deed = Deed::parse("partition n1 | n2,n3", &names()).expect("right");
    let (orders, undo) = board.decide(&deed, &picture).expect("fits");
    let cuts = |orders: &[Order]| -> Vec<(usize, u64, bool, bool)> {
        orders
            .iter()
            .map(|o| match o {
                Order::Control { member, control: Control::SetLink(l) } => (*member, l.peer, l.cut_out, l.cut_in),
                other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(cuts(&orders), [(0, 102, true, true), (0, 103, true, true), (1, 101, true, true), (2, 101, true, true)]);
    // Undone, the same links are open again.
    let orders = board.undo(undo.expect("can be undone"), &picture).expect("fits");
    assert!(cuts(&orders).iter().all(|(_, _, out, into)| !out && !into) && orders.len() == 4);
    assert_eq!(board, Board::default());
}

#[test]
fn one_way_is_told_to_both_ends() {
    let (mut board, picture) = (Board::default(), picture());
    let (orders, _) = board.decide(&Deed::parse("cut n1 n3", &names()).expect("right"), &picture).expect("fits");
    let link = |peer, cut_out, cut_in| Control::SetLink(lab::SetLink { peer, cut_out, cut_in, ..Default::default() });
    let expected = [
        Order::Control { member: 0, control: link(103, true, false) },
        Order::Control { member: 2, control: link(101, false, true) },
    ];
    assert_eq!(orders, expected);
}

#[test]
fn who_starts_anew_is_told_what_is_in_force() {
    let (mut board, mut picture) = (Board::default(), picture());
    assert_eq!(board.greet(1, &picture), []);
    board.decide(&Deed::Go { slower: 50 }, &picture).expect("fits");
    picture.members[1].process = Process::Ended { how: "killed".into(), since: crate::types::Millis(0) };
    let (orders, _) = board.decide(&Deed::parse("cut n2 n1", &names()).expect("right"), &picture).expect("fits");
    assert_eq!(orders.len(), 1, "the dead one cannot be told");
    picture.members[1].process = Process::Running { pid: 2 };
    assert_eq!(board.greet(1, &picture).len(), 2, "clock and link");
}

#[test]
fn steps_need_a_held_clock_and_signals_a_process_that_they_fit() {
    let (mut board, mut picture) = (Board::default(), picture());
    assert!(board.decide(&Deed::Tick { member: None }, &picture).expect_err("runs").contains("hold it first"));
    let (_, undo) = board.decide(&Deed::Hold, &picture).expect("fits");
    assert_eq!(undo, Some(Undo::Do(Deed::Go { slower: 1 })));
    assert_eq!(board.decide(&Deed::Tick { member: None }, &picture).expect("held").0.len(), 3);
    assert_eq!(board.decide(&Deed::Tick { member: Some(1) }, &picture).expect("held").0.len(), 1);
    let cont = Deed::Process { member: 0, action: Action::Continue };
    assert!(board.decide(&cont, &picture).expect_err("it runs").contains("nothing to continue"));
    picture.members[0].process = Process::Paused { pid: 1, since: crate::types::Millis(0) };
    assert!(board.decide(&cont, &picture).is_ok());
}

#[test]
fn a_bad_configuration_starts_the_member_anew_and_so_does_its_end() {
    let (mut board, picture) = (Board::default(), picture());
    let line = |text: &str| Deed::parse(text, &names()).expect("right");
    let (orders, undo) = board.decide(&line("bad-config n2 no-scheme"), &picture).expect("fits");
    assert_eq!(orders, [Order::Config { member: 1, misfit: Misfit::named("no-scheme") }]);
    // Another one in its place: the way back is to its own, not to the first.
    board.decide(&line("bad-config n2 taken-port"), &picture).expect("fits");
    let orders = board.undo(undo.expect("can be undone"), &picture).expect("fits");
    assert_eq!(orders, [Order::Config { member: 1, misfit: None }]);
    assert_eq!(board, Board::default());
    assert!(board.decide(&line("good-config n2"), &picture).expect_err("it has").contains("its own configuration"));
    assert_eq!(
        Deed::parse("bad-config n2 nonsense", &names()),
        Err("write it like this: bad-config n1 unknown-flag".into())
    );
    let alone = Picture::new(&Record::sample(1));
    let token = Deed::Config { member: 0, misfit: Misfit::named("other-token") };
    assert!(board.decide(&token, &alone).expect_err("alone").contains("nobody to refuse it"));
}

#[test]
fn a_clock_is_set_wrong_told_anew_and_set_right() {
    let (mut board, picture) = (Board::default(), picture());
    let set = |seconds: i64| Control::SetWall(lab::SetWall { offset_ms: seconds * 1_000 });
    for (text, seconds) in [("+90s", 90), ("-2h", -7_200), ("1d", 86_400), ("3m", 180)] {
        let deed = Deed::parse(&format!("clock-offset n1 {text}"), &names()).expect(text);
        let (orders, undo) = board.decide(&deed, &picture).expect("fits");
        assert_eq!(orders, [Order::Control { member: 0, control: set(seconds) }]);
        assert_eq!(board.greet(0, &picture), orders, "it starts with the right time");
        let orders = board.undo(undo.expect("can be undone"), &picture).expect("fits");
        assert_eq!((orders, &board), (vec![Order::Control { member: 0, control: set(0) }], &Board::default()));
    }
    for bad in ["clock-offset n1 90", "clock-offset n1 +s", "clock-offset n1 99999999d", "clock-offset n1"] {
        assert!(Deed::parse(bad, &names()).is_err(), "{bad}");
    }
}

#[test]
fn a_nemesis_leaves_nothing_broken_whatever_its_seed() {
    for seed in 0..50 {
        let (mut board, mut picture) = (Board::default(), picture());
        let deed = Deed::parse(&format!("nemesis {seed}"), &names()).expect("right");
        let (_, undo) = board.decide(&deed, &picture).expect("fits");
        assert_eq!(undo, Some(Undo::Do(Deed::Calm)));
        assert!(board.decide(&deed, &picture).expect_err("one at a time").contains("end it first"));
        let mut lines = Vec::new();
        for now in (0..120_000).step_by(100) {
            picture.now = crate::types::Millis(now);
            // Every third is called off half way.
            if seed % 3 == 0 && now == 30_000 {
                board.decide(&Deed::Calm, &picture).expect("it goes on");
            }
            while let Some(moved) = board.turn(&picture) {
                let Move::Orders { line, orders } = moved else { continue };
                lines.push(line);
                orders.iter().for_each(|order| happens(&mut picture, order));
            }
        }
        let end = format!("nemesis {seed} has ended, and all is whole");
        assert_eq!(lines.last(), Some(&end), "{lines:#?}");
        assert_eq!(board, Board::default());
        assert!(picture.members.iter().all(|m| matches!(m.process, Process::Running { .. })), "{lines:#?}");
        assert!(lines.iter().all(|line| !line.contains(": not ")), "a plan fits members that do as told: {lines:#?}");
        assert!(board.undo(Undo::Do(Deed::Calm), &picture).is_err());
    }
}

/// What an order does to a member that does as it is told: one with a bad disk ends by it.
fn happens(picture: &mut Picture, order: &Order) {
    let ended = || Process::Ended { how: "x".into(), since: crate::types::Millis(0) };
    let (member, process) = match order {
        Order::Process { member, action } => match action {
            Action::Kill | Action::Stop => (member, ended()),
            Action::Pause => (member, Process::Paused { pid: 1, since: crate::types::Millis(0) }),
            Action::Continue | Action::Restart => (member, Process::Running { pid: 1 }),
        },
        Order::Control { member, control } => match control {
            Control::PowerLoss(_) => (member, ended()),
            Control::SetDisk(disk) if disk.full || disk.failing => (member, ended()),
            _ => return,
        },
        _ => return,
    };
    picture.members[*member].process = process;
}

#[test]
fn a_nemesis_begins_only_when_all_is_whole() {
    let refused = |board: &mut Board, picture: &Picture| {
        board.decide(&Deed::Nemesis { seed: 1, seconds: 60 }, picture).expect_err("not now")
    };
    let (mut board, mut picture) = (Board::default(), picture());
    board.decide(&Deed::Go { slower: 50 }, &picture).expect("fits");
    assert!(refused(&mut board, &picture).contains("let the clock go"));
    let mut board = Board::default();
    board.decide(&Deed::parse("cut n1 n2", &names()).expect("right"), &picture).expect("fits");
    assert!(refused(&mut board, &picture).contains("mend what is broken first"));
    picture.members[2].process = Process::Ended { how: "x".into(), since: crate::types::Millis(0) };
    assert_eq!(refused(&mut Board::default(), &picture), "n3 is down: start it first");
    for bad in ["nemesis", "nemesis x", "nemesis 7 for 1s", "nemesis 7 for 1h", "nemesis 7 of 60s"] {
        assert!(Deed::parse(bad, &names()).is_err(), "{bad}");
    }
}

#[test]
fn which_program_a_member_is_does_not_hang_on_whether_it_is_seen() {
    let picture = Picture::new(&Record { upstream: Some("/usr/bin/etcd".into()), ..Record::sample(3) });
    let mut board = Board::default();
    let set = |board: &mut Board, ours| board.decide(&Deed::Program { member: 2, ours }, &picture);
    assert!(set(&mut board, false).expect_err("as it began").contains("etcd already"));
    let (orders, undo) = set(&mut board, true).expect("it is etcd");
    assert_eq!(orders, [Order::Program { member: 2, ours: true }]);
    // No door of it is open yet; or, later, it is killed. It is ours all the same.
    assert!(picture.members[2].is_polled);
    assert!(set(&mut board, true).expect_err("twice").contains("our server already"));
    let back = board.undo(undo.expect("there is a way back"), &picture);
    assert_eq!(back, Ok(vec![Order::Program { member: 2, ours: false }]));
    assert!(set(&mut board, true).is_ok() && set(&mut board, false).is_ok());
    let all_ours = Picture::new(&Record::sample(3));
    let refused = board.decide(&Deed::Program { member: 2, ours: true }, &all_ours).expect_err("no other etcd");
    assert!(refused.contains("--etcd PATH"));
}
