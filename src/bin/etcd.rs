//! The program `etcd`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let name = std::iter::once("etcd".into());
    ExitCode::from(etcd_lab::cli::run(name.chain(std::env::args_os().skip(1)).collect()))
}
