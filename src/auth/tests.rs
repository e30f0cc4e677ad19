//! Users, roles and verdicts: scripts of commands with what they print, and a model that knows no intervals.
//!
//! A script's lines `> command` are followed by what it prints. Keys: `-` is empty, `\0` and `\xff` are bytes.

use super::*;
use crate::engine::Memory;
use crate::proto::authpb::permission::Type;
use crate::types::Index;
use crate::types::Millis;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

#[test]
fn rights_are_merged_and_cover_whole_requests() {
    run(include_str!("scripts/rights.txt"));
}

#[test]
fn what_must_not_happen_is_refused_in_etcds_words() {
    run(include_str!("scripts/rules.txt"));
}

/// A store, and the engine that has its rows.
#[derive(Default)]
struct Bench {
    store: Store,
    engine: Memory,
}

fn run(script: &str) {
    let (mut bench, mut said, mut told) = (Bench::default(), String::new(), String::new());
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            said.push_str(&format!("{line}\n"));
            told.push_str(&format!("{line}\n"));
            let printed = bench.run(command);
            said.push_str(&printed);
            if !printed.is_empty() {
                said.push('\n');
            }
            bench.rows_are_the_state();
        } else if !line.is_empty() && !line.starts_with('#') {
            told.push_str(&format!("{line}\n"));
        }
    }
    assert!(said == told, "the script prints:\n{said}");
}

fn key(word: &str) -> Bytes {
    match word {
        "-" => Bytes::new(),
        word => word.replace("\\0", "\0").into(),
    }
}

/// `\xff` cannot be in a string.
fn key_or_byte(word: &str) -> Bytes {
    match word.strip_suffix("\\xff") {
        Some(front) => [front.as_bytes(), &[0xff]].concat().into(),
        None => key(word),
    }
}

fn who(store: &Store, user: &str, revision: Option<&str>) -> Who {
    match user {
        "nobody" => Who::default(),
        user => {
            let revision = revision.map_or(store.revision, |text| text.parse().expect("a revision"));
            Who { user: user.into(), revision }
        }
    }
}

fn hashed(text: &str) -> String {
    STANDARD.encode(text)
}

impl Bench {
    fn run(&mut self, command: &str) -> String {
        let words: Vec<&str> = command.split(' ').collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let text = |at: usize| if word(at) == "-" { String::new() } else { word(at).to_owned() };
        match words[0] {
            "may" | "see" | "secret" | "login" | "show" => self.ask(&words),
            "restart" => {
                self.store = Store::load(&self.engine).expect("good rows");
                String::new()
            }
            "user" if word(1) == "roles" => self.store.roles_of(word(2)).expect("a user").join(" "),
            "role" if word(1) == "get" => match self.store.permissions_of(word(2)) {
                Ok(permissions) => permissions.iter().map(permission).collect::<Vec<_>>().join("; "),
                Err(e) => e.to_string(),
            },
            _ => {
                let mut batch = Batch::default();
                let before = self.store.clone();
                let changed = self.change(&words, text, &mut batch);
                if changed.is_err() || changed == Ok(None) {
                    assert!(self.store == before && batch.is_empty(), "{command} changed something");
                }
                self.engine.write(&batch).expect("memory");
                match changed {
                    Ok(Some(_)) => format!("rev {}", self.store.revision),
                    Ok(None) => "same".into(),
                    Err(e) => e.to_string(),
                }
            }
        }
    }

    fn change(
        &mut self,
        words: &[&str],
        text: impl Fn(usize) -> String,
        batch: &mut Batch,
    ) -> Result<Option<Change>, Error> {
        let (store, name, role) = (&mut self.store, text(2), text(2));
        match (words[0], words.get(1).copied().unwrap_or_default()) {
            ("enable", _) => store.enable(batch),
            ("disable", _) => Ok(store.disable(batch)),
            ("user", "add") => {
                let no_password = words.contains(&"no-password");
                let hashed_password = hashed(&format!("hash-of-{name}"));
                let options = Some(authpb::UserAddOptions { no_password });
                let add = pb::AuthUserAddRequest { name, hashed_password, options, ..Default::default() };
                store.user_add(&add, batch).map(Some)
            }
            ("user", "del") => store.user_delete(&pb::AuthUserDeleteRequest { name }, batch).map(Some),
            ("passwd", user) => {
                let change = pb::AuthUserChangePasswordRequest {
                    name: user.into(),
                    hashed_password: hashed(&text(2)),
                    ..Default::default()
                };
                store.user_change_password(&change, batch).map(Some)
            }
            ("grant", user) => store.user_grant_role(&pb::AuthUserGrantRoleRequest { user: user.into(), role }, batch),
            ("revoke", user) => {
                store.user_revoke_role(&pb::AuthUserRevokeRoleRequest { name: user.into(), role }, batch).map(Some)
            }
            ("role", "add") => store.role_add(&pb::AuthRoleAddRequest { name }, batch).map(Some),
            ("role", "del") => store.role_delete(&pb::AuthRoleDeleteRequest { role }, batch).map(Some),
            ("perm", role) => {
                let kind = match words[2] {
                    "r" => Type::Read,
                    "w" => Type::Write,
                    _ => Type::Readwrite,
                };
                let (key, range_end) = (key(words[3]), words.get(4).map(|end| key(end)).unwrap_or_default());
                let perm = Some(authpb::Permission { perm_type: kind as i32, key, range_end });
                store
                    .role_grant_permission(&pb::AuthRoleGrantPermissionRequest { name: role.into(), perm }, batch)
                    .map(Some)
            }
            ("unperm", role) => {
                let (key, range_end) = (key(words[2]), words.get(3).map(|end| key(end)).unwrap_or_default());
                let revoke = pb::AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
                store.role_revoke_permission(&revoke, batch).map(Some)
            }
            other => panic!("no command {other:?}"),
        }
    }

    fn ask(&self, words: &[&str]) -> String {
        let yes = |verdict: Result<(), Error>| verdict.map_or_else(|e| e.to_string(), |()| "yes".into());
        let store = &self.store;
        match words {
            ["may", user, access, rest @ ..] => {
                let (keys, at) = match rest {
                    [keys @ .., "at", revision] => (keys, Some(*revision)),
                    keys => (keys, None),
                };
                let end = keys.get(1).map(|end| key_or_byte(end)).unwrap_or_default();
                let range = KeyRange::parse(&key_or_byte(keys[0]), &end);
                let access = if *access == "r" { Access::Read } else { Access::Write };
                yes(store.permit(&who(store, user, at), &range, access))
            }
            ["see", user, "user", name] => yes(store.permit_user(&who(store, user, None), name)),
            ["see", user, "role", role] => yes(store.permit_role(&who(store, user, None), role)),
            ["secret", user] => match store.secret(user) {
                Ok(Secret { hash, revision }) => format!("{} at {revision}", String::from_utf8_lossy(&hash)),
                Err(e) => e.to_string(),
            },
            ["login", user] => store.authenticate(user).map_or_else(|e| e.to_string(), |()| "ok".into()),
            ["show", only] => self.show_user(only),
            ["show"] => {
                let mut lines = vec![format!("{} rev {}", if store.enabled { "on" } else { "off" }, store.revision)];
                lines.extend(store.users().map(|user| self.show_user(user)));
                lines.extend(store.roles.iter().map(|(name, role)| {
                    let all: Vec<String> = role.key_permission.iter().map(permission).collect();
                    format!("{name}: {}", all.join("; ")).trim_end().to_owned()
                }));
                lines.join("\n")
            }
            other => panic!("no command {other:?}"),
        }
    }

    fn show_user(&self, name: &str) -> String {
        let roles = self.store.roles_of(name).expect("a user").join(" ");
        format!("{name} ({roles}): {}", self.store.merged[name].show())
    }

    /// What the rows say is what is in memory, merged permissions included.
    fn rows_are_the_state(&self) {
        assert!(Store::load(&self.engine).expect("good rows") == self.store);
        let (anew, mut batch) = (Memory::default(), Batch::default());
        self.store.save(&mut batch);
        anew.write(&batch).expect("memory");
        assert!(Store::load(&anew).expect("good rows") == self.store);
    }
}

fn permission(permission: &authpb::Permission) -> String {
    let kind = Type::try_from(permission.perm_type).expect("a kind").as_str_name();
    let key = permission.key.escape_ascii();
    match permission.range_end.is_empty() {
        true => format!("{kind} {key}"),
        false => format!("{kind} {key}..{}", permission.range_end.escape_ascii()),
    }
}

// The model: a range is the set of its keys, among all short keys over a small alphabet. Every end of an interval that can be
// generated here is one of them, so that a gap always begins at one of them, too.

fn universe() -> Vec<Bytes> {
    let letters = [0u8, b'a', b'b'];
    let mut all: Vec<Vec<u8>> = vec![vec![]];
    for length in 0..3 {
        let longer: Vec<Vec<u8>> = all
            .iter()
            .filter(|key| key.len() == length)
            .flat_map(|key| letters.map(|letter| [key.as_slice(), &[letter]].concat()))
            .collect();
        all.extend(longer);
    }
    all.into_iter().filter(|key| !key.is_empty()).map(Bytes::from).collect()
}

fn short_key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b']), 1..=2).prop_map(Bytes::from)
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        short_key().prop_map(KeyRange::Single),
        short_key().prop_map(KeyRange::From),
        (short_key(), short_key()).prop_map(|(from, to)| KeyRange::parse(&from, &to)),
    ]
}

fn wire_range(range: &KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::Single(key) => (key.clone(), Bytes::new()),
        KeyRange::Interval(from, to) => (from.clone(), to.clone()),
        KeyRange::From(key) => (key.clone(), Bytes::from_static(&[0])),
    }
}

proptest! {
    #[test]
    fn verdicts_are_those_of_sets_of_keys(
        granted in prop::collection::vec((any_range(), 0..4i32), 0..8),
        asked in any_range(),
        is_write in any::<bool>(),
    ) {
        prop_assume!(!asked.is_empty());
        let permission = |(range, perm_type): &(KeyRange, i32)| {
            let (key, range_end) = wire_range(range);
            authpb::Permission { perm_type: *perm_type, key, range_end }
        };
        let (first, second) = granted.split_at(granted.len() / 2);
        let role = |part: &[(KeyRange, i32)]| authpb::Role {
            name: "r".into(),
            key_permission: part.iter().map(permission).collect(),
        };
        let roles = [role(first), role(second)];
        let permissions = Permissions::merged(false, roles.iter());
        let (access, kind) = if is_write { (Access::Write, Type::Write) } else { (Access::Read, Type::Read) };
        let counts = |perm_type: i32| perm_type == kind as i32 || perm_type == Type::Readwrite as i32;
        let expected = universe().iter().filter(|key| asked.contains(key)).all(|key| {
            granted.iter().any(|(range, perm_type)| counts(*perm_type) && range.contains(key))
        });
        prop_assert_eq!(permissions.allow(&asked, access), expected);
    }
}

/// As in etcd's interval tree, where one key is the interval up to its successor.
#[test]
fn a_permission_on_one_key_covers_the_interval_of_that_key_alone() {
    let key = |text: &'static str| Bytes::from_static(text.as_bytes());
    let permission = authpb::Permission { perm_type: Type::Read as i32, key: key("k"), range_end: Bytes::new() };
    let role = authpb::Role { name: key("r"), key_permission: vec![permission] };
    let permissions = Permissions::merged(false, [&role].into_iter());
    let may = |from, to| permissions.allow(&KeyRange::parse(&key(from), &key(to)), Access::Read);
    assert!(may("k", "") && may("k", "k\0"));
    assert!(!may("k", "k\0\0") && !may("k", "\0") && !may("k\0", ""));
}

#[test]
fn a_row_that_cannot_be_one_is_damage() {
    let user = authpb::User { name: "a".into(), ..Default::default() }.encode_to_vec();
    for (table, key, value) in [
        (Table::Auth, ENABLED, vec![2]),
        (Table::Auth, REVISION, vec![1]),
        (Table::AuthUsers, b"b".as_slice(), user.clone()),
        (Table::AuthUsers, b"\xff".as_slice(), user),
        (Table::AuthRoles, b"r".as_slice(), vec![0xff]),
    ] {
        let (engine, mut batch) = (Memory::default(), Batch::default());
        batch.put(table, key.to_vec(), value);
        engine.write(&batch).expect("memory");
        assert!(matches!(Store::load(&engine), Err(Error::Damaged(_))), "{} {key:?}", table.name());
    }
}

#[test]
fn the_rows_are_etcds() {
    let (mut store, mut batch) = (Store::default(), Batch::default());
    let hashed_password = hashed("$2a$10$x");
    let add = pb::AuthUserAddRequest { name: "u".into(), hashed_password, ..Default::default() };
    store.user_add(&add, &mut batch).expect("new");
    let rows: Vec<_> = batch.rows().map(|(table, key, value)| (table.name(), key.clone(), value.cloned())).collect();
    assert_eq!(rows[0], ("auth", "authRevision".into(), Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 2]))));
    // authpb.User: name, password, empty options.
    assert_eq!(rows[1], ("authUsers", "u".into(), Some(Bytes::from_static(b"\x0a\x01u\x12\x08$2a$10$x\x22\x00"))));
}

#[test]
fn a_password_that_was_not_hashed_is_not_taken() {
    let (mut store, mut batch) = (Store::default(), Batch::default());
    let plain = pb::AuthUserAddRequest { name: "u".into(), password: "p".into(), ..Default::default() };
    assert_eq!(store.user_add(&plain, &mut batch), Err(Error::NoPasswordUser));
    let odd = pb::AuthUserAddRequest { name: "u".into(), hashed_password: "!".into(), ..Default::default() };
    assert_eq!(store.user_add(&odd, &mut batch), Err(Error::NoPasswordUser));
    assert!(batch.is_empty() && store == Store::default());
}

fn login(tokens: &mut Tokens, now: u64, token: &str, user: &str) {
    tokens.follow(Millis(now), &Change::Token { token: token.into(), user: user.into() });
}

#[test]
fn a_token_lives_on_while_it_is_used() {
    let mut tokens = Tokens::new(100);
    login(&mut tokens, 0, "x.1", "alice");
    assert_eq!(tokens.user(Millis(99), "x.1"), Some("alice"));
    assert_eq!(tokens.user(Millis(198), "x.1"), Some("alice"));
    login(&mut tokens, 250, "y.2", "bob");
    assert_eq!(tokens.len(), 2, "used at 198, so good until 298");
    assert_eq!(tokens.user(Millis(298), "x.1"), None);
    assert_eq!(tokens.user(Millis(298), "z.3"), None);
    login(&mut tokens, 300, "z.3", "alice");
    assert_eq!(tokens.len(), 2, "the expired one is forgotten");
}

#[test]
fn tokens_go_with_their_user_and_with_authentication() {
    let mut tokens = Tokens::new(100);
    for (token, user) in [("a.1", "alice"), ("a.2", "alice"), ("b.3", "bob")] {
        login(&mut tokens, 0, token, user);
    }
    tokens.follow(Millis(1), &Change::Rights);
    assert_eq!(tokens.len(), 3);
    tokens.follow(Millis(1), &Change::TokensGone("alice".into()));
    assert_eq!(tokens.user(Millis(1), "a.1"), None);
    assert_eq!(tokens.user(Millis(1), "a.2"), None);
    assert_eq!(tokens.user(Millis(1), "b.3"), Some("bob"));
    tokens.follow(Millis(1), &Change::Disabled);
    assert!(tokens.is_empty());
}

#[test]
fn too_many_tokens_push_out_the_ones_that_would_expire_first() {
    let mut tokens = Tokens::bounded(100, 2);
    for (at, token) in [(0, "a.1"), (1, "b.2"), (2, "c.3")] {
        login(&mut tokens, at, token, "alice");
    }
    assert_eq!(tokens.len(), 2);
    assert_eq!(tokens.user(Millis(3), "a.1"), None);
    assert_eq!(tokens.user(Millis(3), "c.3"), Some("alice"));
}

#[test]
fn a_simple_token_names_its_entry() {
    assert_eq!(Tokens::made_of("abc", Index(7)).as_deref(), Some("abc.7"));
    assert_eq!(Tokens::made_of("", Index(7)), None);
    assert_eq!(Tokens::index_of("abc.7"), Some(Index(7)));
    for bad in ["", "abc", "abc.", "abc.x", "abc.-1", "abc.+1", "a.b.7", "abc.99999999999999999999"] {
        assert_eq!(Tokens::index_of(bad), None, "{bad}");
    }
}
