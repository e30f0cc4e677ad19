//! The book and the labs are true: their commands run, their outputs are those on the page, their checks can fail.
//!
//! Runs against our own programs; with `ETCD_DIR` set against the `etcd` and `etcdctl` in that folder, so that the same
//! pages can be held against upstream etcd.

use etcd_lab::lab::guide;
use etcd_lab::lab::guide::ProcessBeds;
use etcd_lab::lab::guide::SimBeds;
use futures::StreamExt as _;
use futures::stream;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn beds() -> ProcessBeds {
    let ours = Path::new(env!("CARGO_BIN_EXE_etcd")).parent().expect("a program lies in a folder").to_owned();
    beds_of(&std::env::var_os("ETCD_DIR").map_or(ours, PathBuf::from))
}

/// Clusters of the etcd in this folder.
fn beds_of(dir: &Path) -> ProcessBeds {
    ProcessBeds::new(dir, Path::new(env!("CARGO_BIN_EXE_etcd-lab"))).expect("etcd and etcdctl are there")
}

/// The Markdown files of a folder and those below it, sorted.
fn pages(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the folder can be read") {
        let path = entry.expect("its entries too").path();
        match path.extension() {
            _ if path.is_dir() => found.extend(pages(&path)),
            Some(e) if e == "md" => found.push(path),
            _ => {}
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

async fn holds(path: &Path) {
    holds_on(path, &beds()).await;
}

async fn holds_on(path: &Path, beds: &ProcessBeds) {
    let lab = guide::load(path).unwrap_or_else(|e| panic!("{e}"));
    let report = guide::prove(Arc::new(lab), beds).await.expect("a cluster starts");
    eprintln!("{}", report.text());
    assert!(report.passed(), "{}", report.text());
}

/// How many lessons are tried beside each other. Each waits for most of its time, and measures little.
const LESSONS_AT_ONCE: usize = 2;

/// Every lesson that has a command, on these clusters.
async fn all_lessons_hold(beds: &ProcessBeds) {
    let lessons = pages(&root().join("lessons"));
    // SUMMARY.md and the stubs of labs have nothing to run; whether they parse at all is the next test's question.
    let run = |page: &PathBuf| guide::load(page).is_ok_and(|lab| lab.runs().next().is_some());
    let lessons: Vec<PathBuf> = lessons.into_iter().filter(run).collect();
    assert!(lessons.len() > 11, "the chapters have commands");
    stream::iter(&lessons).map(|page| holds_on(page, beds)).buffered(LESSONS_AT_ONCE).collect::<()>().await;
}

#[tokio::test]
async fn every_lesson_prints_what_its_page_says() {
    all_lessons_hold(&beds()).await;
}

#[tokio::test]
#[ignore = "a minute and a half; wants ETCD_351, an etcd 3.5.1 with etcdctl and etcdutl beside it"]
async fn every_lesson_is_true_of_etcd_itself() {
    let etcd = PathBuf::from(std::env::var_os("ETCD_351").expect("ETCD_351 names an etcd 3.5.1"));
    all_lessons_hold(&beds_of(etcd.parent().expect("a program lies in a folder"))).await;
}

#[tokio::test]
async fn the_lab_three_strangers_holds() {
    holds(&root().join("labs/A1-three-strangers")).await;
}

#[tokio::test]
async fn the_lab_a_writes_journey_holds() {
    holds(&root().join("labs/A4-a-writes-journey")).await;
}

#[tokio::test]
async fn the_lab_majority_rules_holds() {
    holds(&root().join("labs/A6-majority-rules")).await;
}

#[tokio::test]
async fn the_lab_stale_reads_holds() {
    holds(&root().join("labs/A7-stale-reads")).await;
}

#[tokio::test]
async fn the_lab_first_keys_holds() {
    holds(&root().join("labs/B3-first-keys")).await;
}

#[tokio::test]
async fn the_lab_three_nodes_by_hand_holds() {
    holds(&root().join("labs/B4-three-nodes-by-hand")).await;
}

#[tokio::test]
async fn the_lab_ranges_and_order_holds() {
    holds(&root().join("labs/C1-ranges-and-order")).await;
}

#[tokio::test]
async fn the_lab_many_versions_holds() {
    holds(&root().join("labs/C2-many-versions")).await;
}

#[tokio::test]
async fn the_lab_transactions_holds() {
    holds(&root().join("labs/C3-transactions")).await;
}

#[tokio::test]
async fn the_lab_watch_holds() {
    holds(&root().join("labs/C4-watch")).await;
}

#[tokio::test]
async fn the_lab_leases_holds() {
    holds(&root().join("labs/C5-leases")).await;
}

#[tokio::test]
async fn the_lab_your_own_ca_holds() {
    holds(&root().join("labs/D1-your-own-ca")).await;
}

#[tokio::test]
async fn the_lab_museum_of_tls_failures_holds() {
    holds(&root().join("labs/D2-museum-of-tls-failures")).await;
}

#[tokio::test]
async fn the_lab_peers_too_holds() {
    holds(&root().join("labs/D3-peers-too")).await;
}

#[tokio::test]
async fn the_lab_save_and_inspect_holds() {
    holds(&root().join("labs/E2-save-and-inspect")).await;
}

#[tokio::test]
async fn the_lab_restore_holds() {
    holds(&root().join("labs/E3-restore")).await;
}

#[tokio::test]
async fn the_lab_replace_a_member_holds() {
    holds(&root().join("labs/E7-replace-a-member")).await;
}

#[tokio::test]
async fn the_lab_three_to_five_holds() {
    holds(&root().join("labs/E8-three-to-five")).await;
}

#[tokio::test]
async fn the_lab_majority_gone_holds() {
    holds(&root().join("labs/E9-majority-gone")).await;
}

#[tokio::test]
async fn the_lab_full_store_holds() {
    holds(&root().join("labs/E14-full-store")).await;
}

#[tokio::test]
async fn the_lab_users_roles_ranges_holds() {
    holds(&root().join("labs/D5-users-roles-ranges")).await;
}

#[tokio::test]
async fn the_lab_watch_the_gauges_holds() {
    holds(&root().join("labs/E10-watch-the-gauges")).await;
}

#[tokio::test]
async fn the_lab_only_the_api_server_holds() {
    holds(&root().join("labs/D4-only-the-api-server")).await;
}

#[tokio::test]
async fn the_lab_disk_level_copy_holds() {
    holds(&root().join("labs/E6-disk-level-copy")).await;
}

#[tokio::test]
async fn the_lab_restore_under_kubernetes_holds() {
    holds(&root().join("labs/E4-restore-under-kubernetes")).await;
}

#[tokio::test]
async fn the_lab_what_kubernetes_keeps_holds() {
    holds(&root().join("labs/F1-what-kubernetes-keeps")).await;
}

#[tokio::test]
async fn the_lab_desired_and_actual_holds() {
    holds(&root().join("labs/F2-desired-and-actual")).await;
}

#[tokio::test]
async fn the_lab_when_etcd_stops_holds() {
    holds(&root().join("labs/F3-when-etcd-stops")).await;
}

/// Its members are etcd's own program: 3.5.1, where it is (ETCD_351).
#[tokio::test]
async fn the_lab_a_stranger_joins_holds() {
    let lab = root().join("labs/E18-a-stranger-joins");
    let Some(etcd) = std::env::var_os("ETCD_351").map(PathBuf::from) else {
        assert!(std::env::var_os("CI_REQUIRE_FOREIGN").is_none(), "ETCD_351 names no etcd 3.5.1");
        return eprintln!("skipped: the lab a stranger joins: ETCD_351 names no etcd 3.5.1");
    };
    holds_on(&lab, &beds_of(etcd.parent().expect("a program lies in a folder"))).await;
}

#[test]
fn a_lab_about_etcd_says_where_to_get_it() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
    command.args(["test", "labs/E18-a-stranger-joins"]).current_dir(root());
    let out = command.output().expect("etcd-lab starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("apt-get download etcd-server") && said.contains("--engine etcd DIR"), "{said}");
}

/// The labs that allow it, on members in this process with a clock of their own: the same file, the same checks.
#[tokio::test]
async fn labs_that_allow_it_hold_on_simulated_members() {
    let mut tried = Vec::new();
    for (name, _) in guide::SHELF {
        let path = root().join("labs").join(name);
        let lab = guide::load(&path).unwrap_or_else(|e| panic!("{e}"));
        if lab.head.allows("sim") {
            let report = guide::prove(Arc::new(lab), &SimBeds::new(beds(), 1)).await.expect("a cluster starts");
            eprintln!("{}", report.text());
            assert!(report.passed() && report.lab.contains("simulated, seed 1"), "{}", report.text());
            tried.push(name);
        }
    }
    for name in ["A1-three-strangers", "A4-a-writes-journey", "A6-majority-rules"] {
        assert!(tried.contains(&name), "{name} allows it; these were tried: {tried:?}");
    }
}

/// What a lab's head does not allow, and what the simulation does not have, is said in words.
#[test]
fn a_lab_that_does_not_allow_the_simulation_says_so() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
    command.args(["test", "labs/D1-your-own-ca", "--engine", "sim"]).current_dir(root());
    let out = command.output().expect("etcd-lab starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("D1 does not allow the simulation"), "{said}");
}

/// A lab that asks the simulation for what it does not have, and says that it allows it.
const TOO_MUCH: &str = r#"# Too much
<!--lab lab
id = "X"; engines = ["sim"]
[cluster]
nodes = [ { name = "n1", ip = "10.0.0.1" }, { name = "n2", ip = "10.0.0.2" }, { name = "n3", ip = "10.0.0.3" } ]
-->

<!--lab run id = "lease"; expect_exit = 1 -->
```bash
echo a lease:; etcdctl lease grant 60
```
<!--lab expect -->
```text
a lease:
...
[..]the lab's simulation has no LeaseGrant: run this lab with --engine real[..]
```
<!--lab run id = "add"; expect_exit = 1 -->
```bash
echo a member:; etcdctl member add n4 --peer-urls=http://10.0.0.4:2380
```
<!--lab expect -->
```text
a member:
...
[..]the lab's simulation has no MemberAdd: run this lab with --engine real[..]
```
<!--lab run id = "flags"; on = ["n1"]; expect_exit = 1 -->
```bash
systemctl stop etcd; echo '# more' >>etc/systemd/system/etcd.service; systemctl daemon-reload; systemctl start etcd
```
<!--lab expect -->
```text
the unit file of etcd is another than at the beginning, and a simulated member has no flags: run this lab with --engine real
```
<!--lab run id = "part" -->
```bash
etcd-lab fault partition n1 \| n2,n3 && etcd-lab fault heal
```
<!--lab expect -->
```text
done: partition n1 | n2,n3
done: heal
```
<!--lab run id = "odd"; expect_exit = 1 -->
```bash
echo a clock:; etcd-lab fault clock-offset n1 +90s
```
<!--lab expect -->
```text
a clock:
Error: the simulation has no such thing; it has kill, [..]
```
"#;

#[tokio::test]
async fn what_the_simulation_does_not_have_is_named() {
    let lab = guide::parse(Path::new("much.md"), TOO_MUCH).unwrap_or_else(|e| panic!("{e}"));
    let report = guide::prove(Arc::new(lab), &SimBeds::new(beds(), 1)).await.expect("a cluster starts");
    assert!(report.passed(), "{}", report.text());
}

/// Labs whose nodes are machines run in a namespace that has networks for them, which is a process of its own. A system that gives none
/// says so by `LAB_NO_NAMESPACES=1`, or these tests fail: nothing is skipped by itself.
fn holds_on_machines(lab: &str, more: &[&str]) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"))
        .args(["test", lab])
        .args(more)
        .current_dir(root())
        .output()
        .expect("etcd-lab starts");
    let text = String::from_utf8_lossy(&out.stdout);
    let said = String::from_utf8_lossy(&out.stderr);
    eprintln!("{text}{said}");
    if std::env::var_os("LAB_NO_NAMESPACES").is_some() {
        assert!(said.contains("VMs of the Vagrantfile"), "{said}");
        return;
    }
    assert!(out.status.success(), "{text}{said}");
}

#[test]
fn a_lab_of_machines_get_the_binaries_holds() {
    holds_on_machines("labs/B1-get-the-binaries", &[]);
}

/// A program that knows its version, and is not so short that the first bytes of its archive are all of it.
fn stand_in(version: &str) -> String {
    let noise =
        (1_u64..200).map(|n| format!("# {:016x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(n as u32)));
    format!("#!/bin/sh\necho etcd Version: {version}\nexit\n{}", noise.collect::<String>())
}

/// Archives as the etcd project packs them, under the names that the documents download: of etcd 3.5.1 if it is there (ETCD_351), else of
/// two scripts; to the mirror that is the same.
fn archives(folder: &Path) {
    let real = std::env::var_os("ETCD_351").map(PathBuf::from);
    let mut sums = String::new();
    for version in ["v3.3.11", "v3.4.10"] {
        let name = format!("etcd-{version}-linux-amd64");
        let inner = folder.join(&name);
        std::fs::create_dir(&inner).expect("made");
        for program in ["etcd", "etcdctl"] {
            let to = inner.join(program);
            match &real {
                Some(etcd) => drop(std::fs::copy(etcd.with_file_name(program), &to).expect("copied")),
                None => std::fs::write(&to, stand_in(&version[1..])).expect("written"),
            }
            std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("may be run");
        }
        let command = format!("tar czf {name}.tar.gz {name} && rm -r {name} && sha256sum {name}.tar.gz");
        let out = std::process::Command::new("sh").args(["-c", &command]).current_dir(folder).output().expect("sh");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        sums += &String::from_utf8_lossy(&out.stdout);
    }
    std::fs::write(folder.join("SHA256SUMS"), sums).expect("written");
}

#[test]
fn the_lab_of_the_binaries_holds_with_real_archives_too() {
    let folder = tempfile::tempdir().expect("a folder");
    archives(folder.path());
    let folder = folder.path().to_str().expect("a plain path");
    holds_on_machines("labs/B1-get-the-binaries", &["--releases", folder]);
}

#[test]
fn a_lab_of_machines_one_node_holds() {
    holds_on_machines("labs/B2-one-node", &[]);
}

#[test]
fn a_lab_of_machines_the_hard_way_holds() {
    holds_on_machines("labs/B5-the-hard-way", &[]);
}

#[test]
fn a_lab_of_machines_is_it_healthy_holds() {
    holds_on_machines("labs/B6-is-it-healthy", &[]);
}

fn told(folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
    let out = command.args(words).current_dir(folder).output().expect("etcd-lab starts");
    (out.status.code(), format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)))
}

/// In one run, at the documents' addresses; what a system without namespaces cannot run stands in `labs/exceptions.toml`.
#[test]
fn every_command_of_the_documents_runs() {
    let (code, said) = told(root(), &["test", "--seeds"]);
    eprintln!("{said}");
    assert_eq!(code, Some(0), "{said}");
    let excepted = !said.contains("; 0 are exceptions");
    assert_eq!(excepted, std::env::var_os("LAB_NO_NAMESPACES").is_some(), "{said}");
}

/// The gate before can fail: a list with a command that no lab runs, and one that a lab runs otherwise.
#[test]
fn a_command_that_did_not_run_fails_the_gate() {
    let folder = tempfile::tempdir().expect("a folder");
    let lab = folder.path().join("labs/B3-first-keys");
    std::fs::create_dir_all(&lab).expect("made");
    std::fs::copy(root().join("labs/B3-first-keys/lab.md"), lab.join("lab.md")).expect("copied");
    let seed = |id: &str, text: &str| format!("[[seed]]\nid = '{id}'\nlab = 'B3'\ntext = '{text}'\nkind = 'runs'\n");
    let list =
        seed("001#10", "etcdctl get key") + &seed("001#14", "etcdctl get  key2") + &seed("001#99", "etcdctl del key");
    std::fs::write(folder.path().join("labs/seeds.toml"), list).expect("written");
    let (code, said) = told(folder.path(), &["test", "--seeds"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ok    001#10") && said.contains("FAIL  001#14") && said.contains("FAIL  001#99"), "{said}");
    assert!(said.contains("1 of 3 commands of the documents ran; 0 are exceptions, 2 are missing."), "{said}");
}

/// Where the system refuses namespaces, a lab that needs them says so, why, and what there is in their place.
#[test]
fn a_lab_of_machines_says_what_it_needs_where_namespaces_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let unshare = folder.path().join("unshare");
    // A child writes it: a file that another test's child has inherited open for writing is not run ("Text file busy").
    let write = "printf '%s' \"$1\" >\"$0\" && chmod 755 \"$0\"";
    let refuses = "#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2; exit 1\n";
    let written = std::process::Command::new("/bin/sh").args(["-c", write]).arg(&unshare).arg(refuses).status();
    assert!(written.expect("a shell").success(), "written");
    std::os::unix::fs::symlink("/bin/true", folder.path().join("ip")).expect("linked");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    for (lab, words) in [
        ("labs/B5-the-hard-way", &["Operation not permitted", "the nodes of this lab are machines", "Vagrantfile"][..]),
        ("labs/E7-replace-a-member", &["Operation not permitted", "--profile loop", "Vagrantfile"]),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
        command.args(["test", lab, "--profile", "netns"]).current_dir(root()).env("PATH", &path);
        let out = command.output().expect("etcd-lab starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(words.iter().all(|w| said.contains(w)), "{lab}: {said}");
    }
}

/// A lab with five lies in it. The gate must find each, and nothing else.
const LIES: &str = r#"# Lies
<!--lab lab
id = "X"
[cluster]
nodes = 1
-->

## One step
<!--lab step
id = "s"
[[check]]
id = "passes-at-once"; title = "the store has a revision"; want = "revision > 0"
[[check]]
id = "never-solved"; title = "b is 3"; want = "key('b').value == '3'"; within = "0s"
cause = [ { when = "key('b').exists", say = "b is not 3" }, { when = "key('c').exists", say = "c is there" } ]
[[wrong]]
id = "misnamed"; do = "etcdctl put b 2; etcdctl put c 2"; fails = "never-solved"; cause = 2
[[wrong]]
id = "named"; do = "etcdctl put b 2"; fails = "never-solved"; cause = 1
-->

<!--lab run id = "one" -->
```bash
etcdctl put a 1 && echo first
```
<!--lab expect -->
```text
OK
second
```
<!--lab run id = "two" -->
```bash
etcdctl put b 2 && echo second
```
<!--lab expect -->
```text
OK
first
```
<!--lab run id = "fails" -->
```bash
etcdctl nonsense
```

<details class="hint" data-level="1"><summary>Hint 1</summary>No.</details>
<details class="solution"><summary>Solution</summary>None.</details>
"#;

#[tokio::test]
async fn a_lab_that_lies_does_not_hold_and_every_lie_is_named() {
    let lab = guide::parse(Path::new("lies.md"), LIES).unwrap_or_else(|e| panic!("{e}"));
    let report = guide::prove(Arc::new(lab), &beds()).await.expect("a cluster starts");
    let failed: Vec<String> =
        report.cases.iter().filter(|c| c.failure.is_some()).map(|c| format!("{}: {}", c.group, c.name)).collect();
    let lies = [
        "author: step `s` is complete",
        "start: check `passes-at-once` says not yet",
        "solution: block `one`: etcdctl put a 1 && echo first",
        "solution: block `two`: etcdctl put b 2 && echo second",
        "solution: block `fails`: etcdctl nonsense",
        "solution: check `never-solved` passes: b is 3",
        "swap: 3 outputs, compared in pairs",
        "mutation: check `passes-at-once` notices when it is spoilt",
        "mutation: check `never-solved` notices when it is spoilt",
        "reset: check `passes-at-once` says not yet again",
        "wrong: `misnamed` is cause 2 of check `never-solved`",
    ];
    assert_eq!(failed, lies, "{}", report.text());
}

#[test]
fn every_page_can_be_read_and_includes_what_is_there() {
    for page in pages(&root().join("lessons")) {
        let text = read(&page);
        guide::parse(&page, &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(guide::broken_includes(&page, &text), Vec::<String>::new());
    }
}

#[test]
fn the_summary_names_every_page_and_only_those() {
    let summary = read(&root().join("lessons/SUMMARY.md"));
    let named: BTreeSet<String> =
        summary.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(path, _)| path.to_owned()).collect();
    let lessons = root().join("lessons");
    let there = pages(&lessons).into_iter().filter(|p| !p.ends_with("SUMMARY.md"));
    let there: BTreeSet<String> =
        there.map(|p| p.strip_prefix(&lessons).expect("below it").to_string_lossy().into_owned()).collect();
    assert_eq!(named, there);
}

#[test]
fn every_lab_stands_in_the_course_in_the_book_and_in_a_test() {
    let course: toml::Table = read(&root().join("labs/course.toml")).parse().expect("the course is TOML");
    let tracks = course["track"].as_array().expect("it has tracks");
    let listed: BTreeSet<String> = tracks
        .iter()
        .flat_map(|t| t["labs"].as_array().expect("a track has labs"))
        .map(|l| l.as_str().expect("a lab is a name").to_owned())
        .collect();
    let folders = std::fs::read_dir(root().join("labs")).expect("labs/ can be read");
    let folders = folders.map(|e| e.expect("its entries too")).filter(|e| e.path().is_dir());
    let there: BTreeSet<String> = folders.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    assert_eq!(listed, there);
    let this = read(&root().join("tests/lessons.rs"));
    for lab in there {
        let stub = read(&root().join(format!("lessons/labs/{lab}.md")));
        assert!(
            stub.contains(&format!("<!--lab page dir = \"labs/{lab}\" -->")),
            "lessons/labs/{lab}.md shows labs/{lab}"
        );
        assert!(this.contains(&format!("labs/{lab}\"")), "a test here runs labs/{lab}");
    }
}

#[test]
fn the_code_that_a_lesson_names_is_there() {
    let mut named = 0;
    for page in pages(&root().join("lessons")) {
        for line in read(&page).lines().filter(|l| l.starts_with("| `src/")) {
            let mut cells = line.split('|').map(|c| c.trim().trim_matches('`')).skip(1);
            let (file, name) = (cells.next().unwrap_or_default(), cells.next().unwrap_or_default());
            let code = read(&root().join(file));
            assert!(code.contains(name), "{}: {file} has no `{name}`", page.display());
            named += 1;
        }
    }
    assert!(named > 0, "no lesson names any code");
}

/// The table in the Vagrantfile, read without Ruby and without a hypervisor.
#[test]
fn the_machines_have_the_addresses_of_the_documents() {
    let text = read(&root().join("Vagrantfile"));
    let quoted = |s: &str| s.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let machines: Vec<(Vec<String>, String)> = text
        .lines()
        .filter(|l| l.trim_start().starts_with("{ name:"))
        .filter_map(|l| l.split_once("modes:"))
        .map(|(names, modes)| (quoted(names), modes.trim().trim_end_matches(" },").to_owned()))
        .collect();
    let row =
        |words: &[&str], modes: &str| (words.iter().map(ToString::to_string).collect::<Vec<_>>(), modes.to_owned());
    let expected = [
        row(&["controller-0", "10.240.0.10", "10.0.0.5", "10.2.0.9"], "%w[one three five]"),
        row(&["controller-1", "10.240.0.11", "10.0.0.2"], "%w[three five]"),
        row(&["controller-2", "10.240.0.12", "10.0.0.3"], "%w[three five]"),
        row(&["spare", "10.240.0.13", "10.0.0.4"], "%w[three five]"),
        row(&["spare-2", "10.240.0.14"], "%w[five]"),
        row(&["api", "10.240.0.20"], "%w[three five]"),
    ];
    assert_eq!(machines, expected);
}
