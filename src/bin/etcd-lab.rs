//! The program `etcd-lab`, which is also the other three when called by their names.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(etcd_lab::cli::run(std::env::args_os().collect()))
}
