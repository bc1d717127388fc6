//! The folders of `src/` are layers: each uses the folders below it, and none above it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// From the lowest layer to the highest, as ARCHITECTURE.md lists them.
const LAYERS: [&str; 16] = [
    "primitives",
    "config",
    "policy",
    "identity",
    "upstream",
    "credential",
    "telemetry",
    "route",
    "limits",
    "console",
    "session",
    "listener",
    "surface",
    "doctor",
    "daemon",
    "cli",
];

#[test]
fn no_folder_imports_from_a_folder_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = String::new();
    let mut imports = 0;
    for (rank, layer) in LAYERS.iter().enumerate() {
        for path in sources(&root.join(layer)) {
            let text = std::fs::read_to_string(&path).unwrap();
            // Tests may build a whole daemon.
            let (code, _) = text
                .split_once("#[cfg(test)]\nmod tests {")
                .unwrap_or((&text, ""));
            let code = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                for (upper, name) in LAYERS.iter().enumerate() {
                    let import = format!("crate::{name}");
                    let Some((_, rest)) = line.split_once(&import) else {
                        continue;
                    };
                    if !rest.starts_with([':', ';']) {
                        continue;
                    }
                    imports += 1;
                    if upper > rank {
                        let _ = writeln!(wrong, "{}: {}", path.display(), line.trim());
                    }
                }
            }
        }
    }
    assert!(imports > 300, "only {imports} imports were found");
    assert!(wrong.is_empty(), "imports from a layer above:\n{wrong}");
}

#[test]
fn every_folder_has_a_layer_and_architecture_md_lists_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.is_dir() {
            assert!(LAYERS.contains(&name), "src/{name} has no layer");
            assert!(text.contains(&format!("| `{name}/` |")), "{name}");
        }
    }
}

/// The Rust files of a folder, except test modules in files of their own.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if name != "tests" {
                found.extend(sources(&path));
            }
        } else if path.extension().is_some_and(|end| end == "rs") && !name.ends_with("tests") {
            found.push(path);
        }
    }
    found
}
