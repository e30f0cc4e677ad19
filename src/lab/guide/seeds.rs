//! The commands of the documents that the labs teach, byte for byte, and which lab runs them.
//!
//! A run block counts for a seed command only if it equals it, or its stated repair. So nobody can tidy a document's mistake
//! away without a test noticing: the mistakes are the lesson.

use crate::lab::guide::LabError;
use crate::lab::guide::model::Lab;
use serde::Deserialize;
use std::path::Path;

/// `labs/seeds.toml`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seeds {
    /// The commands, in the order of their documents.
    #[serde(default)]
    pub seed: Vec<Seed>,
}

/// One command of a document.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Document and place in it, such as `001#9`.
    pub id: String,
    /// The lab that runs it.
    pub lab: String,
    /// The command as it is printed.
    pub text: String,
    /// What becomes of it today.
    pub kind: SeedKind,
    /// What the lab runs in its place, if it needs repair.
    pub repair: Option<String>,
    /// Why it needs repair.
    pub why: Option<String>,
}

/// What becomes of a document's command today.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedKind {
    /// It runs as printed, and succeeds.
    Runs,
    /// It runs as printed, and fails as the real tool does. Its repair is the exercise.
    Fails,
    /// It has gaps, such as `<member-id>`: its repair is it with the gaps filled.
    Template,
}

impl Seeds {
    /// Reads the list.
    ///
    /// # Errors
    /// It cannot be read, or says what it cannot say.
    pub fn load(file: &Path) -> Result<Seeds, LabError> {
        let text = std::fs::read_to_string(file).map_err(|e| LabError::new(file, 0, format!("cannot be read: {e}")))?;
        toml::from_str(&text).map_err(|e| {
            let offset = e.span().map_or(0, |s| s.start).min(text.len());
            let line = 1 + text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count();
            LabError::new(file, line, e.message().replace('\n', "; "))
        })
    }

    /// What a lab owes this list: each claim with why it does not hold, if so.
    #[must_use]
    pub fn audit(&self, lab: &Lab) -> Vec<(String, Option<String>)> {
        let mut claims = Vec::new();
        for seed in self.seed.iter().filter(|s| s.lab == lab.head.id) {
            let printed = lab.runs().find(|r| r.seed.as_deref() == Some(&seed.id));
            if seed.kind == SeedKind::Template {
                let repaired = lab
                    .runs()
                    .any(|r| r.repairs.as_deref() == Some(&seed.id) && Some(&r.command) == seed.repair.as_ref());
                let failure =
                    (!repaired).then(|| format!("no run block says repairs = \"{}\" and equals its repair", seed.id));
                claims.push((format!("{} is filled in: {}", seed.id, seed.text), failure));
                continue;
            }
            let failure = match printed {
                None => Some(format!("no run block says seed = \"{}\"", seed.id)),
                Some(run) if run.command != seed.text => Some(format!("block `{}` runs `{}`", run.id, run.command)),
                Some(run) if (seed.kind == SeedKind::Fails) != (run.exit != 0) => {
                    Some(format!("block `{}` expects exit code {}", run.id, run.exit))
                }
                Some(_) => None,
            };
            claims.push((format!("{} runs as printed: {}", seed.id, seed.text), failure));
            if let Some(repair) = &seed.repair {
                let repaired = lab.runs().any(|r| r.repairs.as_deref() == Some(&seed.id) && r.command == *repair);
                let failure = (!repaired).then(|| format!("no run block says repairs = \"{}\" and equals it", seed.id));
                claims.push((format!("{} is repaired: {repair}", seed.id), failure));
            }
        }
        for run in lab.runs() {
            for id in run.seed.iter().chain(&run.repairs) {
                if !self.seed.iter().any(|s| s.id == *id && s.lab == lab.head.id) {
                    let failure = Some(format!("the list has no seed `{id}` for lab {}", lab.head.id));
                    claims.push((format!("block `{}` claims seed {id}", run.id), failure));
                }
            }
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "[[seed]]\nid = '001#9'\nlab = 'B3'\ntext = 'etcdctl set key value1'\nkind = 'fails'\nrepair = 'etcdctl put key value1'\n";

    fn audit(command: &str) -> Vec<Option<String>> {
        let seeds: Seeds = toml::from_str(LIST).expect("the list is right");
        let text = format!(
            "# T\n<!--lab lab id = \"B3\" -->\n<!--lab run id = \"a\"; expect_exit = 1; seed = \"001#9\" -->\n```bash\n{command}\n```\n\
             <!--lab run id = \"b\"; repairs = \"001#9\" -->\n```bash\netcdctl put key value1\n```\n"
        );
        let lab = crate::lab::guide::parse(Path::new("lab.md"), &text).expect("the lab is right");
        seeds.audit(&lab).into_iter().map(|(_, failure)| failure).collect()
    }

    #[test]
    fn a_seed_counts_only_byte_for_byte() {
        assert_eq!(audit("etcdctl set key value1"), [None, None]);
        assert_eq!(audit("etcdctl set key  value1")[0].as_deref(), Some("block `a` runs `etcdctl set key  value1`"));
    }
}
