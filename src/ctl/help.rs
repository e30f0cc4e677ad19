//! Help, in the layout of etcdctl 3.6: sections, two blanks of indent, columns filled with tabs.
//!
//! Source: etcd `pkg/cobrautl/help.go`. The sentences are our own.

use super::args::Flag;
use super::args::HELP;
use super::args::Kind;
use super::commands::Action;
use super::commands::Command;
use super::commands::Found;
use super::commands::GLOBAL_FLAGS;
use crate::types::ETCD_VERSION;
use unicode_width::UnicodeWidthStr;

/// The API that etcdctl speaks.
pub(super) const API_VERSION: &str = "3.6";

/// Columns begin at multiples of this.
const TAB: usize = 8;

/// The help of what was found.
pub(super) fn usage(found: &Found) -> String {
    let path = found.path();
    let name = path.strip_prefix("etcdctl ").unwrap_or(&path);
    let (short, args, long) = match found.command() {
        Some(command) => (command.short, command.usage, command.long),
        None => ("A command-line client of etcd.", "", ""),
    };
    let line = [path.as_str(), args, "[flags]"].into_iter().filter(|part| !part.is_empty());
    let mut text = format!("NAME:\n  {name} - {short}\n\nUSAGE:\n  {}\n", line.collect::<Vec<_>>().join(" "));
    if found.command().is_none() {
        text += &format!("\nVERSION:\n  {ETCD_VERSION}\n");
    }
    if !found.children().is_empty() {
        text += &format!("\nAPI VERSION:\n  {API_VERSION}\n\n\nCOMMANDS:\n{}", columns(&leaves("", found.children())));
    }
    if !long.is_empty() {
        text += &format!("\nDESCRIPTION:\n  {}\n", long.replace('\n', "\n  "));
    }
    let own: &[Flag] = found.command().map_or(GLOBAL_FLAGS, |command| command.flags);
    let mut own: Vec<&Flag> = own.iter().chain([&HELP]).collect();
    own.sort_by_key(|flag| flag.name);
    text += &format!("\nOPTIONS:\n{}", options(own));
    if found.command().is_some() {
        text += &format!("\nGLOBAL OPTIONS:\n{}", options(GLOBAL_FLAGS));
    }
    text + "\n"
}

/// The commands that do something, with the names of their groups.
fn leaves(prefix: &str, commands: &[Command]) -> Vec<(String, String)> {
    let one = |command: &Command| match command.action {
        Action::Group(commands) => leaves(&format!("{prefix}{} ", command.name), commands),
        Action::Run(_) | Action::Help => vec![(format!("  {prefix}{}", command.name), command.short.to_owned())],
    };
    commands.iter().flat_map(one).collect()
}

/// A line for each flag.
pub(super) fn options(flags: impl IntoIterator<Item = &'static Flag>) -> String {
    columns(&flags.into_iter().map(option).collect::<Vec<_>>())
}

fn option(flag: &Flag) -> (String, String) {
    let short = match flag.short {
        ' ' => "      ".to_owned(),
        short => format!("  -{short}, "),
    };
    let default = match flag.kind {
        Kind::Switch => format!("[={}]", flag.default),
        Kind::Text => format!("=\"{}\"", flag.default),
        Kind::Number | Kind::Time | Kind::List => format!("={}", flag.default),
    };
    (format!("{short}--{}{default}", flag.name), flag.help.to_owned())
}

/// Two columns, the first filled up with tabs.
fn columns(rows: &[(String, String)]) -> String {
    let widest = rows.iter().map(|(left, _)| left.width()).max().unwrap_or(0);
    let column = (widest + 1).div_ceil(TAB);
    let line = |(left, right): &(String, String)| {
        let tabs = column - left.width() / TAB;
        format!("{left}{}{right}\n", "\t".repeat(tabs))
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    #[test]
    fn a_commands_help_has_its_flags_and_the_global_ones() {
        let text = usage(&commands::find(&[b"get".to_vec()]).expect("get is a command"));
        assert!(text.starts_with("NAME:\n  get - "), "{text}");
        assert!(text.contains("\nUSAGE:\n  etcdctl get [options] <key> [range_end] [flags]\n\nOPTIONS:\n"), "{text}");
        assert!(text.contains("\n  -w, --write-out=\"simple\"\t\t"), "{text}");
        assert!(text.contains("\n      --count-only[=false]\t\tonly count\n"), "{text}");
    }

    #[test]
    fn the_programs_help_lists_what_each_group_holds() {
        let text = usage(&Found::root());
        assert!(text.contains("\n  lease keep-alive\t") && text.contains("\n  user grant-role\t"), "{text}");
        assert!(!text.contains("\n  lease\t"), "{text}");
    }
}
