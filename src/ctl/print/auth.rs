//! Users and roles: the answers to auth, user and role; and downgrade, whose answers are sentences too.

use super::Answer;
use super::Page;
use super::json::Object;
use crate::client;
use crate::golang;
use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb::AuthRoleGetResponse;
use crate::proto::etcdserverpb::AuthRoleListResponse;
use crate::proto::etcdserverpb::AuthStatusResponse;
use crate::proto::etcdserverpb::AuthUserGetResponse;
use crate::proto::etcdserverpb::AuthUserListResponse;
use crate::proto::etcdserverpb::DowngradeResponse;
use crate::proto::etcdserverpb::ResponseHeader;
use prost::Message;

/// An answer that says no more than that it was done: a sentence for people, a header for programs.
pub(crate) struct Done<M> {
    pub(crate) sentence: String,
    pub(crate) header: Option<ResponseHeader>,
    pub(crate) answer: M,
}

impl<M: Message> Answer for Done<M> {
    fn simple(&self, page: &mut Page) {
        page.line(&self.sentence);
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.header.as_ref()).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

impl Answer for AuthStatusResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Authentication Status: {}", self.enabled));
        page.line(format_args!("AuthRevision: {}", self.auth_revision));
    }

    fn json(&self, _: bool) -> String {
        Object::default()
            .header(self.header.as_ref())
            .flag("enabled", self.enabled)
            .number("authRevision", self.auth_revision)
            .end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// A user, and what it has.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) answer: AuthUserGetResponse,
}

impl Answer for User {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("User: {}", self.name));
        let roles: String = self.answer.roles.iter().map(|role| format!(" {role}")).collect();
        page.line(format_args!("Roles:{roles}"));
    }

    fn json(&self, _: bool) -> String {
        let roles = self.answer.roles.iter().map(golang::json);
        Object::default().header(self.answer.header.as_ref()).list("roles", roles).end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

impl Answer for AuthUserListResponse {
    fn simple(&self, page: &mut Page) {
        for user in &self.users {
            page.line(user);
        }
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.header.as_ref()).list("users", self.users.iter().map(golang::json)).end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Answer for AuthRoleListResponse {
    fn simple(&self, page: &mut Page) {
        for role in &self.roles {
            page.line(role);
        }
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.header.as_ref()).list("roles", self.roles.iter().map(golang::json)).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        let roles: String = self.roles.iter().map(|role| format!(" {}", golang::quote(role.as_bytes()))).collect();
        page.line(format_args!("\"Roles\" :{roles}"));
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// A role, and what it may do.
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) answer: AuthRoleGetResponse,
}

/// A key, or a range: `[a, z)`, `[foo, fop) (prefix foo)`, `[k, <open ended>`.
fn permitted(page: &mut Page, perm: &Permission) {
    page.out.push(b'\t');
    match perm.range_end.as_ref() {
        b"" => page.out.extend(&perm.key),
        b"\0" => {
            page.out.push(b'[');
            page.out.extend(&perm.key);
            page.out.extend(b", <open ended>");
        }
        end => {
            page.out.push(b'[');
            page.out.extend(&perm.key);
            page.out.extend(b", ");
            page.out.extend(end);
            page.out.push(b')');
        }
    }
    let is_prefix = !perm.key.is_empty() && !perm.range_end.is_empty();
    if is_prefix && client::prefix_end(&perm.key) == perm.range_end {
        page.out.extend(b" (prefix ");
        page.out.extend(&perm.key);
        page.out.push(b')');
    }
    page.line("");
}

impl Answer for Role {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Role {}", self.name));
        let all_by_nature = self.name == "root" && self.answer.perm.is_empty();
        for (title, other) in [("KV Read:", Type::Write), ("KV Write:", Type::Read)] {
            page.line(title);
            if all_by_nature {
                page.line("\t[, <open ended>");
            }
            for perm in self.answer.perm.iter().filter(|perm| perm.perm_type() != other) {
                permitted(page, perm);
            }
        }
    }

    fn json(&self, _: bool) -> String {
        let one = |perm: &Permission| {
            Object::default()
                .number("permType", perm.perm_type)
                .bytes("key", &perm.key)
                .bytes("range_end", &perm.range_end)
                .end()
        };
        Object::default().header(self.answer.header.as_ref()).list("perm", self.answer.perm.iter().map(one)).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.answer.header.as_ref());
        for perm in &self.answer.perm {
            // Two blanks: so it is in etcd, and scripts may cut there.
            page.field("PermType", format_args!(" {}", perm.perm_type().as_str_name()));
            page.quoted("Key", &perm.key);
            page.quoted("RangeEnd", &perm.range_end);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.answer.encode_to_vec())
    }
}

/// The answer to a downgrade, and what was asked: `validate`, `enable` or `cancel`.
pub(crate) struct Downgrade(pub(crate) &'static str, pub(crate) DowngradeResponse);

impl Answer for Downgrade {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Downgrade {} success, cluster version {}", self.0, self.1.version));
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.1.header.as_ref()).text("version", &self.1.version).end()
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn perm(perm_type: Type, key: &'static str, range_end: &'static str) -> Permission {
        Permission { perm_type: perm_type.into(), key: key.into(), range_end: range_end.into() }
    }

    fn simple(answer: &dyn Answer) -> String {
        let mut page = Page::default();
        page.show(Format::Simple, answer).expect("every answer has this");
        String::from_utf8(page.out).expect("text")
    }

    #[test]
    fn a_role_shows_what_it_may_read_and_what_it_may_write() {
        let perm = vec![
            perm(Type::Read, "a", "z"),
            perm(Type::Write, "foo", ""),
            perm(Type::Readwrite, "foo", "fop"),
            perm(Type::Readwrite, "k", "\0"),
        ];
        let role = Role { name: "r1".into(), answer: AuthRoleGetResponse { header: None, perm } };
        let text = "Role r1\nKV Read:\n\t[a, z)\n\t[foo, fop) (prefix foo)\n\t[k, <open ended>\nKV Write:\n\tfoo\n\t[foo, fop) \
                    (prefix foo)\n\t[k, <open ended>\n";
        assert_eq!(simple(&role), text);
        let root = Role { name: "root".into(), answer: AuthRoleGetResponse::default() };
        assert_eq!(simple(&root), "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n");
    }

    #[test]
    fn json_and_fields_are_gos() {
        let role = Role {
            name: "r1".into(),
            answer: AuthRoleGetResponse { header: None, perm: vec![perm(Type::Read, "a", "z")] },
        };
        assert_eq!(role.json(false), "{\"perm\":[{\"key\":\"YQ==\",\"range_end\":\"eg==\"}]}");
        let mut page = Page::default();
        assert!(role.fields(&mut page));
        assert!(
            String::from_utf8(page.out)
                .expect("text")
                .ends_with("\"PermType\" :  READ\n\"Key\" : \"a\"\n\"RangeEnd\" : \"z\"\n")
        );
    }
}
