//! The properties of `fuzz/` and `fuzz/daemon/`, over their corpora and a few thousand changes of them. The
//! fuzz targets look for counterexamples at length; each test run looks a little.

#[path = "../fuzz/daemon/src/lib.rs"]
#[allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "as in the targets"
)]
mod daemon;
#[path = "../fuzz/src/lib.rs"]
#[allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "as in the targets"
)]
mod protocol;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use protocol::Property;

/// Always the same, so that a failure comes again.
const SEED: u64 = 5;
/// Bytes of the longest input that is made of the corpus.
const LONGEST: usize = 4_096;

#[test]
fn handshakes() {
    replay("handshake", 20_000);
}

#[test]
fn values() {
    replay("value", 20_000);
}

#[test]
fn compressed_messages() {
    replay("compression", 10_000);
}

#[test]
fn the_relay_between_scripts() {
    replay("frames", 4_000);
}

#[test]
fn connection_strings() {
    replay("connection_string", 20_000);
}

#[test]
fn configurations() {
    replay("configuration", 1_500);
}

#[test]
fn console_requests() {
    replay("console", 2_000);
}

#[test]
fn requests_to_the_simulator() {
    replay("simulator", 400);
}

#[test]
fn tls_handshakes() {
    replay("tls", 300);
}

#[test]
fn every_target_has_its_property() {
    for (folder, properties) in suites() {
        let files = std::fs::read_dir(folder.join("fuzz_targets")).unwrap();
        let mut targets: Vec<_> = files
            .map(|file| file.unwrap().path().file_stem().unwrap().to_owned())
            .collect();
        targets.sort();
        let mut names: Vec<_> = properties.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(targets, names);
    }
}

/// The folders of both suites, with their properties.
fn suites() -> [(PathBuf, &'static [(&'static str, Property)]); 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [
        (root.join("fuzz"), &protocol::ALL),
        (root.join("fuzz/daemon"), &daemon::ALL),
    ]
}

fn replay(name: &str, changes: usize) {
    let found = suites().into_iter().find_map(|(folder, properties)| {
        let (_, property) = properties.iter().find(|(known, _)| *known == name)?;
        Some((folder, *property))
    });
    let (folder, property) = found.unwrap();
    let corpus = corpus(&folder.join("corpus").join(name));
    for bytes in &corpus {
        check(name, property, bytes);
    }
    let mut random = fastrand::Rng::with_seed(SEED);
    for _ in 0..changes {
        check(name, property, &changed(&corpus, &mut random));
    }
}

fn corpus(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn check(name: &str, property: Property, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| property(bytes))).is_err() {
        panic!("{name} does not hold for b\"{}\"", bytes.escape_ascii());
    }
}

/// One of the corpus with a few changes.
fn changed(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..=random.usize(..4) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..8)).min(bytes.len());
        match random.u8(..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(..8),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
            _ => bytes.insert(at, *random.choice(b"\0\x01\xff:[]\"'\n=`;. 9").unwrap()),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
