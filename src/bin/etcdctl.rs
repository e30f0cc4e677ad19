//! The program `etcdctl`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let name = std::iter::once("etcdctl".into());
    ExitCode::from(etcd_lab::cli::run(name.chain(std::env::args_os().skip(1)).collect()))
}
