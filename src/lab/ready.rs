//! `etcd-lab preflight`: will this machine do for the course? Asked a week before, on the learner's own machine.
//!
//! Twenty looks, each with what to do about it. They leave nothing behind. The answers fit into nine letters, which a learner sends
//! to the teacher; `--read CODE` says on the teacher's machine what they mean.
#![expect(clippy::disallowed_methods, reason = "the disk's speed and the clock are what is looked at")]

use crate::lab::guide;
use crate::lab::preflight;
use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

const HELP: &str = "\
usage: etcd-lab preflight              20 looks at this machine, and a code for your teacher
       etcd-lab preflight --read CODE  what somebody's code says
";

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grade {
    Good = 0,
    /// The course works, with something less.
    Less = 1,
    /// It does not work like this.
    Bad = 2,
}

impl Grade {
    const ALL: [Grade; 3] = [Grade::Good, Grade::Less, Grade::Bad];

    fn word(self) -> &'static str {
        ["ok", "less", "NO"][self as usize]
    }
}

/// A look: its grade, and a sentence.
type Seen = (Grade, String);

/// One of the twenty.
struct Look {
    name: &'static str,
    ask: fn() -> Seen,
}

/// In the order of the code: a look keeps its place for ever.
const LOOKS: [Look; 20] = [
    Look { name: "system", ask: system },
    Look { name: "architecture", ask: architecture },
    Look { name: "processors", ask: processors },
    Look { name: "memory", ask: memory },
    Look { name: "disk space", ask: space },
    Look { name: "work folder", ask: folder },
    Look { name: "socket paths", ask: sockets },
    Look { name: "disk speed", ask: speed },
    Look { name: "open files", ask: open_files },
    Look { name: "terminal", ask: terminal },
    Look { name: "letters", ask: letters },
    Look { name: "variables", ask: variables },
    Look { name: "ports", ask: ports },
    Look { name: "loopback", ask: loopback },
    Look { name: "namespaces", ask: namespaces },
    Look { name: "virtualisation", ask: virtualisation },
    Look { name: "hypervisors", ask: hypervisors },
    Look { name: "addresses", ask: addresses },
    Look { name: "tunnels", ask: tunnels },
    Look { name: "clock", ask: clock },
];

fn good(said: impl Into<String>) -> Seen {
    (Grade::Good, said.into())
}

fn less(said: impl Into<String>) -> Seen {
    (Grade::Less, said.into())
}

fn bad(said: impl Into<String>) -> Seen {
    (Grade::Bad, said.into())
}

/// A number that is good from one value on and bad below another.
fn graded(have: u64, enough: u64, least: u64, said: String) -> Seen {
    match have {
        _ if have >= enough => good(said),
        _ if have >= least => less(said),
        _ => bad(said),
    }
}

fn system() -> Seen {
    match env::consts::OS {
        "linux" => good("Linux: every lab"),
        "macos" => {
            less("macOS: no labs with machines or the documents' addresses; the VMs of the Vagrantfile have them")
        }
        other => bad(format!("{other}: use Linux, macOS, or a VM of the Vagrantfile")),
    }
}

fn architecture() -> Seen {
    match env::consts::ARCH {
        arch @ ("x86_64" | "aarch64") => good(arch),
        other => less(format!("{other}: there are programs for amd64 and arm64; build your own")),
    }
}

fn processors() -> Seen {
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    graded(count, 2, 1, format!("{count}; with one, elections are slow while you compile or play films"))
}

fn memory() -> Seen {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    match line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()) {
        None => less("not known here; 1 GiB should be free"),
        Some(kib) => graded(
            kib >> 10,
            1024,
            256,
            format!("{} MiB free; 256 for the lab, 1024 to be at ease, 3072 for five VMs", kib >> 10),
        ),
    }
}

/// The nearest folder of the lab's that is there.
fn place() -> std::path::PathBuf {
    let base = preflight::bases().into_iter().next().unwrap_or_else(env::temp_dir);
    base.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn space() -> Seen {
    let place = place();
    match rustix::fs::statvfs(&place) {
        Err(e) => less(format!("{}: {e}", place.display())),
        Ok(stat) => {
            let mib = stat.f_bavail.saturating_mul(stat.f_frsize) >> 20;
            graded(mib, 2048, 300, format!("{mib} MiB free below {}; 300 for the lab, 2048 with VMs", place.display()))
        }
    }
}

fn folder() -> Seen {
    let place = place();
    let name = place.join(format!(".etcd-lab-preflight-{}", std::process::id()));
    match fs::create_dir(&name).and_then(|()| fs::remove_dir(&name)) {
        Ok(()) => good(format!("can be made below {}", place.display())),
        Err(e) => {
            less(format!("cannot be made below {} ({e}): the lab uses {}", place.display(), env::temp_dir().display()))
        }
    }
}

fn sockets() -> Seen {
    let longest = preflight::bases().first().map_or(0, |base| base.as_os_str().len());
    match longest {
        0..=70 => good("short enough"),
        n => bad(format!("the lab's folder has a path of {n} letters, and sockets need short ones: use --folder PATH")),
    }
}

fn speed() -> Seen {
    let name = place().join(format!(".etcd-lab-preflight-{}.sync", std::process::id()));
    let tried = || -> std::io::Result<Duration> {
        let mut file = fs::File::create(&name)?;
        let begin = Instant::now();
        for _ in 0..8 {
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
        }
        Ok(begin.elapsed() / 8)
    };
    let took = tried();
    // It may not have been made.
    let _ = fs::remove_file(&name);
    match took {
        Err(e) => less(format!("not measured: {e}")),
        Ok(took) => {
            let said = format!("a write is on the disk after {} ms", took.as_millis());
            if took < Duration::from_millis(50) {
                good(said)
            } else {
                less(format!("{said}: elections may come by themselves"))
            }
        }
    }
}

fn open_files() -> Seen {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    graded(most, 1024, 256, format!("{most} at once; `ulimit -n 4096` allows more"))
}

fn terminal() -> Seen {
    if env::var("TERM").is_ok_and(|term| term == "dumb") {
        return less("a dumb one: the lab prints plain text");
    }
    match crossterm::terminal::size() {
        Err(_) => less("none here: the lab prints plain text"),
        Ok((columns, rows)) if columns >= 80 && rows >= 24 => good(format!("{columns}x{rows}")),
        Ok((columns, rows)) => less(format!("{columns}x{rows}: make it 80x24 at least")),
    }
}

fn letters() -> Seen {
    let screen = preflight::Screen::detect(true, |name| env::var(name).ok());
    if screen.ascii { less("no UTF-8: pictures are drawn in ASCII. Set LANG=C.UTF-8") } else { good("UTF-8") }
}

/// Those of the variables that etcd or its clients read. Names and values may be any bytes.
fn etcds(all: impl Iterator<Item = (OsString, OsString)>) -> Vec<String> {
    let is_etcds =
        |name: &String| name.starts_with("ETCDCTL_") || (name.starts_with("ETCD_") && !name.starts_with("ETCD_LAB"));
    let names = all.map(|(name, _)| name.to_string_lossy().into_owned()).filter(is_etcds);
    names.filter(|name| name != "ETCDCTL_API").collect()
}

fn variables() -> Seen {
    let names = etcds(env::vars_os());
    match names.is_empty() {
        true => good("none of etcd's is set"),
        false => less(format!("{} set, and etcd reads them: unset them", names.join(", "))),
    }
}

fn ports() -> Seen {
    let wanted = preflight::PORTS.iter().take(3).flat_map(|(client, peer)| [*client, *peer]);
    let taken: Vec<String> =
        wanted.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err()).map(|p| p.to_string()).collect();
    match taken.is_empty() {
        true => good("2379, 2380 and the others are free"),
        false => less(format!("taken: {}. The lab uses others and says so; is an etcd running?", taken.join(", "))),
    }
}

fn loopback() -> Seen {
    match TcpListener::bind((Ipv4Addr::new(127, 0, 77, 10), 0)) {
        Ok(_) => good("all of 127.0.0.0/8 is here"),
        Err(_) => less("only 127.0.0.1: members have ports of their own in place of addresses"),
    }
}

fn namespaces() -> Seen {
    match guide::no_networks_of_its_own() {
        None => good("the lab can make networks of its own"),
        Some(why) => less(why),
    }
}

fn virtualisation() -> Seen {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |word: &str| info.split_whitespace().any(|w| w == word);
    if has("vmx") || has("svm") || Path::new("/dev/kvm").exists() {
        return good("on: VMs will run");
    }
    less("not seen: VMs may not run, and the lab needs none. It is switched on in the firmware (VT-x, AMD-V)")
}

fn hypervisors() -> Seen {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    match loaded("vboxdrv") && (loaded("kvm_intel") || loaded("kvm_amd")) {
        true => {
            less("VirtualBox and KVM are both loaded, and may take the processor from each other: unload one for VMs")
        }
        false => good("no two that are in each other's way"),
    }
}

/// The documents' networks, as (address, mask).
const DOCUMENTS: [([u8; 4], &str); 3] =
    [([10, 240, 0, 0], "10.240.0.0/24"), ([10, 0, 0, 0], "10.0.0.0/24"), ([10, 2, 0, 0], "10.2.0.0/24")];

/// Which of the documents' networks this table of routes (as in /proc/net/route) leads somewhere.
fn routed(table: &str) -> Vec<&'static str> {
    let lines = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| Some(u32::from_str_radix(fields.get(n)?, 16).ok()?.swap_bytes());
        Some((number(1)?, number(7)?))
    });
    // The default route leads everywhere, and so says nothing.
    let routes: Vec<(u32, u32)> = lines.filter(|(_, mask)| *mask != 0).collect();
    let meets = |ip: [u8; 4]| {
        let ip = u32::from_be_bytes(ip);
        routes.iter().any(|(net, mask)| (ip ^ net) & mask & 0xffff_ff00 == 0)
    };
    DOCUMENTS.iter().filter(|(ip, _)| meets(*ip)).map(|(_, name)| *name).collect()
}

fn addresses() -> Seen {
    let taken = routed(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    match taken.is_empty() {
        true => good("10.240.0.0/24, 10.0.0.0/24 and 10.2.0.0/24 are nobody's here"),
        false => less(format!("{} leads elsewhere: VMs and that network are in each other's way", taken.join(", "))),
    }
}

fn tunnels() -> Seen {
    let names = fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|e| e.file_name());
    let is_tunnel = |name: &String| ["tun", "wg", "ppp", "utun", "tailscale"].iter().any(|t| name.starts_with(t));
    let up: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).filter(is_tunnel).collect();
    match up.is_empty() {
        true => good("no VPN"),
        false => {
            less(format!("{}: a VPN may take the documents' addresses. Leave it off in the course", up.join(", ")))
        }
    }
}

/// When this program was built, in seconds since 1970. Its file's time says less: a copy has that of another machine, or that of now.
const BUILT: &str = env!("ETCD_LAB_BUILT");

fn clock() -> Seen {
    let built = BUILT.parse().map_or(SystemTime::UNIX_EPOCH, |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
    clock_at(SystemTime::now(), built)
}

fn clock_at(now: SystemTime, built: SystemTime) -> Seen {
    // The clock of the machine on which it was built may be a little ahead.
    if now + Duration::from_hours(24) < built {
        return bad("it is set before the day on which this program was built: certificates will not be valid yet");
    }
    good("not before the day on which this program was built")
}

/// Letters that are not taken for each other when somebody reads them out.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Nine letters: two bits for each look, and one letter that tells a slip.
fn code(grades: &[Grade]) -> String {
    let bits = grades.iter().rev().fold(0u64, |bits, grade| bits << 2 | *grade as u64);
    let letters = (0..8).map(|n| (bits >> (5 * n) & 31) as usize);
    // Odd weights: each other letter at a place makes another sum.
    let check = letters.clone().enumerate().map(|(n, l)| (2 * n + 1) * l).sum::<usize>() % 32;
    let all: String = letters.chain([check]).map(|l| char::from(LETTERS[l])).collect();
    format!("{}-{}-{}", &all[..3], &all[3..6], &all[6..])
}

/// The grades of a code.
fn read(code: &str) -> Result<Vec<Grade>, String> {
    let wrong =
        || format!("{code:?} is no code of a preflight: nine letters, such as {}", self::code(&[Grade::Good; 20]));
    let letters = code.chars().filter(|c| *c != '-' && !c.is_whitespace());
    let numbers: Option<Vec<usize>> =
        letters.map(|c| LETTERS.iter().position(|l| char::from(*l) == c.to_ascii_uppercase())).collect();
    let numbers = numbers.filter(|n| n.len() == 9).ok_or_else(wrong)?;
    let bits = numbers[..8].iter().rev().fold(0u64, |bits, n| bits << 5 | *n as u64);
    let grades: Option<Vec<Grade>> = (0..20).map(|n| Grade::ALL.get((bits >> (2 * n) & 3) as usize).copied()).collect();
    let grades = grades.ok_or_else(wrong)?;
    if self::code(&grades).replace('-', "") != numbers.iter().map(|n| char::from(LETTERS[*n])).collect::<String>() {
        return Err(format!("{code:?} has a slip in it: ask for it once more"));
    }
    Ok(grades)
}

/// `etcd-lab preflight`. 0: the course works here; 1: it does not.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (text, worst) = match args {
        [] => looked(),
        [word, code] if word == "--read" => match read(code) {
            Ok(grades) => told(&grades),
            Err(why) => {
                drop(writeln!(err, "Error: {why}"));
                return 2;
            }
        },
        [word] if word == "--help" || word == "-h" => (HELP.to_owned(), Grade::Good),
        _ => {
            drop(write!(err, "Error: etcd-lab preflight knows only --read CODE\n{HELP}"));
            return 2;
        }
    };
    // A reader that is gone is no failure.
    drop(out.write_all(text.as_bytes()));
    u8::from(worst == Grade::Bad)
}

fn looked() -> (String, Grade) {
    let mut text = String::new();
    let mut grades = Vec::new();
    for look in &LOOKS {
        let (grade, said) = (look.ask)();
        let _ = writeln!(text, "{:<5} {:<15} {said}", grade.word(), look.name);
        grades.push(grade);
    }
    let worst = worst(&grades);
    let verdict =
        ["All is well.", "The course works here, with less where it says so.", "Not like this: see NO above."];
    let _ = writeln!(text, "\n{} Send this to your teacher: {}", verdict[worst as usize], code(&grades));
    (text, worst)
}

fn worst(grades: &[Grade]) -> Grade {
    grades.iter().copied().max_by_key(|g| *g as u8).unwrap_or(Grade::Good)
}

fn told(grades: &[Grade]) -> (String, Grade) {
    let mut text = String::new();
    for (look, grade) in LOOKS.iter().zip(grades).filter(|(_, grade)| **grade != Grade::Good) {
        let _ = writeln!(text, "{:<5} {}", grade.word(), look.name);
    }
    if text.is_empty() {
        text = "All twenty are well.\n".into();
    }
    (text, worst(grades))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_comes_back_and_a_slip_in_it_is_noticed() {
        let mut grades = vec![Grade::Good; 20];
        (grades[3], grades[14], grades[19]) = (Grade::Bad, Grade::Less, Grade::Less);
        let code = code(&grades);
        assert_eq!(code.len(), 11, "{code}");
        assert_eq!(read(&code), Ok(grades.clone()));
        assert_eq!(read(&code.to_lowercase().replace('-', " ")), Ok(grades.clone()));
        assert_eq!(told(&grades).0, "NO    memory\nless  namespaces\nless  clock\n");
        // Each other letter at each place.
        let letters: Vec<char> = code.replace('-', "").chars().collect();
        for place in 0..9 {
            for other in LETTERS.iter().map(|l| char::from(*l)).filter(|l| *l != letters[place]) {
                let mut slip = letters.clone();
                slip[place] = other;
                let slip: String = slip.into_iter().collect();
                assert!(read(&slip).is_err(), "{code} and {slip}");
            }
        }
        assert!(read("AAA").expect_err("too short").contains("nine letters"));
    }

    #[test]
    fn a_route_to_the_documents_addresses_is_seen_and_the_default_route_is_none() {
        let table = |rows: &str| format!("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n{rows}");
        let default = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\n";
        assert!(routed(&table(default)).is_empty());
        let vpn = "tun0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\n";
        assert_eq!(routed(&table(&format!("{default}{vpn}"))), ["10.240.0.0/24", "10.0.0.0/24", "10.2.0.0/24"]);
        let virtualbox = "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n";
        assert!(routed(&table(virtualbox)).is_empty(), "10.0.2.0/24 is another network");
        assert_eq!(routed(&table("eth1\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n")), ["10.0.0.0/24"]);
    }

    #[test]
    fn variables_of_etcd_are_seen_among_any_bytes() {
        use std::os::unix::ffi::OsStringExt as _;
        let set = [&b"LESSOPEN"[..], b"ETCD_\xe9", b"ETCDCTL_ENDPOINTS", b"ETCDCTL_API", b"ETCD_LAB_X", b"\xe9"];
        let set = set.map(|name| (OsString::from_vec(name.to_vec()), OsString::from_vec(vec![0xe9])));
        assert_eq!(etcds(set.into_iter()), ["ETCD_\u{fffd}", "ETCDCTL_ENDPOINTS"]);
    }

    #[test]
    fn a_clock_before_the_programs_day_is_wrong_and_one_that_goes_a_little_behind_is_not() {
        let built = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let grade = |now| clock_at(now, built).0;
        assert_eq!(grade(SystemTime::UNIX_EPOCH), Grade::Bad);
        assert_eq!(grade(built - Duration::from_hours(25)), Grade::Bad);
        assert_eq!(grade(built - Duration::from_mins(5)), Grade::Good);
        assert_eq!(grade(built + Duration::from_hours(1)), Grade::Good);
        // Of this program itself: a number, and not before this was written.
        assert!(BUILT.parse::<u64>().is_ok_and(|secs| secs > 1_700_000_000), "{BUILT}");
    }

    #[test]
    fn the_code_in_the_teachers_page_is_one() {
        let page = include_str!("../../lessons/running-the-course.md");
        let code = page.split("a code such as `").nth(1).and_then(|rest| rest.split('`').next()).expect("it shows one");
        assert_eq!(read(code).map(|grades| told(&grades).0), Ok("less  namespaces\n".into()), "{code}");
    }

    #[test]
    fn all_twenty_are_looked_at() {
        let (text, _) = looked();
        assert_eq!(text.lines().count(), LOOKS.len() + 2, "{text}");
        let code = text.trim_end().rsplit(' ').next().expect("a code");
        assert_eq!(read(code).map(|g| g.len()), Ok(20));
    }
}
