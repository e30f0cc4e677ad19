//! The stream formats against etcd's own bytes, and against bytes that nobody sent.
//!
//! The golden strings were written, and ours were read back, by etcd v3.6.0's `rafthttp` encoder and decoder.

use super::*;
use crate::proto::raftpb::EntryType;
use bytes::Bytes;
use proptest::prelude::*;

const ETCD_MSGAPP: &str = "000200000000000000290803100218012002280130053a0b08001001180622037369783a060800100218074005500058006800010000000000000002000000000000000a08011002180822020102000000000000000c08001002180922046e696e65000000000000000701000000000000000000000000000000090200000000000000140803100218012003280230094009500058006800";
const ETCD_MESSAGE: &str = "00000000000000140808100018002000280030004000500058006800000000000000002f0805100218cdd2918bd2b881cf8e01200428033009400050005800621043616d706169676e5472616e736665726800000000000000001408041001180220042803300940005001580868000000000000000018080810021801200428003000400950005800620200016800";
const OUR_MSGAPP: &str = "0002000000000000001f0803100218012002280130053a091001180622037369783a04100218074005010000000000000002000000000000000a08011002180822020102000000000000000a1002180922046e696e650000000000000007010000000000000000000000000000000902000000000000000e0803100218012003280230094009";
const OUR_MESSAGE: &str = "0000000000000002080800000000000000270805100218cdd2918bd2b881cf8e01200428033009621043616d706169676e5472616e73666572000000000000001008041001180220042803300950015808000000000000000e0808100218012004400962020001";

fn entry(term: u64, index: u64, data: &'static [u8]) -> Entry {
    Entry { term, index, data: Bytes::from_static(data), ..Entry::default() }
}

fn append(term: u64, log_term: u64, index: u64, entries: Vec<Entry>, commit: u64) -> Message {
    let msg_type = MessageType::MsgAppend as i32;
    Message { msg_type, from: 1, to: 2, term, log_term, index, entries, commit, ..Message::default() }
}

/// A heartbeat, an append, two that follow from it, and one of the next term.
fn appends() -> Vec<Message> {
    let conf_change = Entry { entry_type: EntryType::EntryConfChange as i32, ..entry(2, 8, &[1, 2]) };
    vec![
        link_heartbeat(),
        append(2, 1, 5, vec![entry(1, 6, b"six"), entry(2, 7, b"")], 5),
        append(2, 2, 7, vec![conf_change, entry(2, 9, b"nine")], 7),
        append(2, 2, 9, vec![], 9),
        append(3, 2, 9, vec![], 9),
    ]
}

fn others() -> Vec<Message> {
    let of = |t: MessageType, from, to| Message { msg_type: t as i32, from, to, term: 4, ..Message::default() };
    let campaign = Bytes::from_static(b"CampaignTransfer");
    vec![
        link_heartbeat(),
        Message {
            log_term: 3,
            index: 9,
            context: campaign,
            ..of(MessageType::MsgRequestVote, 0x8e9e_05c5_2164_694d, 2)
        },
        Message { index: 9, reject: true, reject_hint: 8, log_term: 3, ..of(MessageType::MsgAppendResponse, 2, 1) },
        Message { commit: 9, context: Bytes::from_static(&[0, 1]), ..of(MessageType::MsgHeartbeat, 1, 2) },
    ]
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("golden strings are hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encode(kind: StreamKind, messages: &[Message]) -> BytesMut {
    let mut encoder = Encoder::new(kind);
    let mut out = BytesMut::new();
    for m in messages {
        encoder.encode(m, &mut out);
    }
    out
}

/// Feeds the bytes in pieces of `step`.
fn decode(kind: StreamKind, bytes: &[u8], step: usize) -> Result<Vec<Message>, CodecError> {
    let mut decoder = Decoder::new(kind, 2, 1);
    let mut messages = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        while let Some(m) = decoder.next_message()? {
            messages.push(m);
        }
    }
    Ok(messages)
}

/// etcd writes an empty snapshot into every message; raft-rs's structs tell that from none.
fn without_empty_snapshot(mut messages: Vec<Message>) -> Vec<Message> {
    for m in &mut messages {
        m.snapshot.take_if(|s| *s == Default::default());
    }
    messages
}

#[test]
fn etcds_bytes_are_read() {
    for step in [1, 7, 4096] {
        let read = decode(StreamKind::MsgApp, &unhex(ETCD_MSGAPP), step).expect("etcd wrote it");
        assert_eq!(without_empty_snapshot(read), appends());
        let read = decode(StreamKind::Message, &unhex(ETCD_MESSAGE), step).expect("etcd wrote it");
        assert_eq!(without_empty_snapshot(read), others());
    }
}

#[test]
fn our_bytes_are_those_that_etcd_has_read() {
    assert_eq!(hex(&encode(StreamKind::MsgApp, &appends())), OUR_MSGAPP);
    assert_eq!(hex(&encode(StreamKind::Message, &others())), OUR_MESSAGE);
}

#[test]
fn a_predicted_append_costs_seventeen_bytes_and_its_entries() {
    let first = append(2, 2, 5, vec![entry(2, 6, b"six")], 5);
    let alone = encode(StreamKind::MsgApp, std::slice::from_ref(&first)).len();
    let both = encode(StreamKind::MsgApp, &[first, append(2, 2, 6, vec![], 6)]).len();
    assert_eq!(both - alone, 17);
}

#[test]
fn impossible_lengths_are_refused_before_memory_is_taken() {
    let mut bytes = vec![APP];
    bytes.extend((FRAME_BYTES_MAX + 1).to_be_bytes());
    assert_eq!(decode(StreamKind::MsgApp, &bytes, 99), Err(CodecError::TooLarge(FRAME_BYTES_MAX + 1)));
    assert_eq!(decode(StreamKind::Message, &bytes[1..], 99), Err(CodecError::TooLarge(FRAME_BYTES_MAX + 1)));

    let mut bytes = vec![APP_ENTRIES];
    bytes.extend(u64::MAX.to_be_bytes());
    assert_eq!(decode(StreamKind::MsgApp, &bytes, 99), Err(CodecError::TooManyEntries(u64::MAX)));

    let mut bytes = vec![APP_ENTRIES];
    bytes.extend(2u64.to_be_bytes());
    bytes.extend(0u64.to_be_bytes());
    bytes.extend(FRAME_BYTES_MAX.to_be_bytes());
    let all_but_room = decode(StreamKind::MsgApp, &bytes, 99);
    assert_eq!(all_but_room, Ok(vec![]), "as much as may be in one frame");
    assert_eq!(decode(StreamKind::MsgApp, &[9], 99), Err(CodecError::UnknownKind(9)));
}

#[test]
fn the_largest_request_fits_a_frame_with_what_goes_with_it() {
    // A member proposes 4 MiB at once, unless one request alone is larger.
    let sizes = [4 << 20, usize::try_from(crate::peer::REQUEST_BYTES_MAX).expect("an address")];
    let entries = sizes.map(|size| Entry { data: vec![7; size].into(), ..Entry::default() }).to_vec();
    let sent = [Message { msg_type: MessageType::MsgPropose as i32, entries, ..Message::default() }];
    let bytes = encode(StreamKind::Message, &sent);
    assert!(bytes.len() <= crate::peer::BODY_BYTES_MAX);
    assert!(decode(StreamKind::Message, &bytes, 1 << 20) == Ok(sent.to_vec()));
}

fn any_message() -> impl Strategy<Value = Message> {
    let entry = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(term, data)| Entry {
        term,
        data: data.into(),
        ..Entry::default()
    });
    let entries = prop::collection::vec(entry, 0..4);
    (0..3u64, 0..3u64, 0..5u64, entries, 0..9u64).prop_map(|(term, log_term, index, mut entries, commit)| {
        for (i, e) in entries.iter_mut().enumerate() {
            e.index = index + 1 + i as u64;
        }
        append(term, log_term, index, entries, commit)
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(messages in prop::collection::vec(any_message(), 0..20), step in 1usize..64) {
        for kind in StreamKind::ALL {
            let bytes = encode(kind, &messages);
            prop_assert_eq!(&decode(kind, &bytes, step).expect("just written"), &messages);
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), step in 1usize..64) {
        for kind in StreamKind::ALL {
            let read = decode(kind, &bytes, step).map_or(0, |messages| messages.len());
            prop_assert!(read <= bytes.len());
        }
    }

    #[test]
    fn damaged_streams_do_not_panic(
        messages in prop::collection::vec(any_message(), 1..6), at in any::<prop::sample::Index>(), flip in 1u8..
    ) {
        for kind in StreamKind::ALL {
            let mut bytes = encode(kind, &messages);
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let read = decode(kind, &bytes, 16).map_or(0, |messages| messages.len());
            prop_assert!(read <= bytes.len());
        }
    }
}
