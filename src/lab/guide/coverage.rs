//! Whether every command of the documents ran, in one run, and came out as the page says: as it is printed, or as its stated repair.
//!
//! That a lab *has* the block is for [`Seeds::audit`] to say; here it is asked whether the block ran. A block that nobody solves with, that was
//! run with other addresses, or whose lab was left out, is told by name.

use crate::lab::guide::exceptions::Exceptions;
use crate::lab::guide::model::Lab;
use crate::lab::guide::seeds::Seed;
use crate::lab::guide::seeds::SeedKind;
use crate::lab::guide::seeds::Seeds;
use serde_json::Value;
use std::collections::BTreeMap;

/// What became of a document's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// It ran, and came out as the page says.
    Green,
    /// It cannot run here, and the list of exceptions says why.
    Excepted(String),
    /// It did not run, or not so.
    No(String),
}

/// How a block ran.
#[derive(Clone, Debug)]
struct BlockRan {
    failure: Option<String>,
    /// What ran was what is printed, to the letter.
    verbatim: bool,
}

/// What ran in one run, lab by lab.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    ran: BTreeMap<(String, String), BlockRan>,
}

impl Coverage {
    /// Takes the report of a lab, in the form that `--json` has.
    pub fn take(&mut self, report: &Value) {
        let lab = report["id"].as_str().unwrap_or_default();
        for case in report["cases"].as_array().into_iter().flatten() {
            let Some(block) = case["block"].as_str() else { continue };
            let failure = case["failure"].as_str().map(str::to_owned);
            let ran = BlockRan { failure, verbatim: case["verbatim"].as_bool().unwrap_or(false) };
            self.ran.insert((lab.to_owned(), block.to_owned()), ran);
        }
    }

    /// What became of each command. `namespaces`: this system gives them, so that no lab is excepted for want of one.
    #[must_use]
    pub fn judge<'a>(
        &self,
        seeds: &'a Seeds,
        labs: &[Lab],
        exceptions: &Exceptions,
        namespaces: bool,
    ) -> Vec<(&'a Seed, Covered)> {
        let judged = |seed: &'a Seed| {
            let lab = labs.iter().find(|lab| lab.head.id == seed.lab);
            let why = match lab {
                None => Some(format!("there is no lab {}", seed.lab)),
                Some(lab) => wanted(seed).into_iter().find_map(|form| self.missing(seed, lab, form)),
            };
            let excepted = exceptions.without_namespaces(&seed.lab).filter(|_| !namespaces);
            let covered = match (why, excepted) {
                (None, _) => Covered::Green,
                (Some(_), Some(reason)) => Covered::Excepted(reason.to_owned()),
                (Some(why), None) => Covered::No(why),
            };
            (seed, covered)
        };
        seeds.seed.iter().map(judged).collect()
    }

    /// Why one form of a command did not run as it should.
    fn missing(&self, seed: &Seed, lab: &Lab, form: Form) -> Option<String> {
        let (text, word) = match form {
            Form::Printed => (&seed.text, "as printed"),
            Form::Repaired => (seed.repair.as_ref()?, "as repaired"),
        };
        let claims = |run: &&crate::lab::guide::model::Run| {
            let claimed = if form == Form::Printed { &run.seed } else { &run.repairs };
            claimed.as_deref() == Some(&seed.id) && run.command == *text
        };
        let ran = lab.runs().filter(claims).map(|run| (run, self.ran.get(&(seed.lab.clone(), run.id.clone()))));
        let mut why = format!("no block of {} has it {word}", seed.lab);
        for (run, ran) in ran {
            why = match ran {
                None => format!("block `{}` did not run", run.id),
                Some(BlockRan { failure: Some(failure), .. }) => format!("block `{}` {word}: {failure}", run.id),
                Some(BlockRan { verbatim: false, .. }) => {
                    format!("block `{}` ran with other addresses than those that are printed", run.id)
                }
                Some(_) => return None,
            };
        }
        Some(why)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Printed,
    Repaired,
}

/// In which forms a command must have run: one with gaps cannot run as it is printed; one that has a repair must also be repaired.
fn wanted(seed: &Seed) -> Vec<Form> {
    match (seed.kind, &seed.repair) {
        (SeedKind::Template, _) => vec![Form::Repaired],
        (_, Some(_)) => vec![Form::Printed, Form::Repaired],
        (_, None) => vec![Form::Printed],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;

    const LAB: &str = "# T\n<!--lab lab id = \"B3\" -->\n<!--lab run id = \"a\"; expect_exit = 1; seed = \"1\" -->\n```bash\nfirst\n```\n\
        <!--lab run id = \"b\"; repairs = \"1\" -->\n```bash\nmended\n```\n";

    fn judged(list: &str, cases: Value, exceptions: &str, namespaces: bool) -> Vec<Covered> {
        let seeds: Seeds = toml::from_str(list).expect("a list");
        let lab = crate::lab::guide::parse(Path::new("lab.md"), LAB).expect("a lab");
        let exceptions: Exceptions = toml::from_str(exceptions).expect("a list");
        let mut coverage = Coverage::default();
        coverage.take(&json!({ "id": "B3", "cases": cases }));
        let judged = coverage.judge(&seeds, &[lab], &exceptions, namespaces);
        judged.into_iter().map(|(_, covered)| covered).collect()
    }

    const LIST: &str = "[[seed]]\nid = '1'\nlab = 'B3'\ntext = 'first'\nkind = 'fails'\nrepair = 'mended'\n";
    const NONE: &str = "";

    fn no(covered: &[Covered], words: &str) {
        assert!(matches!(covered, [Covered::No(why)] if why.contains(words)), "{words}: {covered:?}");
    }

    #[test]
    fn a_command_counts_when_all_its_forms_ran_as_printed_and_only_then() {
        let a = json!({ "block": "a", "failure": null, "verbatim": true });
        let b = json!({ "block": "b", "failure": null, "verbatim": true });
        let judge = |cases| judged(LIST, cases, NONE, true);
        assert_eq!(judge(json!([a, b])), [Covered::Green]);
        no(&judge(json!([a])), "block `b` did not run");
        no(&judge(json!([])), "block `a` did not run");
        no(&judge(json!([a, { "block": "b", "failure": "exit code 1", "verbatim": true }])), "exit code 1");
        no(&judge(json!([{ "block": "a", "failure": null, "verbatim": false }, b])), "other addresses");
        let other = LIST.replace("'first'", "'first  '");
        no(&judged(&other, json!([a, b]), NONE, true), "no block of B3 has it as printed");
        let other = LIST.replace("'B3'", "'Z9'");
        no(&judged(&other, json!([a, b]), NONE, true), "there is no lab Z9");
    }

    #[test]
    fn an_exception_holds_only_where_it_is_meant() {
        let list = "[[exception]]\nlabs = ['B3']\nwhere = 'no-namespaces'\nreason = 'machines'\n";
        let covered = judged(LIST, json!([]), list, false);
        assert_eq!(covered, [Covered::Excepted("machines".into())]);
        no(&judged(LIST, json!([]), list, true), "did not run");
        no(&judged(LIST, json!([]), NONE, false), "did not run");
        let etcd = "[[exception]]\nlabs = ['E4']\nwhere = 'etcd'\netcd = '3.5.1'\nreason = 'r'\n";
        let etcd: Exceptions = toml::from_str(etcd).expect("a list");
        assert_eq!((etcd.on_etcd("E4", "3.5.1"), etcd.on_etcd("E4", "3.5.10")), (Some("r"), None));
    }
}
