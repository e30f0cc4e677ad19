//! Go's ways of reading and writing numbers, strings and times, which etcd's flags, environment and log lines and etcdctl's input
//! and output follow to the byte: scripts and unit files depend on them.
//!
//! Left out: hexadecimal floats. Source: Go's `strconv`, `time` and `unicode`, and go-humanize's `Bytes`.

use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

/// A byte string as Go's `%q` writes it.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0b' => out.push_str("\\v"),
                '\x0c' => out.push_str("\\f"),
                c if is_print(c) => out.push(c),
                c if c < ' ' || c == '\x7f' => push(&mut out, format_args!("\\x{:02x}", u32::from(c))),
                c if u32::from(c) < 0x1_0000 => push(&mut out, format_args!("\\u{:04x}", u32::from(c))),
                c => push(&mut out, format_args!("\\U{:08x}", u32::from(c))),
            }
        }
        for byte in chunk.invalid() {
            push(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

/// JSON as Go's `encoding/json` writes it: like everybody's, but fit to stand inside HTML.
///
/// # Panics
/// If the value has what JSON has no word for: a map whose keys are no strings. No type here has.
pub(crate) fn json(value: &(impl Serialize + ?Sized)) -> String {
    let plain = serde_json::to_string(value).expect("strings, numbers and lists only");
    let mut text = String::with_capacity(plain.len());
    for c in plain.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => push(&mut text, format_args!("\\u{:04x}", u32::from(c))),
            _ => text.push(c),
        }
    }
    text
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a String takes all writes");
}

/// Whether Go prints `c` as it is. Rust's own rule differs only at the start of a string.
fn is_print(c: char) -> bool {
    let pair: String = ['a', c].into_iter().collect();
    c == '\'' || pair.escape_debug().count() == 2
}

/// Reads one Go string literal, `"…"` or `` `…` ``, from the start of `text`; returns its bytes and what follows.
pub(crate) fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inside, rest) = raw.split_once('`')?;
        return Some((inside.replace('\r', "").into_bytes(), rest));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut out = Vec::new();
    loop {
        let mut chars = rest.chars();
        match chars.next()? {
            '"' => return Some((out, chars.as_str())),
            '\n' => return None,
            '\\' => {
                let escape = chars.next()?;
                rest = unescape(escape, chars.as_str(), &mut out)?;
            }
            c => {
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = chars.as_str();
            }
        }
    }
}

/// Carries out the escape whose first letter is `escape`; returns what follows it.
fn unescape<'a>(escape: char, rest: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let simple = match escape {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => 10,
        'r' => 13,
        't' => 9,
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        'x' => {
            out.push(u8::from_str_radix(digits(rest, 2, 16)?, 16).ok()?);
            return Some(&rest[2..]);
        }
        'u' | 'U' => {
            let width = if escape == 'u' { 4 } else { 8 };
            let c = char::from_u32(u32::from_str_radix(digits(rest, width, 16)?, 16).ok()?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(&rest[width..]);
        }
        '0'..='7' => {
            let first = escape.to_digit(8)?;
            let value = first * 64 + u32::from_str_radix(digits(rest, 2, 8)?, 8).ok()?;
            out.push(u8::try_from(value).ok()?);
            return Some(&rest[2..]);
        }
        _ => return None,
    };
    out.push(simple);
    Some(rest)
}

fn digits(text: &str, count: usize, radix: u32) -> Option<&str> {
    text.get(..count).filter(|found| found.chars().all(|c| c.is_digit(radix)))
}

/// `strconv.ParseInt(text, radix, 64)`; a radix of 0 lets the text choose (`0x`, `0o`, `0b`, `_` between digits).
pub(crate) fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    let (negative, magnitude) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let failed = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text.as_bytes()));
    let value = i128::from(parse_magnitude(magnitude, radix).map_err(failed)?);
    i64::try_from(if negative { -value } else { value }).map_err(|_| failed("value out of range"))
}

/// `strconv.ParseUint(text, radix, 64)`.
pub(crate) fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    parse_magnitude(text, radix).map_err(|why| format!("strconv.ParseUint: parsing {}: {why}", quote(text.as_bytes())))
}

fn parse_magnitude(text: &str, radix: u32) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match (radix, lower.as_bytes()) {
        (0, [b'0', b'x', ..]) => (lower[2..].replace('_', ""), 16),
        (0, [b'0', b'o', ..]) => (lower[2..].replace('_', ""), 8),
        (0, [b'0', b'b', ..]) => (lower[2..].replace('_', ""), 2),
        (0, [b'0', _, ..]) => (lower[1..].replace('_', ""), 8),
        (0, _) => (lower.replace('_', ""), 10),
        (radix, _) => (lower, radix),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err("invalid syntax");
    }
    u64::from_str_radix(&digits, radix).map_err(|_| "value out of range")
}

/// `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

/// `strconv.ParseInt` or `strconv.ParseUint` with a radix of 0: whatever fits one of them.
pub(crate) fn parse_number(text: &str) -> Result<i128, String> {
    parse_int(text, 0).map(i128::from).or_else(|why| parse_uint(text, 0).map(i128::from).map_err(|_| why))
}

/// `time.ParseDuration`, for times that are not negative.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let nanos = parse_nanos(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| invalid_duration(text))
}

/// `time.ParseDuration`: the nanoseconds of `1h15m30.918s`, at most about 292 years either way.
pub(crate) fn parse_nanos(text: &str) -> Result<i64, String> {
    let invalid = || invalid_duration(text);
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (unit, next) = tail.split_at(tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len()));
        if number.is_empty() {
            return Err(invalid());
        }
        let scale = unit_nanos(unit).map_err(|why| format!("time: {why} in duration {}", quote(text.as_bytes())))?;
        let part = nanos_of(number, scale).ok_or_else(invalid)?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

fn invalid_duration(text: &str) -> String {
    format!("time: invalid duration {}", quote(text.as_bytes()))
}

fn unit_nanos(unit: &str) -> Result<i128, String> {
    Ok(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err("missing unit".to_owned()),
        unknown => return Err(format!("unknown unit {}", quote(unknown.as_bytes()))),
    })
}

/// A decimal number times `scale`, without a detour through floating point.
fn nanos_of(number: &str, scale: i128) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut nanos = if whole.is_empty() { 0 } else { i128::from(whole.parse::<i64>().ok()?) * scale };
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += i128::from(digit.checked_sub(b'0')?) * place;
    }
    Some(nanos)
}

/// A time as Go's `Duration.String` writes it: `2.551171ms`, `1m30s`.
pub(crate) fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            0..1_000 => ("ns", 1),
            1_000..1_000_000 => ("µs", 1_000),
            _ => ("ms", 1_000_000),
        };
        return format!("{}{unit}", decimal(nanos, size));
    }
    let minutes = nanos / 60_000_000_000;
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// `value / unit` with as many decimals as it takes.
fn decimal(value: u128, unit: u128) -> String {
    let fraction = value % unit;
    if fraction == 0 {
        return (value / unit).to_string();
    }
    let width = unit.ilog10() as usize;
    format!("{}.{}", value / unit, format!("{fraction:0width$}").trim_end_matches('0'))
}

/// A size in thousands, two digits: `29 kB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let exponent = bytes.ilog(1000) as usize;
    let value = (bytes as f64 / 1000_f64.powi(exponent as i32) * 10.0 + 0.5).floor() / 10.0;
    let decimals = usize::from(value < 10.0);
    format!("{value:.decimals$} {}", UNITS[exponent])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_fit_to_stand_inside_html() {
        assert_eq!(json("<a&b>\u{2028}\n\"é"), r#""\u003ca\u0026b\u003e\u2028\n\"é""#);
    }

    #[test]
    fn strings_are_quoted_as_go_quotes_them() {
        assert_eq!(quote(b"a\"b\\c\n\x00\x7f"), r#""a\"b\\c\n\x00\x7f""#);
        assert_eq!(quote("it's é\u{a0}日\u{301}".as_bytes()), "\"it's é\\u00a0日\u{301}\"");
        assert_eq!(quote(&[b'a', 0xff]), r#""a\xff""#);
    }

    #[test]
    fn literals_are_read_back() {
        assert_eq!(unquote_prefix(r#""a\n\x41é\101") x"#), Some(("a\nA\u{e9}A".as_bytes().to_vec(), ") x")));
        assert_eq!(unquote_prefix("`a\\n` rest"), Some((b"a\\n".to_vec(), " rest")));
        for bad in ["abc", "\"open", r#""\q""#, r#""\x4""#] {
            assert_eq!(unquote_prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_fail_in_gos_words() {
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("0x_1f", 0), Ok(31));
        assert_eq!(parse_int("7ff", 16), Ok(0x7ff));
        assert_eq!(parse_int("zz", 16).expect_err("no"), r#"strconv.ParseInt: parsing "zz": invalid syntax"#);
        let large = "99999999999999999999";
        assert!(parse_int(large, 10).expect_err("no").ends_with("value out of range"));
        assert_eq!(parse_uint("-1", 10).expect_err("no"), r#"strconv.ParseUint: parsing "-1": invalid syntax"#);
    }

    #[test]
    fn times_are_read_and_written_as_go_does() {
        for text in ["2.551171ms", "5s", "1m30s", "1h0m0.5s", "15µs", "7ns"] {
            assert_eq!(duration(parse_duration(text).expect(text)), text);
        }
        assert_eq!(parse_duration("x").expect_err("no"), r#"time: invalid duration "x""#);
        assert_eq!(parse_duration("5").expect_err("no"), r#"time: missing unit in duration "5""#);
    }

    #[test]
    fn sizes_have_two_digits() {
        let sizes = [(0, "0 B"), (9, "9 B"), (20480, "20 kB"), (1_200, "1.2 kB"), (28_672, "29 kB"), (9_990, "10 kB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_take_fractions_and_a_sign() {
        for (text, nanos) in [
            ("0", 0),
            ("5m", 300_000_000_000),
            ("1h15m30.918s", 4_530_918_000_000),
            ("-1.5h", -5_400_000_000_000),
            ("300ms", 300_000_000),
            (".5s", 500_000_000),
        ] {
            assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
        }
        for text in ["", "5", "s", "1x", "1.2.3s", "-", "99999999999999h", "."] {
            assert!(parse_nanos(text).is_err(), "{text}");
        }
        for (ms, text) in
            [(0, "0s"), (100, "100ms"), (1500, "1.5s"), (7000, "7s"), (90_000, "1m30s"), (7_200_000, "2h0m0s")]
        {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(duration(Duration::from_nanos(1_284_854)), "1.284854ms");
    }

    #[test]
    fn integers_take_a_base_prefix() {
        for (text, number) in
            [("0x10", 16), ("010", 8), ("-7", -7), ("0", 0), ("18446744073709551615", u64::MAX.into())]
        {
            assert_eq!(parse_number(text), Ok(number), "{text}");
        }
        for text in ["", "x", "1.5", "--1", "0x", "+-1"] {
            assert!(parse_number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn quoted_text_cannot_break_a_line() {
        assert_eq!(quote(b"a\"b\\\n\x01"), r#""a\"b\\\n\x01""#);
    }
}
