//! `completion`: scripts that let a shell finish a word; `options`: the flags that every command takes.
//!
//! The scripts know nothing: they hand the words typed so far to `etcdctl __complete`, which answers with a candidate a line and, behind a tab,
//! what it does. So they stay right when commands change. Source: cobra's way of completing; the scripts are our own.

use super::args::Flag;
use super::args::HELP;
use super::args::Kind;
use super::commands;
use super::commands::Action;
use super::commands::Found;
use super::commands::GLOBAL_FLAGS;
use super::exit::Exit;
use super::exit::Outcome;
use super::help;
use super::session::Session;

/// The word behind which the scripts ask.
pub(super) const ASK: &[u8] = b"__complete";

const BASH: &str = r#"# bash completion for etcdctl

_etcdctl() {
    # Bash cuts words at ':' and '=' as well. What no blank parts is one word.
    local i line word blanks rest="$COMP_LINE" words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word="${COMP_WORDS[i]}"
        blanks="${rest%%[!$' \t']*}"
        rest="${rest#"$blanks"}"
        rest="${rest#"$word"}"
        if [[ i -gt 0 && -z "$blanks" ]]; then
            words[${#words[@]} - 1]+="$word"
        else
            words+=("$word")
        fi
    done
    # It replaces what stands behind its last cut, so the rest is cut off the candidates.
    [[ "$word" =~ ^[:=]+$ ]] && word=""
    local begun="${words[${#words[@]} - 1]}"
    local kept="${begun%"$word"}"
    COMPREPLY=()
    while IFS= read -r line; do
        line="${line%%$'\t'*}"
        COMPREPLY+=("${line#"$kept"}")
    done < <(etcdctl __complete "${words[@]:1}" 2>/dev/null)
}

complete -o default -F _etcdctl etcdctl
"#;

const ZSH: &str = r#"#compdef etcdctl
# zsh completion for etcdctl

_etcdctl() {
    local line
    local -a candidates
    while IFS= read -r line; do
        line="${line//:/\\:}"
        candidates+=("${line/$'\t'/:}")
    done < <(etcdctl __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#candidates} )); then
        _describe 'etcdctl' candidates
    else
        _files
    fi
}

if [ "$funcstack[1]" = "_etcdctl" ]; then
    _etcdctl "$@"
else
    compdef _etcdctl etcdctl
fi
"#;

const FISH: &str = r#"# fish completion for etcdctl

function __etcdctl_complete
    set -l words (commandline -opc) (commandline -ct)
    etcdctl __complete $words[2..-1] 2>/dev/null
end

function __etcdctl_knows_nothing
    not count (__etcdctl_complete) >/dev/null
end

complete -c etcdctl -f -a '(__etcdctl_complete)'
# Where etcdctl has no word to offer, a file's name may be wanted.
complete -c etcdctl -n __etcdctl_knows_nothing -F
"#;

const POWERSHELL: &str = r#"# powershell completion for etcdctl

Register-ArgumentCompleter -Native -CommandName etcdctl -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($wordToComplete -eq '') { $words += '""' }
    etcdctl __complete @words 2>$null | ForEach-Object {
        $name, $what = $_ -split "`t", 2
        if (-not $what) { $what = $name }
        [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', $what)
    }
}
"#;

/// `completion`.
pub(super) async fn completion(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::error(format!("accepts 1 arg(s), received {}", session.args.words.len())));
    }
    let shell = session.args.word(0);
    let script = match shell.as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        _ => return Err(Exit::error(format!("invalid argument \"{shell}\" for \"etcdctl completion\""))),
    };
    Ok(session.out.write_all(script.as_bytes())?)
}

/// `options`.
pub(super) async fn options(session: &mut Session<'_>) -> Outcome {
    session.line("The following options can be passed to any command:\n")?;
    Ok(session.out.write_all(help::options(GLOBAL_FLAGS).as_bytes())?)
}

/// What the last of `words` may become: a line each.
pub(super) fn candidates(words: &[Vec<u8>]) -> String {
    let (begun, before) = match words.split_last() {
        Some((last, before)) => (String::from_utf8_lossy(last).into_owned(), before),
        None => (String::new(), &[][..]),
    };
    // PowerShell cannot pass an empty word.
    let begun = if begun == "\"\"" { String::new() } else { begun };
    let Ok(found) = commands::find(before) else { return String::new() };
    if let Some(values) = before.last().and_then(|word| values(&found, &String::from_utf8_lossy(word))) {
        return lines(values.iter().map(|value| ((*value).to_owned(), String::new())), &begun);
    }
    if let Some((flag, value)) = begun.split_once('=') {
        let values = values(&found, flag).unwrap_or(&[]);
        return lines(
            values.iter().map(|value| (format!("{flag}={value}"), String::new())),
            &format!("{flag}={value}"),
        );
    }
    if begun.starts_with('-') {
        let mut flags = found.flags();
        flags.push(&HELP);
        return lines(flags.iter().map(|flag| (format!("--{}", flag.name), flag.help.to_owned())), &begun);
    }
    if found.command().is_some_and(|command| command.name == "completion") {
        return lines(["bash", "zsh", "fish", "powershell"].map(|shell| (shell.to_owned(), String::new())), &begun);
    }
    let below = match found.command().map(|command| command.action) {
        Some(Action::Help) => Found::root().children(),
        _ => found.children(),
    };
    lines(below.iter().map(|command| (command.name.to_owned(), command.short.to_owned())), &begun)
}

/// What may stand behind a flag that has few values.
fn values(found: &Found, word: &str) -> Option<&'static [&'static str]> {
    let named = |flag: &&&'static Flag| {
        word.strip_prefix("--") == Some(flag.name) || (flag.short != ' ' && word == format!("-{}", flag.short))
    };
    let flags = found.flags();
    let flag = flags.iter().find(named).filter(|flag| flag.kind != Kind::Switch)?;
    Some(match flag.name {
        "write-out" => &["fields", "json", "protobuf", "simple", "table"],
        "consistency" => &["l", "s"],
        "order" => &["ASCEND", "DESCEND"],
        "sort-by" => &["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"],
        "load" => &["small", "medium", "large", "xLarge"],
        _ => &[],
    })
}

fn lines(candidates: impl IntoIterator<Item = (String, String)>, begun: &str) -> String {
    let fitting = candidates.into_iter().filter(|(name, _)| name.starts_with(begun));
    fitting
        .map(|(name, what)| if what.is_empty() { format!("{name}\n") } else { format!("{name}\t{what}\n") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        candidates(&words).lines().map(|line| line.split('\t').next().unwrap_or(line).to_owned()).collect()
    }

    #[test]
    fn words_are_finished_as_the_table_of_commands_says() {
        assert_eq!(names("le"), ["lease"]);
        assert_eq!(names("lease "), ["grant", "keep-alive", "list", "revoke", "timetolive"]);
        assert_eq!(names("lease k"), ["keep-alive"]);
        assert_eq!(names("get --pre"), ["--prefix"]);
        assert_eq!(names("get -w j"), ["json"]);
        assert_eq!(names("get --write-out=t"), ["--write-out=table"]);
        assert_eq!(names("--endpoints a,b mem"), ["member"]);
        assert_eq!(names("help rol"), ["role"]);
        assert_eq!(names("completion z"), ["zsh"]);
        assert_eq!(names("get k"), [""; 0], "keys are not listed");
    }
}
