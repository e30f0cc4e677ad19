//! The author's guide: every block, setting and fact that a lab file may hold, made from the code that reads them.
//!
//! [`BLOCKS`] is the one list that says it in words. A test asks each reader of settings which names it knows, and holds the
//! list to that: a setting that is new and not here fails, and so does one that is here and gone.

use crate::lab::guide::expr::FACTS;
use std::fmt::Write as _;

/// What is said of one kind of block: its name, what it is, and its settings with their meanings. `*` marks those that must be
/// there.
type BlockWords = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const CHECK: &[(&str, &str)] = &[
    ("id*", "unique among the checks of the lab"),
    ("title*", "what is checked, in a few words for the learner"),
    ("want*", "when it is true: an expression over the facts below"),
    ("within", "how long it may take to become true after the last action; 5s if it does not say"),
    (
        "cause",
        "a list of { when = expression, say = sentence }: why it may not be true yet; the first that fits is told",
    ),
    ("spoil", "a command after which it must no longer be true; without it the gate finds a mutation by itself"),
];

const PREDICT: &[(&str, &str)] = &[
    ("id*", "unique among the guesses of the lab"),
    ("ask*", "the question"),
    ("options*", "what can be guessed"),
    ("answer*", "the right one of them, as it stands there"),
    ("why*", "why it is right: shown after the guess, which is locked by then"),
];

const WRONG: &[(&str, &str)] = &[
    ("id*", "unique among the wrong paths of the lab"),
    ("do", "what the learner types; `on NODE '…'` types it at a node"),
    ("answer", "a table: what the learner answers to which question"),
    ("fails*", "the check of this step that must say *not yet*"),
    ("cause*", "which of its causes it must name, from 1"),
];

/// See [`BlockWords`].
const BLOCKS: &[BlockWords] = &[
    (
        "lab",
        "the head of a lab, right below its title; a file without steps is a lesson and needs none",
        &[
            ("id*", "its short name, such as `B3`"),
            ("version", "grows when answers or checks change their meaning"),
            ("kind", "`guided`, `predict`, `break-fix`, `build`, `game-day`, `quiz` or `lesson`"),
            ("minutes", "how long it takes a learner: an estimate"),
            (
                "engines",
                "`real`: processes; `sim`: simulated members, too, where systemctl starts, stops and signals etcd and etcdctl reads, writes and watches; `etcd` alone: members of the etcd project's own program, which somebody has to bring; none: `real`",
            ),
            ("network", "the profiles that it runs with: `netns`, `loop`, `ports`, `vm`; empty: all"),
            ("seeds", "the documents' commands that it covers"),
            ("sections", "the sections of document 003 that it covers"),
            ("needs", "labs to do before"),
            (
                "cluster",
                "a table: `nodes` (1, 3 or 5, or a list of { name, ip }), `spare` (nodes that are no members yet), `running = false` (the members are down when it begins), `machines = true` (each node has a network and a root of its own; only with `netns`, and with `running = false`)",
            ),
        ],
    ),
    (
        "step",
        "a task, right below its `## heading`",
        &[
            ("id*", "unique among the steps of the lab"),
            ("minutes", "how long it takes: an estimate"),
            ("worked", "why it worked: told when all its checks pass"),
            ("check", "a list, `[[check]]`: see below"),
            ("predict", "a list, `[[predict]]`: see below"),
            ("wrong", "a list, `[[wrong]]`: see below"),
        ],
    ),
    ("[[check]]", "what must be true when a step is done", CHECK),
    ("predict", "a guess before the run; also as `[[predict]]` in a step", PREDICT),
    (
        "quiz",
        "a question at the end of a lab, answered once and kept by its id; what stands in it is as in `predict`",
        PREDICT,
    ),
    ("wrong", "a way that leads astray, which the gate goes; also as `[[wrong]]` in a step", WRONG),
    (
        "run",
        "the fenced block right below it can be run",
        &[
            ("id*", "unique among the run blocks of the lab"),
            ("on", "at which nodes, one after the other; none: at the learner's desk, with all members"),
            ("expect_exit", "the exit code that belongs to it; 0 if it does not say"),
            ("timeout", "when it is ended by force; 20s if it does not say"),
            ("background", "it stays, as a unit of this name: `systemctl stop` ends it"),
            ("seed", "the document's command that it equals byte for byte"),
            ("repairs", "the document's command whose repair it is"),
        ],
    ),
    (
        "expect",
        "right below a run's block: the fenced block below it is what comes out. A line `...` is any lines, `[..]` any text in a line",
        &[
            (
                "vars",
                "a table: `[NAME]` in the block stands for this pattern, and for the same text wherever it returns",
            ),
            ("exact", "nothing is normalised: ids, ports and times must be equal, too"),
        ],
    ),
    (
        "edit",
        "the fenced block below it is the wanted content of a file. Shown; the learner writes it",
        &[("path*", "where it goes"), ("mode", "as in `chmod`"), ("owner", "whose it is")],
    ),
    (
        "ask",
        "a question to the learner",
        &[
            ("id*", "unique among the questions; checks call it `answer('id')`"),
            ("type", "`text`, `choice` or `order`; text if it does not say"),
            ("label*", "the question"),
            ("options", "what can be chosen, or put in order; none for a text"),
        ],
    ),
    (
        "solve",
        "inside of `<details class=\"solution\">`: where the solution's answers come from",
        &[("answer", "a table: question = \"captured('run', row = 'text' or 2, column = 1)\" or \"'text'\"")],
    ),
    ("notes", "for the teacher only; any text", &[]),
    ("page", "in the book: this page is the lab of that folder", &[("dir*", "such as `labs/B3-first-keys`")]),
];

/// The whole guide, as Markdown.
#[must_use]
pub fn guide() -> String {
    let mut out = String::from(
        "# What a lab file may hold\n\nMade by `etcd-lab author` from the code that reads the files.\n\nA lab is `labs/NAME/lab.md`: plain Markdown. \
         What machines need stands in comments, `<!--lab KIND … -->`, as TOML; on one line `;` separates settings. A check answers *pass*, \
         *not yet* (with what it got, and the cause) or *error*. `etcd-lab test labs/NAME` proves that the lab is true.\n\n\
         Folds: `<details class=\"hint\" data-level=\"1\">` to 3, and `<details class=\"solution\">`. \
         A fenced block ```` ```console ```` is commands (`$ `) with what they print; \
         ```` ```console,ours ```` is not run on another etcd.\n\n## Blocks\n",
    );
    for (kind, what, settings) in BLOCKS {
        let _ = writeln!(out, "\n### `{kind}`\n\n{}.\n", capital(what));
        if !settings.is_empty() {
            out += "| setting | meaning |\n|---|---|\n";
        }
        for (name, meaning) in *settings {
            let must = if name.ends_with('*') { " (must be there)" } else { "" };
            let _ = writeln!(out, "| `{}`{must} | {meaning} |", name.trim_end_matches('*'));
        }
    }
    out += "\n## Facts\n\nAn expression compares them: `==` `!=` `<` `>` `has` `matches`, with `and`, `or`, `not` and parentheses. \
            What is not there is neither equal nor unequal: only *true* passes.\n\n| fact | type | what it is |\n|---|---|---|\n";
    for (form, kind, what) in FACTS {
        let _ = writeln!(out, "| `{form}` | {kind} | {what} |");
    }
    out
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::settings;
    use crate::lab::guide::settings::KINDS;
    use serde::de::DeserializeOwned;
    use std::collections::BTreeSet;

    /// The names that a reader of settings knows: it lists them when it meets one that it does not.
    fn known<T: DeserializeOwned>() -> BTreeSet<String> {
        let Err((_, what)) = settings::read::<T>("no-such-setting = 1") else { panic!("it takes anything") };
        let (_, list) = what.split_once("expected ").unwrap_or_else(|| panic!("{what}"));
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_guide_says_what_the_code_reads_and_nothing_else() {
        let readers = [
            ("lab", known::<settings::Head>()),
            ("step", known::<settings::StepSettings>()),
            ("[[check]]", known::<settings::CheckSettings>()),
            ("predict", known::<settings::PredictSettings>()),
            ("quiz", known::<settings::PredictSettings>()),
            ("wrong", known::<settings::WrongSettings>()),
            ("run", known::<settings::RunSettings>()),
            ("expect", known::<settings::ExpectSettings>()),
            ("edit", known::<settings::EditSettings>()),
            ("ask", known::<settings::AskSettings>()),
            ("solve", known::<settings::SolveSettings>()),
            ("page", known::<settings::PageSettings>()),
        ];
        for (kind, names) in readers {
            let (.., words) = BLOCKS.iter().find(|(k, ..)| *k == kind).unwrap_or_else(|| panic!("no words for {kind}"));
            let said: BTreeSet<String> = words.iter().map(|(n, _)| n.trim_end_matches('*').to_owned()).collect();
            assert_eq!(said, names, "{kind}");
        }
        let kinds: BTreeSet<&str> = KINDS.split(", ").collect();
        let said: BTreeSet<&str> = BLOCKS.iter().map(|(k, ..)| *k).filter(|k| !k.starts_with('[')).collect();
        assert_eq!(said, kinds);
    }

    /// The guide in the book is the one that the program prints.
    #[test]
    fn the_guide_on_paper_is_the_one_of_the_code() {
        let paper = include_str!("../../../labs/AUTHORS.md");
        assert!(paper == guide(), "labs/AUTHORS.md is out of date: etcd-lab author > labs/AUTHORS.md");
    }
}
