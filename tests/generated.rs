//! The messages in `src/proto/generated` are what `proto/` says.
//!
//! They are checked in, so that nobody needs a protoc or a build script. After a change of a `.proto` file run
//! `UPDATE_GENERATED=1 cargo test --test generated` and commit what it wrote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Messages with a password, a hash or a token: `src/proto/redacted.rs` says how they are printed.
const SECRET: [&str; 6] = [
    "authpb.User",
    "etcdserverpb.AuthenticateRequest",
    "etcdserverpb.AuthenticateResponse",
    "etcdserverpb.AuthUserAddRequest",
    "etcdserverpb.AuthUserChangePasswordRequest",
    "etcdserverpb.InternalAuthenticateRequest",
];

/// Compiles `files` below `dir` and returns generated file name → text.
fn generate(includes: &[&str], files: &[&str], externs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let includes: Vec<PathBuf> = includes.iter().map(|dir| Path::new(ROOT).join(dir)).collect();
    let descriptors = protox::compile(files, &includes).expect("proto/ compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    let mut builder = tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::proto::Codec")
        .skip_debug(SECRET)
        // Told once to an observer, and larger than all other events together.
        .boxed("lab.v1.Event.kind.snapshot")
        .out_dir(out.path())
        .build_transport(false)
        .emit_rerun_if_changed(false);
    for (proto, rust) in externs {
        builder = builder.extern_path(*proto, *rust);
    }
    builder.compile_fds(descriptors).expect("code is generated");
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(out.path()).expect("the output directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        texts.insert(name, fs::read_to_string(&path).expect("generated text"));
    }
    texts
}

fn compare(dir: &str, texts: &BTreeMap<String, String>) {
    let dir = Path::new(ROOT).join(dir);
    let update = std::env::var_os("UPDATE_GENERATED").is_some();
    for (name, text) in texts {
        let path = dir.join(name);
        if update {
            fs::create_dir_all(&dir).expect("the directory can be made");
            fs::write(&path, text).expect("the file can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == *text,
            "{} is not what proto/ says: run `UPDATE_GENERATED=1 cargo test --test generated`",
            path.display()
        );
    }
}

#[test]
fn checked_in_descriptors_are_what_the_proto_files_say() {
    use prost::Message as _;
    let includes = ["proto/etcd", "proto/grpc"].map(|dir| Path::new(ROOT).join(dir));
    let files = ["rpc.proto", "lock.proto", "election.proto", "health.proto", "reflection.proto"];
    let mut set = protox::compile(files, includes).expect("proto/ compiles");
    // Where the words stand in the files is of no use to anybody.
    set.file.iter_mut().for_each(|file| file.source_code_info = None);
    let (path, bytes) = (Path::new(ROOT).join("src/proto/generated/descriptors.bin"), set.encode_to_vec());
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, &bytes).expect("the file can be written");
    }
    assert!(fs::read(&path).unwrap_or_default() == bytes, "{} is not what proto/ says", path.display());
}

#[test]
fn checked_in_messages_are_what_the_proto_files_say() {
    let raft = generate(&["proto/raft-proto"], &["eraftpb.proto"], &[]);
    compare("proto/raft-proto/src", &raft);

    let files = [
        "kv.proto",
        "auth.proto",
        "rpc.proto",
        "membership.proto",
        "raft_internal.proto",
        "lease.proto",
        "lock.proto",
        "election.proto",
        "wal.proto",
        "lab.proto",
    ];
    let mut ours =
        generate(&["proto/etcd", "proto/lab", "proto/raft-proto"], &files, &[(".eraftpb", "::raft_proto::eraftpb")]);
    ours.remove("eraftpb.rs");
    ours.extend(generate(&["proto/grpc"], &["reflection.proto"], &[]));
    ours.extend(generate(&["proto/otlp"], &["trace.proto"], &[]));
    assert!(ours.len() >= 10, "every package is generated: {:?}", ours.keys());
    compare("src/proto/generated", &ours);
}
