//! `--feature-gates`: switches of features that are not yet, or no longer, a matter of course.
//!
//! Some of them have an older flag of their own; saying both is refused. A gate that changes nothing here is known all the same, so that a
//! configuration for etcd starts this server, and says so.
//!
//! Source: etcd `server/features/etcd_features.go`, `pkg/featuregate/feature_gate.go`, `server/embed/config.go`; contract-server 11.2, 11.6.

use super::settings::Notice;
use super::settings::Settings;
use crate::golang;
use std::collections::BTreeMap;

/// One gate.
struct Gate {
    name: &'static str,
    /// Alpha gates are off by default, beta gates on.
    is_alpha: bool,
    /// The flag that did the same before there were gates.
    flag: Option<&'static str>,
    works: bool,
}

const fn gate(name: &'static str, is_alpha: bool, flag: Option<&'static str>, works: bool) -> Gate {
    Gate { name, is_alpha, flag, works }
}

const GATES: &[Gate] = &[
    gate("CompactHashCheck", true, Some("experimental-compact-hash-check-enabled"), true),
    gate("FastLeaseKeepAlive", false, None, false),
    gate("InitialCorruptCheck", true, Some("experimental-initial-corrupt-check"), true),
    gate("LeaseCheckpoint", true, Some("experimental-enable-lease-checkpoint"), true),
    gate("LeaseCheckpointPersist", true, Some("experimental-enable-lease-checkpoint-persist"), true),
    gate("PriorityRequest", true, None, false),
    gate("SetMemberLocalAddr", true, None, false),
    gate("StopGRPCServiceOnDefrag", true, Some("experimental-stop-grpc-service-on-defrag"), true),
    gate("TxnModeWriteWithSharedBuffer", false, Some("experimental-txn-mode-write-with-shared-buffer"), false),
];

/// Which gates a text opens and closes; those it does not name are not in it.
///
/// # Errors
/// The end of Go's sentence `invalid value "x" for flag -feature-gates: …`.
pub(super) fn parse(text: &str) -> Result<BTreeMap<&'static str, bool>, String> {
    let mut said = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, value) = item.split_once('=').ok_or_else(|| format!("missing bool value for {item}"))?;
        let (name, value) = (name.trim(), value.trim());
        let open = golang::parse_bool(value).map_err(|_| {
            let quoted = golang::quote(value.as_bytes());
            format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {quoted}: invalid syntax")
        })?;
        match name {
            "AllAlpha" => said.extend(GATES.iter().filter(|gate| gate.is_alpha).map(|gate| (gate.name, open))),
            "AllBeta" => said.extend(GATES.iter().filter(|gate| !gate.is_alpha).map(|gate| (gate.name, open))),
            name => {
                let known = GATES.iter().find(|gate| gate.name == name);
                said.insert(known.ok_or_else(|| format!("unrecognized feature gate: {name}"))?.name, open);
            }
        }
    }
    Ok(said)
}

/// Each gate that does something here, with its stage and whether it is open: a metric.
pub(super) fn states(settings: &Settings) -> Vec<(&'static str, &'static str, bool)> {
    let stage = |gate: &Gate| if gate.is_alpha { "ALPHA" } else { "BETA" };
    let works = GATES.iter().filter(|gate| gate.works);
    works.map(|gate| (gate.name, stage(gate), is_open(settings, gate.name))).collect()
}

/// Whether a gate is open, by its name or by its older flag.
pub(super) fn is_open(settings: &Settings, name: &str) -> bool {
    let gate = GATES.iter().find(|gate| gate.name == name).expect("a gate of the table");
    let said = parse(settings.text("feature-gates")).expect("checked when set");
    let by_flag = || gate.flag.map(|flag| settings.is(flag));
    said.get(name).copied().or_else(by_flag).unwrap_or(!gate.is_alpha)
}

/// What is wrong with the gates; nothing if all is well. Says which of them have no effect.
pub(super) fn problem(settings: &Settings, notices: &mut Vec<Notice>) -> Option<String> {
    let text = settings.text("feature-gates");
    let said = parse(text).expect("checked when set");
    for gate in GATES {
        let by_name = text.split(',').map(str::trim).find(|item| item.split('=').next() == Some(gate.name));
        if let (Some(flag), Some(item)) = (gate.flag.filter(|flag| settings.was_set(flag)), by_name) {
            let value = settings.text(flag);
            return Some(format!(
                "cannot specify both flags: --{flag}={value} and --feature-gates={item} at the same time, please just use \
                 --feature-gates={item}"
            ));
        }
        if !gate.works && said.get(gate.name).is_some_and(|open| *open == gate.is_alpha) {
            notices.push(Notice::warn(format!("feature gate {} has no effect: not part of this release", gate.name)));
        }
    }
    let (checkpoint, persist) = (is_open(settings, "LeaseCheckpoint"), is_open(settings, "LeaseCheckpointPersist"));
    if persist && !checkpoint {
        return Some(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into(),
        );
    }
    if checkpoint && !persist {
        notices.push(Notice::warn(
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate LeaseCheckpointPersist",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::settings::Words;
    use super::*;

    fn settings(text: &str) -> Settings {
        match Settings::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()) {
            Ok(Words::Run(settings)) => settings,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn mistakes_are_told_in_etcds_words() {
        for (text, why) in [
            ("LeaseCheckpoint", "missing bool value for LeaseCheckpoint"),
            ("Bogus=true", "unrecognized feature gate: Bogus"),
            (
                "LeaseCheckpoint=maybe",
                "invalid value of LeaseCheckpoint=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax",
            ),
        ] {
            assert_eq!(parse(text), Err(why.into()));
        }
        assert_eq!(parse(" LeaseCheckpoint = true ,"), Ok(BTreeMap::from([("LeaseCheckpoint", true)])));
    }

    #[test]
    fn a_gate_is_opened_by_its_name_its_group_or_its_older_flag() {
        let open = |text: &str| is_open(&settings(text), "LeaseCheckpoint");
        assert!(!open(""));
        assert!(open("--feature-gates=LeaseCheckpoint=true"));
        assert!(open("--feature-gates=AllAlpha=true"));
        assert!(!open("--feature-gates=AllAlpha=true,LeaseCheckpoint=false"));
        assert!(open("--experimental-enable-lease-checkpoint"));
        assert!(is_open(&settings(""), "TxnModeWriteWithSharedBuffer"), "beta gates are open");
    }

    #[test]
    fn gates_that_contradict_each_other_or_their_flags_are_refused() {
        let problem = |text: &str| problem(&settings(text), &mut Vec::new());
        assert_eq!(problem("--feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true"), None);
        let alone = "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint";
        assert_eq!(problem("--experimental-enable-lease-checkpoint-persist").as_deref(), Some(alone));
        let both = "cannot specify both flags: --experimental-enable-lease-checkpoint=false and \
            --feature-gates=LeaseCheckpoint=true at the same time, please just use --feature-gates=LeaseCheckpoint=true";
        let words = "--experimental-enable-lease-checkpoint=false --feature-gates=LeaseCheckpoint=true";
        assert_eq!(problem(words).as_deref(), Some(both));
    }

    #[test]
    fn a_gate_without_effect_says_so() {
        let mut notices = Vec::new();
        assert_eq!(problem(&settings("--feature-gates=SetMemberLocalAddr=true"), &mut notices), None);
        assert_eq!(notices.len(), 1);
        assert!(notices[0].message.starts_with("feature gate SetMemberLocalAddr has no effect"));
        assert_eq!(problem(&settings("--experimental-enable-lease-checkpoint"), &mut notices), None);
        assert!(notices[1].message.contains("without persistence"));
    }
}
