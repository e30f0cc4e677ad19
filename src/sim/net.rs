//! The network between members: peer's bytes, late, lost, doubled or not at all.
//!
//! As over etcd's peer protocol, each ordered pair of members has two streams, in each of which order holds until it breaks, and a way for
//! single messages (POST) on which nothing holds. A stream that breaks loses what is under way and begins anew, encoder and decoder
//! together. What a member hands over for a cut link is gone, and it may hear so.

use crate::peer::codec::CodecError;
use crate::peer::codec::Decoder;
use crate::peer::codec::Encoder;
use crate::peer::codec::StreamKind;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use bytes::Bytes;
use bytes::BytesMut;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

/// How a message travels.
#[derive(Clone, Debug)]
enum Way {
    /// In a stream, and in which of its lives.
    Stream(StreamKind, u64),
    /// Alone.
    Post,
}

/// Bytes on their way.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) from: usize,
    pub(super) to: usize,
    way: Way,
    bytes: Bytes,
}

struct Stream {
    life: u64,
    encoder: Encoder,
    decoder: Decoder,
    /// When the last packet arrives: the next cannot be earlier.
    last: u64,
}

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    /// Of 1000 messages so many are lost, sent by POST, doubled (if by POST), or very late; of 1000 so many break their stream.
    pub(super) lost: u32,
    pub(super) posted: u32,
    pub(super) doubled: u32,
    pub(super) late: u32,
    pub(super) broken: u32,
    /// The usual delay is up to this, in microseconds.
    pub(super) delay_us: u64,
}

/// So many members there may ever be in one run.
pub(super) const MEMBERS_MAX: usize = 12;

/// All links.
pub(super) struct Net {
    ids: Vec<u64>,
    /// By sender, receiver and kind.
    streams: Vec<Stream>,
    cuts: BTreeSet<(usize, usize)>,
    /// Senders whose process has ended, as far as the receiver noticed, and from whom no stream has brought anything since.
    gone: BTreeSet<(usize, usize)>,
    pub(super) weather: Weather,
}

fn kind_of(message: &Message) -> StreamKind {
    let append = message.msg_type == MessageType::MsgAppend as i32;
    if append { StreamKind::MsgApp } else { StreamKind::Message }
}

impl Net {
    pub(super) fn new(ids: Vec<u64>, weather: Weather) -> Net {
        let stream = || StreamKind::ALL.map(|kind| Stream::new(kind, 0, 0));
        let streams = (0..MEMBERS_MAX * MEMBERS_MAX).flat_map(|_| stream()).collect();
        let mut net = Net { ids: Vec::new(), streams, cuts: BTreeSet::new(), gone: BTreeSet::new(), weather };
        ids.into_iter().for_each(|id| net.join(id));
        net
    }

    /// One more member.
    pub(super) fn join(&mut self, id: u64) {
        self.ids.push(id);
        self.hang_up(self.ids.len() - 1);
    }

    /// The connections of these two break.
    pub(super) fn hang_up_pair(&mut self, one: usize, other: usize) {
        for kind in StreamKind::ALL {
            self.renew(one, other, kind);
            self.renew(other, one, kind);
        }
    }

    /// The process at `gone` is taken for ended by the member at `by`: what its leader posted before does not count any more, as in `peer/link.rs`.
    pub(super) fn takes_for_gone(&mut self, by: usize, gone: usize) {
        self.gone.insert((gone, by));
    }

    /// Whether nobody is cut off from anybody.
    pub(super) fn is_whole(&self) -> bool {
        self.cuts.is_empty()
    }

    fn stream(&mut self, from: usize, to: usize, kind: StreamKind) -> &mut Stream {
        let kind = StreamKind::ALL.iter().position(|other| *other == kind).expect("ALL has both");
        let place = (from * MEMBERS_MAX + to) * StreamKind::ALL.len() + kind;
        &mut self.streams[place]
    }

    /// Where the member with this id is.
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        self.ids.iter().position(|other| *other == id)
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains(&(from, to))
    }

    /// Cuts one direction, or joins it again.
    pub(super) fn cut(&mut self, from: usize, to: usize, cut: bool) {
        match cut {
            true => drop(self.cuts.insert((from, to))),
            false => drop(self.cuts.remove(&(from, to))),
        }
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// The process at `member` is gone: all its connections break.
    pub(super) fn hang_up(&mut self, member: usize) {
        for other in 0..self.ids.len() {
            self.hang_up_pair(member, other);
        }
    }

    fn renew(&mut self, from: usize, to: usize, kind: StreamKind) {
        let (from_id, to_id) = (self.ids[from], self.ids[to]);
        let stream = self.stream(from, to, kind);
        let (life, last) = (stream.life + 1, stream.last);
        *stream = Stream { life, last, ..Stream::new(kind, from_id, to_id) };
    }

    /// Sends a message at `now`. Returns packets with the times at which they arrive; none if it is lost.
    pub(super) fn send(&mut self, now: u64, message: &Message, dice: &mut StdRng) -> Vec<(u64, Packet)> {
        let (Some(from), Some(to)) = (self.place(message.from), self.place(message.to)) else { return Vec::new() };
        let weather = self.weather;
        let mut roll = |of_1000: u32| dice.random_range(0..1000) < of_1000;
        if self.cuts.contains(&(from, to)) || roll(weather.lost) {
            return Vec::new();
        }
        let (posted, doubled, late, broken) =
            (roll(weather.posted), roll(weather.doubled), roll(weather.late), roll(weather.broken));
        let mut delay = || dice.random_range(100..=weather.delay_us) + if late { 100 * weather.delay_us } else { 0 };
        let mut bytes = BytesMut::new();
        // A proposal that comes twice would be two writes; the peer protocol does not repeat what it posted.
        let doubled = doubled && message.msg_type != MessageType::MsgPropose as i32;
        if posted {
            Encoder::new(StreamKind::Message).encode(message, &mut bytes);
            let packet = Packet { from, to, way: Way::Post, bytes: bytes.freeze() };
            let again = doubled.then(|| (now + 3 * delay(), packet.clone()));
            return [(now + delay(), packet)].into_iter().chain(again).collect();
        }
        let kind = kind_of(message);
        if broken {
            self.renew(from, to, kind);
        }
        let arrives = now + delay();
        let stream = self.stream(from, to, kind);
        stream.encoder.encode(message, &mut bytes);
        stream.last = stream.last.max(arrives);
        vec![(stream.last, Packet { from, to, way: Way::Stream(kind, stream.life), bytes: bytes.freeze() })]
    }

    /// What arrives: nothing if the link was cut or its stream broke meanwhile.
    ///
    /// # Errors
    /// [`CodecError`]: the decoder does not understand our own encoder.
    pub(super) fn arrive(&mut self, packet: &Packet, dice: &mut StdRng) -> Result<Vec<Message>, CodecError> {
        let Packet { from, to, way, bytes } = packet;
        let cut = self.cuts.contains(&(*from, *to));
        match way {
            Way::Stream(kind, _) if cut => {
                self.renew(*from, *to, *kind);
                Ok(Vec::new())
            }
            Way::Stream(kind, life) => {
                if self.stream(*from, *to, *kind).life != *life {
                    return Ok(Vec::new());
                }
                self.gone.remove(&(*from, *to));
                decode(&mut self.stream(*from, *to, *kind).decoder, bytes, dice)
            }
            Way::Post if cut => Ok(Vec::new()),
            Way::Post => {
                let mut decoder = Decoder::new(StreamKind::Message, self.ids[*to], self.ids[*from]);
                let mut messages = decode(&mut decoder, bytes, dice)?;
                let is_gone = self.gone.contains(&(*from, *to));
                messages.retain(|message| {
                    !is_gone || !matches!(message.msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat)
                });
                Ok(messages)
            }
        }
    }
}

impl Stream {
    fn new(kind: StreamKind, from: u64, to: u64) -> Stream {
        Stream { life: 0, encoder: Encoder::new(kind), decoder: Decoder::new(kind, to, from), last: 0 }
    }
}

/// Feeds the bytes in two pieces, as a socket might.
fn decode(decoder: &mut Decoder, bytes: &[u8], dice: &mut StdRng) -> Result<Vec<Message>, CodecError> {
    let mut messages = Vec::new();
    let (first, rest) = bytes.split_at(dice.random_range(0..=bytes.len()));
    for piece in [first, rest] {
        decoder.push(piece);
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
    }
    Ok(messages)
}
