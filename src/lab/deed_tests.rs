//! Deeds as lines and as orders.

use super::*;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;

fn names() -> Vec<String> {
    ["n1", "n2", "n3"].map(String::from).into()
}

fn picture() -> Picture {
    let member = |n: usize| MemberRecord {
        name: format!("n{n}"),
        pid: 0,
        client_url: String::new(),
        peer_url: String::new(),
        lab_socket: "s".into(),
        log: "l".into(),
        data_dir: "d".into(),
    };
    let record = Record { members: (1..=3).map(member).collect(), ..Record::default() };
    let mut picture = Picture::new(&record);
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
