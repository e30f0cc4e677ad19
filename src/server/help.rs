//! What `--help` prints: the flags under the headings that etcd has for them.
//!
//! Headings and the place of each flag are etcd 3.6's, so that who knows one help finds his way in the other; sentences are ours. Under each flag it says
//! what it does *here*. Source: etcd `server/etcdmain/help.go`.

use super::flags::FLAGS;
use super::flags::Group;
use super::flags::Standing;

/// How to call the program: printed by `--help` and after a mistake on the command line.
pub(super) const USAGE: &str = "\
Usage:

  etcd [flags]
    Start a member.

  etcd --version
    Show the version.

  etcd -h | --help
    Show all flags.

  etcd --config-file FILE
    Start a member as a YAML file says; all other flags and variables are ignored then.

  etcd gateway start --endpoints HOST:PORT,...
    Pass connections on to members.

  etcd grpc-proxy
    Not part of this release; says what to do instead.

Each flag can be given as an environment variable instead: --listen-client-urls is ETCD_LISTEN_CLIENT_URLS.
";

/// All of it.
pub(super) fn help() -> String {
    let mut out = String::from(USAGE);
    for (group, heading) in Group::ALL {
        out.push_str(&format!("\n{heading}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
            out.push_str(&format!("  --{} '{}'\n", flag.name, flag.default));
            let text = match flag.standing {
                Standing::Works => flag.help.to_owned(),
                Standing::Renamed(new) => format!("Now --{new}."),
                Standing::NoEffect(why) => format!("{} Accepted without effect: {why}.", flag.help),
                Standing::Refused(why) => format!("{} Refused: {why}.", flag.help),
                Standing::Ignored => "Ignored.".to_owned(),
            };
            out.push_str(&format!("    {}\n", text.trim_start()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// etcd's headings, each with its flags in order.
    const ETCDS: &str = include_str!("help.txt");

    /// The flags that stand under a heading.
    fn under(help: &str, heading: &str) -> Vec<String> {
        let lines = help.lines().skip_while(|line| *line != format!("{heading}:")).skip(1);
        let lines = lines.take_while(|line| line.is_empty() || line.starts_with(' '));
        lines.filter_map(|line| Some(line.strip_prefix("  --")?.split(' ').next()?.to_owned())).collect()
    }

    #[test]
    fn every_flag_stands_where_etcds_help_has_it() {
        let help = help();
        let headings: Vec<&str> = ETCDS.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!(headings.len(), 10, "{headings:?}");
        let places: Vec<usize> =
            headings.iter().map(|heading| help.find(&format!("\n{heading}:\n")).expect(heading)).collect();
        assert!(places.is_sorted(), "the headings come in etcd's order: {headings:?}");
        for line in ETCDS.lines() {
            let (heading, names) = line.split_once(':').expect("a heading");
            let theirs: Vec<&str> = names.split_whitespace().collect();
            let mut ours = under(&help, heading);
            ours.retain(|name| theirs.contains(&name.as_str()));
            assert_eq!(ours, theirs, "under {heading:?}");
        }
    }

    #[test]
    fn help_says_which_flags_do_nothing() {
        let help = help();
        assert!(help.contains("--name 'default'\n    Name of this member, for people.\n"));
        assert!(help.contains("Accepted without effect: what is acknowledged is always synced."));
        assert!(help.contains("Refused: the v2 discovery service is gone"));
        for flag in FLAGS {
            assert!(help.contains(&format!("\n  --{} '", flag.name)), "{}", flag.name);
        }
    }
}
