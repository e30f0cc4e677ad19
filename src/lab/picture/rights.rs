//! Users and roles, as a member has told of them.

use super::Picture;
use super::words::range_words;
use crate::proto::lab::Permission;
use crate::proto::lab::Rights;
use serde_json::Value;
use serde_json::json;

impl Picture {
    /// As the member that has applied most tells.
    fn rights(&self) -> Option<&Rights> {
        let looks = self.members.iter().filter_map(|m| m.look.as_ref());
        looks.max_by_key(|look| look.revision).and_then(|look| look.rights.as_ref())
    }

    /// Who may do what, in lines.
    #[must_use]
    pub fn rights_lines(&self) -> Vec<String> {
        let Some(rights) = self.rights() else { return vec!["No member has told.".into()] };
        let on = match rights.enabled {
            true => "Authentication is on: who asks must say who it is (etcdctl --user NAME).",
            false => "Authentication is off: everybody may do everything. It begins with: etcdctl auth enable",
        };
        let mut lines = vec![on.to_owned(), String::new()];
        if rights.users.is_empty() {
            lines.push("There are no users. One is made with: etcdctl user add NAME".into());
        }
        for user in &rights.users {
            let roles = if user.roles.is_empty() { "no role".to_owned() } else { user.roles.join(", ") };
            lines.push(format!("user {}: {}", user.name.escape_debug(), roles.escape_debug()));
        }
        for role in &rights.roles {
            lines.push(format!("role {}", role.name.escape_debug()));
            lines.extend(role.permissions.iter().map(|p| format!("  may {}", words(p))));
            if role.permissions.is_empty() {
                lines.push("  may do nothing yet".into());
            }
        }
        lines
    }

    /// The same as an object.
    pub(super) fn rights_json(&self) -> Value {
        let Some(rights) = self.rights() else { return Value::Null };
        let users = rights.users.iter().map(|u| json!({ "name": u.name, "roles": u.roles }));
        let role = |r: &crate::proto::lab::RoleView| json!({ "name": r.name, "may": r.permissions.iter().map(words).collect::<Vec<_>>() });
        json!({
            "enabled": rights.enabled,
            "users": users.collect::<Vec<_>>(),
            "roles": rights.roles.iter().map(role).collect::<Vec<_>>(),
        })
    }
}

fn words(p: &Permission) -> String {
    let what = match (p.read, p.write) {
        (true, true) => "read and write",
        (true, false) => "read",
        _ => "write",
    };
    format!("{what} {}", range_words(&p.key, &p.range_end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::Report;
    use crate::lab::workdir::Record;
    use crate::proto::lab::LookResponse;
    use crate::proto::lab::RoleView;
    use crate::proto::lab::UserView;

    #[test]
    fn rights_are_told_in_words_and_never_made_up() {
        let mut picture = Picture::new(&Record::sample(1));
        assert_eq!(picture.rights_lines(), ["No member has told."]);
        let may = |read, write, key: &'static str, end: &'static [u8]| Permission {
            read,
            write,
            key: key.into(),
            range_end: end.into(),
        };
        let rights = Rights {
            enabled: true,
            users: vec![UserView { name: "alice".into(), roles: vec!["app".into()] }],
            roles: vec![
                RoleView {
                    name: "app".into(),
                    permissions: vec![may(true, false, "/app/", b"/app0"), may(true, true, "x", b"")],
                },
                RoleView { name: "root".into(), permissions: vec![may(true, true, "", b"\0")] },
            ],
        };
        let look = LookResponse { rights: Some(rights), ..LookResponse::default() };
        picture.learn(Report::Looked { member: 0, look: Box::new(look) });
        let lines = picture.rights_lines();
        let expected = [
            "user alice: app",
            "role app",
            "  may read /app/…",
            "  may read and write x",
            "role root",
            "  may read and write all keys",
        ];
        assert_eq!(lines[2..], expected);
        assert_eq!(picture.rights_json()["roles"][0]["may"][0], "read /app/…");
    }
}
