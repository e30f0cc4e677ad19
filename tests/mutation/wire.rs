//! Protobuf's wire format without any message's meaning: taken apart, changed in one place, put together again. What was a message stays one,
//! so that the damage is in the values and not in the framing.

use super::Seeded;

/// Numbers at which something may be one too many.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 3, 127, 128, 129, u32::MAX as u64, i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX];
const DEPTH_MAX: u32 = 8;

/// A field's value.
#[derive(Clone)]
enum Value {
    Number(u64),
    /// Eight or four bytes, which no message of etcd's has.
    Fixed(Vec<u8>),
    Bytes(Vec<u8>),
    Message(Vec<Field>),
}

#[derive(Clone)]
struct Field {
    key: u64,
    value: Value,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn take(bytes: &mut &[u8], length: usize) -> Option<Vec<u8>> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head.to_vec())
}

/// The fields, if that is what the bytes are.
fn parse(mut bytes: &[u8], depth: u32) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        if key >> 3 == 0 {
            return None;
        }
        let value = match key & 7 {
            0 => Value::Number(varint(&mut bytes)?),
            1 => Value::Fixed(take(&mut bytes, 8)?),
            5 => Value::Fixed(take(&mut bytes, 4)?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let inner = take(&mut bytes, length)?;
                // Text may look like a message; then it is changed as one, which is as good.
                match parse(&inner, depth + 1).filter(|fields| depth < DEPTH_MAX && !fields.is_empty()) {
                    Some(fields) => Value::Message(fields),
                    None => Value::Bytes(inner),
                }
            }
            _ => return None,
        };
        fields.push(Field { key, value });
    }
    Some(fields)
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write(fields: &[Field], out: &mut Vec<u8>) {
    for Field { key, value } in fields {
        put_varint(*key, out);
        match value {
            Value::Number(number) => put_varint(*number, out),
            Value::Fixed(bytes) => out.extend_from_slice(bytes),
            Value::Bytes(bytes) => {
                put_varint(bytes.len() as u64, out);
                out.extend_from_slice(bytes);
            }
            Value::Message(fields) => {
                let mut inner = Vec::new();
                write(fields, &mut inner);
                put_varint(inner.len() as u64, out);
                out.append(&mut inner);
            }
        }
    }
}

/// Changes one place of a message, taking pieces of another; nothing if the bytes are no message.
pub(super) fn mutate(random: &mut Seeded, message: &[u8], other: &[u8]) -> Option<Vec<u8>> {
    let mut fields = parse(message, 0)?;
    change(random, &mut fields, &parse(other, 0).unwrap_or_default());
    let mut out = Vec::new();
    write(&fields, &mut out);
    Some(out)
}

fn change(random: &mut Seeded, fields: &mut Vec<Field>, other: &[Field]) {
    if fields.is_empty() || random.below(8) == 0 {
        return add(random, fields, other);
    }
    let at = random.below(fields.len());
    if random.below(8) == 0 {
        drop(fields.remove(at));
        return;
    }
    match &mut fields[at].value {
        Value::Number(number) => {
            *number = match random.below(4) {
                0 => number.wrapping_add(1),
                1 => number.wrapping_sub(1),
                _ => NUMBERS[random.below(NUMBERS.len())],
            };
        }
        Value::Message(inner) => change(random, inner, other),
        Value::Bytes(bytes) | Value::Fixed(bytes) => spoil(random, bytes),
    }
}

/// A field of this message or another, once more or for the first time; or a number under any key.
fn add(random: &mut Seeded, fields: &mut Vec<Field>, other: &[Field]) {
    let field = match random.below(3) {
        0 if !fields.is_empty() => fields[random.below(fields.len())].clone(),
        1 if !other.is_empty() => other[random.below(other.len())].clone(),
        _ => {
            let key = (1 + random.below(16) as u64) << 3;
            Field { key, value: Value::Number(NUMBERS[random.below(NUMBERS.len())]) }
        }
    };
    fields.insert(random.below(fields.len() + 1), field);
}

/// Keys stay short and few, so that requests meet each other.
fn spoil(random: &mut Seeded, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes.clear(),
        1 if !bytes.is_empty() => drop(bytes.remove(at)),
        2 => bytes.insert(at, [0, 0xff, b'0', b'k'][random.below(4)]),
        3 => *bytes = vec![0],
        4 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        _ => *bytes = format!("k{}", random.below(8)).into_bytes(),
    }
}
